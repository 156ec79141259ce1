// Bytes that say which stream they belong to and where: a lost, doubled or strayed byte is found where it happens.

import { Random } from './random.js';

const PERIOD = 65_521; // A prime: no buffer size lines up with it.
/** The most that one call gives. */
export const MAX_PATTERN = 64 * 1024;

const table = Buffer.alloc(PERIOD + MAX_PATTERN);
const random = new Random(1);
for (let index = 0; index < PERIOD; index++) table[index] = random.bits();
for (let index = PERIOD; index < table.length; index++) table[index] = table[index - PERIOD];

/** Bytes [position, position + length) of stream `stream`: at most MAX_PATTERN, and not to be written to. */
export function patternAt(stream: number, position: number, length: number): Buffer {
  const start = (stream * 7919 + position) % PERIOD;
  return table.subarray(start, start + length);
}

/** Throws unless `bytes` are what stands at `position` of stream `stream`. */
export function checkPattern(what: string, stream: number, position: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length; done += MAX_PATTERN) {
    const piece = bytes.subarray(done, done + MAX_PATTERN);
    if (!piece.equals(patternAt(stream, position + done, piece.length))) {
      throw new Error(`${what}: wrong bytes in [${position + done}, ${position + done + piece.length})`);
    }
  }
}
