// What is behind guest memory, by the keys of --memory, as the kernel itself tells it.

import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, describe, expect, test } from '@jest/globals';
import type { MemoryConfig } from '../../src/config/vm-config.js';
import { GuestMemory } from '../../src/platform/guest-memory.js';
import { defaultHugePageSize, hugePagePool, hugePageSizes } from '../../src/platform/huge-pages.js';
import { libc } from '../../src/platform/libc.js';
import { discardPages, discardUnit } from '../../src/platform/memory-backing.js';
import { GIB, KIB, MIB, PAGE_SIZE } from '../../src/platform/units.js';
import { VmError } from '../../src/vmm/errors.js';
import { AllocatedMemory } from '../../src/vmm/memory.js';
import { openDescriptors } from '../support/process-state.js';
import { mappedRange, residentBytes, type MappedRange } from '../support/mappings.js';

const SIZE = 16 * MIB;

function withMemory(config: Partial<MemoryConfig>, use: (ram: AllocatedMemory, memory: GuestMemory) => void): void {
  const ram = new AllocatedMemory({ size: SIZE, ...config });
  try {
    use(ram, new GuestMemory(ram.map));
  } finally {
    ram.close();
  }
}

/** The kernel's word on the first chunk. */
function look(ram: AllocatedMemory): MappedRange {
  return mappedRange(ram.map[0].hostAddress, ram.map[0].size);
}

/** Bytes of it that are in memory. */
function resident(ram: AllocatedMemory): number {
  return residentBytes(ram.map[0].hostAddress, ram.map[0].size);
}

function failure(config: MemoryConfig): VmError {
  try {
    new AllocatedMemory(config).close();
  } catch (error) {
    if (error instanceof VmError) return error;
    throw error;
  }
  throw new Error('the memory was allocated');
}

describe('private memory', () => {
  test('is anonymous, and nothing of it is resident before it is touched', () => {
    withMemory({ thp: false }, (ram, memory) => {
      expect(ram.fd).toBeUndefined();
      // The C library may have put the buffer where the program's heap grows, and the kernel names it so.
      expect(look(ram).headers).toEqual([expect.stringMatching(/ rw-p 00000000 00:00 0 *(\[heap\])?$/)]);
      expect(resident(ram)).toBe(0);
      memory.write(5 * MIB, Uint8Array.of(1));
      expect(resident(ram)).toBe(PAGE_SIZE);
    });
  });

  test('is aligned so that huge pages of the host fit those of the guest', () => {
    withMemory({}, (ram) => {
      expect(ram.map[0].hostAddress % (2 * MIB)).toBe(0);
    });
  });

  test.each([
    [{}, 'hg', true],
    [{ thp: true }, 'hg', true],
    [{ thp: false }, 'nh', true],
    [{}, 'mg', false],
    [{ mergeable: true }, 'mg', true],
    [{ shared: true }, 'hg', false],
    [{ shared: true, mergeable: true }, 'mg', false],
  ])('%j: flag %s is there: %s', (config, flag, there) => {
    withMemory(config, (ram) => {
      expect(look(ram).flags.at(-1)?.split(' ').includes(flag)).toBe(there);
    });
  });

  test('a guest that touches its first pages only does not take a huge page', () => {
    withMemory({}, (ram, memory) => {
      memory.write(MIB, Uint8Array.of(1));
      expect(resident(ram)).toBeLessThanOrEqual(PAGE_SIZE);
    });
  });

  test('shared=on is a file that others can map', () => {
    withMemory({ shared: true }, (ram, memory) => {
      expect(ram.fd).toBeDefined();
      expect(look(ram).headers).toEqual([expect.stringMatching(/ rw-s .*\/memfd:tsvmm-guest-ram/)]);
      memory.write(SIZE - 1, Uint8Array.of(7));
      expect(readFileSync(`/proc/self/fd/${ram.fd}`)[SIZE - 1]).toBe(7);
    });
  });
});

describe('prefault', () => {
  test.each([{ thp: false }, { shared: true }, {}])('%j: all of it is resident at once', (config) => {
    withMemory({ ...config, prefault: true }, (ram) => {
      expect(resident(ram)).toBe(SIZE);
      ram.clear();
      expect(resident(ram)).toBe(SIZE);
    });
  });

  test('a kernel before 5.14 has it done page by page', () => {
    const calls = libc as { -readonly [K in 'madvise']: (typeof libc)[K] };
    const { madvise } = calls;
    let asked = 0;
    calls.madvise = (address, length, advice) => {
      if (advice !== 23) return madvise(address, length, advice);
      asked++;
      return madvise(address + 1, length, advice); // EINVAL, as there.
    };
    try {
      withMemory({ thp: false, prefault: true }, (ram) => {
        expect(asked).toBe(1);
        expect(resident(ram)).toBe(SIZE);
      });
    } finally {
      calls.madvise = madvise;
    }
  });
});

