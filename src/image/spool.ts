// A folder of ours beside the output, for contents that have to wait: files of archives, until the tree is complete. Their
// names there are numbers; no name of an archive comes near the host's file system.

import { createWriteStream } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { hostFailure } from './errors.js';
import type { Content } from './tree.js';

/** What is smaller stays in memory: most files of a root are, and in sum they are little. */
const SMALL = 2048;

export class Spool implements AsyncDisposable {
  readonly directory: string;
  private readonly signal: AbortSignal | undefined;
  private count = 0;

  private constructor(directory: string, signal: AbortSignal | undefined) {
    this.directory = directory;
    this.signal = signal;
  }

  /** Beside `output`, since that disk must have the room anyway. Throws ImageError. */
  static async open(output: string, signal?: AbortSignal): Promise<Spool> {
    try {
      return new Spool(await mkdtemp(join(dirname(resolve(output)), `.${basename(output)}.`)), signal);
    } catch (error) {
      throw hostFailure(dirname(output), error);
    }
  }

  /** A path in the folder that nothing has yet. */
  newPath(): string {
    return join(this.directory, `f${this.count++}`);
  }

  /** Keeps all of `pieces`. Throws what they throw, and ImageError. */
  async keep(pieces: AsyncIterable<Buffer>): Promise<Content> {
    const head: Buffer[] = [];
    let size = 0;
    const iterator = pieces[Symbol.asyncIterator]();
    for (;;) {
      const next = await iterator.next();
      if (next.done === true) return { kind: 'bytes', bytes: Buffer.concat(head) };
      // A copy: a piece may be part of a buffer that is a hundred times as large.
      head.push(Buffer.from(next.value));
      size += next.value.length;
      if (size > SMALL) break;
    }
    const path = this.newPath();
    const counted = async function* (): AsyncGenerator<Buffer> {
      yield* head;
      for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) {
        size += next.value.length;
        yield next.value;
      }
    };
    try {
      await pipeline(counted(), createWriteStream(path, { mode: 0o600 }), { signal: this.signal });
    } catch (error) {
      throw hostFailure(path, error);
    }
    return { kind: 'host', path, size };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.directory, { recursive: true, force: true });
  }
}
