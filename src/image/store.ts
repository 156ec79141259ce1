// Where the parts of a container image lie: files of a folder, or of a tar archive. Both are read by name and piece by piece.

import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { type ByteSource, FileSource, piecesOf, StreamSource } from './byte-source.js';
import { openRegular } from './content.js';
import { hostFailure, ImageError } from './errors.js';
import { shown, splitPath } from './names.js';
import { TarReader } from './tar-reader.js';

/** The parts of an image by their names. `close` releases it. */
export interface Store {
  /** The folder or archive, as errors name it. */
  readonly file: string;
  /** Throws ImageError. */
  has(name: string): Promise<boolean>;
  /** Bytes of a part, and the part piece by piece. Throws ImageError not-found. */
  size(name: string): Promise<number>;
  pieces(name: string): AsyncGenerator<Buffer>;
  close(): Promise<void>;
}

/** More than any image has parts; the list of them is in memory. */
const MAX_PARTS = 100_000;
/** Manifests and configurations are some kilobytes. */
const MAX_DOCUMENT = 4 * 1024 * 1024;

const REMADE = 'save the image again';

function missing(file: string, name: string): ImageError {
  return new ImageError('not-found', file, `there is no ${shown(name)} in it`, REMADE);
}

/** A folder. Names are of our making, or digests that were checked: never paths out of it. */
export class FolderStore implements Store {
  readonly file: string;

  constructor(folder: string) {
    this.file = folder;
  }

  async has(name: string): Promise<boolean> {
    try {
      const file = await open(join(this.file, name), constants.O_RDONLY | constants.O_NONBLOCK);
      await file.close();
      return true;
    } catch (error) {
      const failure = hostFailure(join(this.file, name), error);
      if (failure instanceof ImageError && failure.code === 'not-found') return false;
      throw failure;
    }
  }

  async size(name: string): Promise<number> {
    const { file, size } = await openRegular(join(this.file, name));
    await file.close();
    return size;
  }

  async *pieces(name: string): AsyncGenerator<Buffer> {
    const path = join(this.file, name);
    const { file, size } = await openRegular(path);
    try {
      yield* piecesOf(new FileSource(file, 0, size));
    } catch (error) {
      throw hostFailure(path, error);
    } finally {
      await file.close();
    }
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

interface Part {
  readonly start: number;
  readonly size: number;
}

/** A tar archive that is not compressed, whose entries were looked through once. */
export class TarStore implements Store {
  readonly file: string;
  private readonly handle: FileHandle;
  private readonly parts: ReadonlyMap<string, Part>;

  private constructor(name: string, handle: FileHandle, parts: ReadonlyMap<string, Part>) {
    this.file = name;
    this.handle = handle;
    this.parts = parts;
  }

  /** `name` is what errors call the archive at `path`. Throws ImageError. */
  static async open(path: string, name: string, signal: AbortSignal | undefined): Promise<TarStore> {
    const { file, size } = await openRegular(path, true);
    try {
      return new TarStore(name, file, await partsOf(new FileSource(file, 0, size), name, signal));
    } catch (error) {
      await file.close();
      throw hostFailure(name, error);
    }
  }

  has(name: string): Promise<boolean> {
    return Promise.resolve(this.parts.has(name));
  }

  size(name: string): Promise<number> {
    return Promise.resolve(this.part(name).size);
  }

  async *pieces(name: string): AsyncGenerator<Buffer> {
    const { start, size } = this.part(name);
    let left = size;
    for await (const piece of piecesOf(new FileSource(this.handle, start, size))) {
      left -= piece.length;
      yield piece;
    }
    if (left > 0) throw new ImageError('changed', this.file, 'it was cut while it was read', REMADE);
  }

  close(): Promise<void> {
    return this.handle.close();
  }

  private part(name: string): Part {
    const part = this.parts.get(name);
    if (part === undefined) throw missing(this.file, name);
    return part;
  }
}

async function partsOf(
  source: ByteSource,
  file: string,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, Part>> {
  const parts = new Map<string, Part>();
  // Old versions of docker save a layer that two images have as a link to its other copy.
  const links: [name: string, target: string][] = [];
  const reader = new TarReader(source, file);
  for (let entry = await reader.next(); entry !== undefined; entry = await reader.next()) {
    signal?.throwIfAborted();
    const name = splitPath(entry.name, file).join('/');
    if (entry.kind === 'file') parts.set(name, { start: source.position, size: entry.size });
    if (entry.kind === 'symlink') links.push([name, posix.join(posix.dirname(name), entry.linkName)]);
    if (entry.kind === 'hardlink') links.push([name, splitPath(entry.linkName, file).join('/')]);
    if (parts.size + links.length > MAX_PARTS) {
      throw new ImageError('too-large', file, `there are more than ${MAX_PARTS} files in it`, REMADE);
    }
  }
  for (const [name, target] of links) {
    const part = parts.get(target);
    if (part !== undefined && !parts.has(name)) parts.set(name, part);
  }
  return parts;
}

/** A small part as a whole. Throws ImageError. */
export async function readDocument(store: Store, name: string): Promise<Buffer> {
  if (!(await store.has(name))) throw missing(store.file, name);
  const size = await store.size(name);
  if (size > MAX_DOCUMENT) {
    const detail = `${shown(name)} has ${size} bytes, which no manifest has`;
    throw new ImageError('bad-manifest', store.file, detail, REMADE);
  }
  return new StreamSource(store.pieces(name)).read(size);
}