describe('giving pages back', () => {
  test.each([{ thp: false }, {}, { shared: true }])('%j: clear leaves zeroes and nothing resident', (config) => {
    withMemory(config, (ram, memory) => {
      memory.write(0, new Uint8Array(SIZE).fill(0xa5));
      expect(resident(ram)).toBe(SIZE);
      ram.clear();
      expect(resident(ram)).toBe(0);
      expect(memory.read(0, SIZE).every((byte) => byte === 0)).toBe(true);
    });
  });

  test.each([{ thp: false }, { shared: true }])('%j: a discard takes its own pages and no others', (config) => {
    withMemory(config, (ram, memory) => {
      const chunk = structuredClone(ram.map)[0]; // What another thread is sent.
      expect(discardUnit(chunk)).toBe(PAGE_SIZE);
      memory.write(0, new Uint8Array(SIZE).fill(0xa5));
      expect(discardPages(chunk, 4 * PAGE_SIZE, 3 * PAGE_SIZE)).toBe(0);
      expect(resident(ram)).toBe(SIZE - 3 * PAGE_SIZE);
      const bytes = memory.read(0, 8 * PAGE_SIZE);
      for (let page = 0; page < 8; page++) {
        const expected = page >= 4 && page < 7 ? 0 : 0xa5;
        expect(bytes.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE).every((byte) => byte === expected)).toBe(true);
      }
    });
  });

  test('what is no RAM is never discarded', () => {
    withMemory({}, (ram) => {
      const chunk = { ...ram.map[0], backing: { kind: 'device' } as const };
      expect(discardUnit(chunk)).toBe(0);
      expect(discardPages(chunk, 0, PAGE_SIZE)).toBeLessThan(0);
    });
  });

  test('closing gives everything back while the views live on', () => {
    const descriptors = openDescriptors();
    for (const shared of [false, true]) {
      const ram = new AllocatedMemory({ size: SIZE, shared });
      const memory = new GuestMemory(ram.map);
      memory.write(0, new Uint8Array(SIZE).fill(1));
      ram.close();
      ram.close();
      expect(resident(ram)).toBe(0);
      expect(memory.chunks[0].bytes[0]).toBe(0);
    }
    expect(openDescriptors()).toBe(descriptors);
  });
});

describe('huge pages', () => {
  const HUGE = 2 * MIB;
  const sizeFile = `/sys/kernel/mm/hugepages/hugepages-${HUGE / KIB}kB/nr_hugepages`;
  const before = hugePageSizes().includes(HUGE) ? readFileSync(sizeFile, 'latin1') : undefined;

  /** Gives the host's pool `pages` more pages than are in use; returns whether it has them. */
  function grow(pages: number): boolean {
    if (before === undefined) return false;
    try {
      writeFileSync(sizeFile, String(Number(before) + pages));
    } catch {
      return false; // Not root.
    }
    return hugePagePool(HUGE).available >= pages;
  }

  const describeRoot = process.getuid?.() === 0 && before !== undefined ? describe : describe.skip;

  afterEach(() => {
    if (before !== undefined && process.getuid?.() === 0) writeFileSync(sizeFile, before);
  });

  test('a size that the host does not have is refused, with those that it has', () => {
    const error = failure({ size: GIB, hugepages: true, hugepage_size: 4 * MIB });
    expect(error.code).toBe('MEMORY');
    expect(error.message).toMatch(/hugepage_size=4 MiB: this host has no huge pages of that size|no huge pages/);
  });

  test('memory that is no multiple of the page size is refused, with one that is', () => {
    if (!hugePageSizes().includes(HUGE)) return;
    const error = failure({ size: 3 * MIB, hugepages: true, hugepage_size: HUGE });
    expect(error.message).toBe('--memory size=3 MiB is not a multiple of the huge page size, 2 MiB; use 4 MiB');
  });

  test('too small a pool: says how many pages are needed and free, and how to make more', () => {
    if (!hugePageSizes().includes(HUGE)) return;
    const descriptors = openDescriptors();
    const { pages, available } = hugePagePool(HUGE);
    const needed = available + 5;
    const error = failure({ size: needed * HUGE, hugepages: true, hugepage_size: HUGE });
    expect(error.message).toContain(
      `${needed} huge pages of 2 MiB are needed, and of the host's ${pages} ${available} are free`,
    );
    const command =
      defaultHugePageSize() === HUGE ? `sysctl vm.nr_hugepages=${pages + 5}` : `echo ${pages + 5} > ${sizeFile}`;
    expect(error.mend).toContain(command);
    expect(openDescriptors()).toBe(descriptors);
  });

  describeRoot('in a pool that has them', () => {
    test('memory is made of them, and given back only as whole ones', () => {
      if (!grow(8)) return;
      withMemory({ hugepages: true, hugepage_size: HUGE }, (ram, memory) => {
        expect(look(ram).pageSize).toBe(HUGE / KIB);
        expect(discardUnit(ram.map[0])).toBe(HUGE);
        memory.write(0, new Uint8Array(SIZE).fill(0xa5));
        expect(resident(ram)).toBe(SIZE);
        expect(discardPages(ram.map[0], 2 * HUGE, HUGE)).toBe(0);
        expect(resident(ram)).toBe(SIZE - HUGE);
        expect(memory.read(2 * HUGE, 1)[0]).toBe(0);
        expect(memory.read(2 * HUGE - 1, 1)[0]).toBe(0xa5);
      });
    });

    test('clearing gives them back to the guest, not to others', () => {
      if (!grow(8)) return;
      withMemory({ hugepages: true, hugepage_size: HUGE }, (ram, memory) => {
        const { available } = hugePagePool(HUGE);
        memory.write(0, new Uint8Array(SIZE).fill(0xa5));
        ram.clear();
        expect(resident(ram)).toBe(0);
        expect(memory.read(SIZE - 1, 1)[0]).toBe(0);
        expect(hugePagePool(HUGE).available).toBe(available);
      });
    });

    test('prefault allocates them', () => {
      if (!grow(8)) return;
      withMemory({ hugepages: true, hugepage_size: HUGE, prefault: true }, (ram) => {
        expect(resident(ram)).toBe(SIZE);
      });
    });
  });
});
