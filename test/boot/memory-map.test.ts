import { describe, expect, test } from '@jest/globals';

import { buildMemoryMap } from '../../src/boot/memory-map.js';
import { GIB, MIB } from '../../src/platform/units.js';
import { bootErrorOf, FakeMemory } from './support.js';

const LOW = [
  { gpa: 0, size: 0x9fc00, type: 1 },
  { gpa: 0x9fc00, size: 0x400, type: 2 },
];

describe('memory map', () => {
  test.each([
    ['128 MiB', 128 * MIB, [{ gpa: MIB, size: 127 * MIB, type: 1 }]],
    ['3 GiB, to the hole', 3 * GIB, [{ gpa: MIB, size: 3 * GIB - MIB, type: 1 }]],
    [
      '3 GiB and a page',
      3 * GIB + 4096,
      [
        { gpa: MIB, size: 3 * GIB - MIB, type: 1 },
        { gpa: 4 * GIB, size: 4096, type: 1 },
      ],
    ],
    [
      '4 GiB',
      4 * GIB,
      [
        { gpa: MIB, size: 3 * GIB - MIB, type: 1 },
        { gpa: 4 * GIB, size: GIB, type: 1 },
      ],
    ],
    [
      '8 GiB',
      8 * GIB,
      [
        { gpa: MIB, size: 3 * GIB - MIB, type: 1 },
        { gpa: 4 * GIB, size: 5 * GIB, type: 1 },
      ],
    ],
  ])('%s', (_name, size, high) => {
    expect(buildMemoryMap(new FakeMemory(size), false)).toEqual([...LOW, ...high]);
  });

  test('ACPI tables have an entry of their own, in order', () => {
    expect(buildMemoryMap(new FakeMemory(128 * MIB), true)).toEqual([
      ...LOW,
      { gpa: 0xe_0000, size: 0xf000, type: 3 },
      { gpa: 0xe_f000, size: 0x1000, type: 2 },
      { gpa: MIB, size: 127 * MIB, type: 1 },
    ]);
  });

  test.each([0, 4096, MIB])('refused: %d bytes of memory', (size) => {
    expect(bootErrorOf(() => buildMemoryMap(new FakeMemory(size), true)).code).toBe('memory-too-small');
  });
});
