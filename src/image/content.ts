// Reads the content of a file of the tree, exactly as many bytes as its entry has promised.

import { constants, open, type FileHandle } from 'node:fs/promises';
import { FileSource, piecesOf } from './byte-source.js';
import { hostFailure, ImageError } from './errors.js';
import type { Content } from './tree.js';

/** Opens a regular file, and no link to one. The caller closes it. Throws ImageError. */
export async function openRegular(
  path: string | Buffer,
  followLinks = false,
): Promise<{ file: FileHandle; size: number }> {
  const name = path.toString();
  let file: FileHandle;
  try {
    // O_NONBLOCK: opening a FIFO must end in an error, not in waiting for a writer.
    const follow = followLinks ? 0 : constants.O_NOFOLLOW;
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | follow);
  } catch (error) {
    throw hostFailure(name, error);
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new ImageError('wrong-kind', name, 'it is not a regular file', 'name a regular file');
    return { file, size: stat.size };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The bytes of `content`. Throws ImageError. */
export async function* contentPieces(content: Content): AsyncGenerator<Buffer> {
  if (content.kind === 'bytes') {
    const { buffer, byteOffset, byteLength } = content.bytes;
    if (byteLength > 0) yield Buffer.from(buffer, byteOffset, byteLength);
    return;
  }
  const { path, size } = content;
  const name = path.toString();
  const { file, size: actual } = await openRegular(path);
  try {
    let left = size;
    if (actual === size) {
      for await (const piece of piecesOf(new FileSource(file, 0, size))) {
        left -= piece.length;
        yield piece;
      }
    }
    if (left !== 0) {
      const detail = `it had ${size} bytes when the image was begun, and has ${actual} now`;
      throw new ImageError('changed', name, detail, 'build the image while nothing writes there');
    }
  } catch (error) {
    throw hostFailure(name, error);
  } finally {
    await file.close();
  }
}
