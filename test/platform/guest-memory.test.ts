import { readSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { GuestAddressError } from '../../src/platform/guest-memory.js';
import { GIB, PAGE_SIZE } from '../../src/platform/units.js';
import { allocateRam } from '../support/guest-ram.js';
import { runWorker } from '../support/workers.js';

const TWO_CHUNKS = [
  { gpa: 0, size: 4 * PAGE_SIZE },
  { gpa: 4 * PAGE_SIZE, size: 4 * PAGE_SIZE },
  { gpa: 4 * GIB, size: 2 * PAGE_SIZE },
] as const;

describe('guest memory', () => {
  test('two workers, this thread and the memory file see the same bytes', async () => {
    using ram = allocateRam(...TWO_CHUNKS);
    const address = 4 * PAGE_SIZE - 3; // Across the boundary of two chunks.
    const workerData = { map: ram.map, address, length: 6 };
    ram.memory.write(address, Uint8Array.of(10, 20, 30, 40, 50, 60));
    await runWorker('memory-worker', workerData);
    await runWorker('memory-worker', workerData);
    const expected = [12, 22, 32, 42, 52, 62];
    expect([...ram.memory.read(address, 6)]).toEqual(expected);
    const file = Buffer.alloc(6);
    readSync(ram.fd, file, 0, 6, address);
    expect([...file]).toEqual(expected);
  });

  test('RAM above the hole is reached by its guest-physical address', () => {
    using ram = allocateRam(...TWO_CHUNKS);
    ram.memory.write(4 * GIB + 8, Uint8Array.of(1, 2, 3, 4));
    expect(ram.memory.readU32(4 * GIB + 8)).toBe(0x04030201);
    expect(ram.memory.chunkIndex(8, 1)).toBe(2);
    expect(ram.memory.ranges).toEqual([
      { gpa: 0, size: 8 * PAGE_SIZE },
      { gpa: 4 * GIB, size: 2 * PAGE_SIZE },
    ]);
  });

  test.each([
    ['below zero', -1, 1],
    ['in the hole', GIB, 1],
    ['across the end of a range', 8 * PAGE_SIZE - 1, 2],
    ['across the hole', 8 * PAGE_SIZE - 1, 4 * GIB],
    ['past the end', 4 * GIB + 2 * PAGE_SIZE, 1],
    ['of negative length', 0, -1],
    ['at no number', Number.NaN, 1],
  ])('an access %s is refused and changes nothing', (_name, address, length) => {
    using ram = allocateRam(...TWO_CHUNKS);
    expect(() => ram.memory.read(address, length)).toThrow(GuestAddressError);
    expect(() => {
      ram.memory.zero(address, length);
    }).toThrow(GuestAddressError);
  });

  test('an address no chunk holds has no chunk index', () => {
    using ram = allocateRam(...TWO_CHUNKS);
    expect(ram.memory.chunkIndex(8 * PAGE_SIZE, 0)).toBe(-1);
    expect(ram.memory.chunkIndex(0, 2)).toBe(-1);
    expect(ram.memory.chunkIndex(0xffff_ffff, 0xffff_ffff)).toBe(-1);
  });
});
