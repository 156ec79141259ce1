// Bytes to be read in order, from a stream or a file, without ever holding more than a piece of them.

import type { FileHandle } from 'node:fs/promises';

/** As much as is read from a file at once. */
export const PIECE = 256 * 1024;

export interface ByteSource {
  /** Bytes read or skipped so far. */
  readonly position: number;
  /** `count` bytes, or fewer where the source ends. */
  read(count: number): Promise<Buffer>;
  /** At most `most` bytes, as they come; none at the end. */
  piece(most: number): Promise<Buffer>;
  /** Goes past `count` bytes; returns how many there were. */
  skip(count: number): Promise<number>;
}

/** Over anything that yields bytes. Closing it is its owner's. */
export class StreamSource implements ByteSource {
  position = 0;
  private readonly pieces: AsyncIterator<Uint8Array>;
  private held: Buffer = Buffer.alloc(0);

  constructor(pieces: AsyncIterable<Uint8Array>) {
    this.pieces = pieces[Symbol.asyncIterator]();
  }

  async read(count: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    let left = count;
    while (left > 0) {
      const part = await this.piece(left);
      if (part.length === 0) break;
      parts.push(part);
      left -= part.length;
    }
    return parts.length === 1 ? parts[0] : Buffer.concat(parts);
  }

  async piece(most: number): Promise<Buffer> {
    while (this.held.length === 0) {
      const next = await this.pieces.next();
      if (next.done === true) return this.held;
      this.held = Buffer.from(next.value.buffer, next.value.byteOffset, next.value.byteLength);
    }
    const piece = this.held.subarray(0, most);
    this.held = this.held.subarray(piece.length);
    this.position += piece.length;
    return piece;
  }

  async skip(count: number): Promise<number> {
    let left = count;
    while (left > 0) {
      const piece = await this.piece(left);
      if (piece.length === 0) break;
      left -= piece.length;
    }
    return count - left;
  }
}

/** Over `size` bytes of an open file from `start`; skipping reads nothing. The file is its owner's to close. */
export class FileSource implements ByteSource {
  position = 0;
  private readonly file: FileHandle;
  private readonly start: number;
  private readonly size: number;

  constructor(file: FileHandle, start: number, size: number) {
    this.file = file;
    this.start = start;
    this.size = size;
  }

  async read(count: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(Math.max(0, Math.min(count, this.size - this.position)));
    let done = 0;
    while (done < bytes.length) {
      const at = this.start + this.position + done;
      const { bytesRead } = await this.file.read(bytes, done, bytes.length - done, at);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    this.position += done;
    return bytes.subarray(0, done);
  }

  piece(most: number): Promise<Buffer> {
    return this.read(Math.min(most, PIECE));
  }

  skip(count: number): Promise<number> {
    const step = Math.max(0, Math.min(count, this.size - this.position));
    this.position += step;
    return Promise.resolve(step);
  }
}

/** The rest of `source`, piece by piece. */
export async function* piecesOf(source: ByteSource): AsyncGenerator<Buffer> {
  for (;;) {
    const piece = await source.piece(PIECE);
    if (piece.length === 0) return;
    yield piece;
  }
}
