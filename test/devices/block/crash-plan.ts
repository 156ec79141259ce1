// What the writer of the crash test writes in each generation, for both sides of the test.

import { Random } from '../../support/random.js';

export const SECTORS_OF_CRASH_DISK = 2048;

export function writesOf(seed: number, generation: number): { sector: number; count: number }[] {
  const random = new Random(seed * 1_000_003 + generation);
  return Array.from({ length: random.between(1, 20) }, () => {
    const count = random.between(1, 16);
    return { sector: random.below(SECTORS_OF_CRASH_DISK - count), count };
  });
}

/** A sector says which one it is, and who wrote it. */
export function sectorBytes(sector: number, generation: number): Uint8Array {
  return new Uint8Array(
    new Uint32Array(128).fill(0).map((_, index) => (sector << 16) ^ generation ^ (index << 8)).buffer,
  );
}
