// From the host into the guest: walks the tree here and sends it; the agent builds it under a temporary name and renames it.
// Main thread.

import { constants, type Stats } from 'node:fs';
import { lstat, open, readdir, readlink } from 'node:fs/promises';
import { CHUNK, type CopyOptions, DEPTH_MAX, guestPathBytes, hostError, ProgressCounter, refuseNul } from './copy.js';
import { crc32 } from './crc32.js';
import { AgentError } from './errors.js';
import { FRAME, words } from './protocol.js';
import { AgentSession } from './session.js';
import type { AgentTransport } from './transport.js';

const MODE_MASK = 0o7777;
const NOTHING = Buffer.alloc(0);

/** Copies `hostPath` to `guestPath`, its final name. Rejects with AgentError. */
export async function copyIn(
  transport: AgentTransport,
  port: number,
  [hostPath, guestPath]: readonly [string, string],
  { signal, onProgress }: CopyOptions,
): Promise<void> {
  const path = guestPathBytes(guestPath);
  refuseNul(hostPath);
  const session = await AgentSession.open(transport, port, { signal });
  const onAbort = (): void => {
    session.destroy();
  };
  signal?.addEventListener('abort', onAbort);
  if (signal?.aborted === true) onAbort();
  try {
    session.send(FRAME.PUT, path);
    const sender = new TreeSender(session, new ProgressCounter(onProgress));
    // The agent says nothing before the end, unless something is wrong; then it is heard while the rest is not sent.
    const done = session.expect(FRAME.DONE);
    done.catch((error: unknown) => {
      sender.stop(error);
      // Nothing of what is on its way is wanted, and nobody may be reading it.
      session.destroy();
    });
    try {
      await sender.sendEntry(Buffer.from(hostPath), NOTHING, 0);
      await session.sendAll(FRAME.TREE_END);
    } catch (error) {
      // That the connection broke off says less than why the agent ended it.
      if (error instanceof AgentError && error.code === 'GUEST_GONE') await done;
      throw error;
    }
    await done;
    session.close();
  } catch (error) {
    session.destroy();
    if (signal?.aborted === true) throw new AgentError('ABORTED', 'the copy was aborted', { cause: signal.reason });
    throw hostError(error, hostPath);
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

class TreeSender {
  private readonly session: AgentSession;
  private readonly progress: ProgressCounter;
  private stopped: Error | undefined;

  constructor(session: AgentSession, progress: ProgressCounter) {
    this.session = session;
    this.progress = progress;
  }

  /** What is being sent ends with `error`. */
  stop(error: unknown): void {
    this.stopped = error instanceof Error ? error : new Error(String(error));
  }

  async sendEntry(path: Buffer, name: Buffer, depth: number): Promise<void> {
    const status = await lstat(path);
    if (status.isDirectory()) await this.sendFolder(path, { name, mode: status.mode & MODE_MASK, depth });
    else if (status.isFile()) await this.sendFile(path, name);
    else if (status.isSymbolicLink()) {
      const target = await readlink(path, { encoding: 'buffer' });
      await this.send(FRAME.LINK, Buffer.concat([name, Buffer.from([0]), target]));
    } else throw unsupported(path);
    this.progress.addEntry();
  }

  private async sendFolder(
    path: Buffer,
    { name, mode, depth }: { readonly name: Buffer; readonly mode: number; readonly depth: number },
  ): Promise<void> {
    if (depth === DEPTH_MAX) throw unsupported(path);
    await this.send(FRAME.DIR, Buffer.concat([words(mode), name]));
    // Names are bytes: not every one is UTF-8.
    for (const entry of await readdir(path, { encoding: 'buffer' })) {
      await this.sendEntry(Buffer.concat([path, Buffer.from('/'), entry]), entry, depth + 1);
    }
    await this.send(FRAME.UP);
  }

  private async sendFile(path: Buffer, name: Buffer): Promise<void> {
    // A FIFO that has taken the file's place would make an ordinary open wait.
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const status = await file.stat();
      if (!status.isFile()) throw unsupported(path);
      // Only the top has no name.
      if (name.length === 0) this.progress.expect(status.size);
      await this.send(FRAME.FILE, Buffer.concat([fileHead(status), name]));
      let size = 0;
      let crc = 0;
      for (;;) {
        // The stream still holds the piece that was sent last.
        const buffer = Buffer.allocUnsafe(CHUNK);
        const { bytesRead } = await file.read(buffer, 0, CHUNK, null);
        if (bytesRead === 0) break;
        const piece = buffer.subarray(0, bytesRead);
        crc = crc32(piece, crc);
        size += bytesRead;
        await this.send(FRAME.DATA, piece);
        this.progress.addBytes(bytesRead);
      }
      await this.send(FRAME.FILE_END, fileEnd(size, crc));
    } finally {
      await file.close();
    }
  }

  private async send(type: number, payload?: Uint8Array): Promise<void> {
    if (this.stopped !== undefined) throw this.stopped;
    await this.session.sendAll(type, payload);
  }
}

function fileHead({ mode, size }: Stats): Buffer {
  const head = Buffer.alloc(12);
  head.writeUInt32LE(mode & MODE_MASK, 0);
  head.writeBigUInt64LE(BigInt(size), 4);
  return head;
}

function fileEnd(size: number, crc: number): Buffer {
  const end = Buffer.alloc(12);
  end.writeBigUInt64LE(BigInt(size), 0);
  end.writeUInt32LE(crc, 8);
  return end;
}

function unsupported(path: Buffer): AgentError {
  const what = 'is no file, folder or symbolic link, or is nested too deeply';
  return new AgentError('UNSUPPORTED_FILE', `${path.toString()} on the host ${what}`, { side: 'host' });
}
