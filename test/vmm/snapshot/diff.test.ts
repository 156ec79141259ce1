// What of a restored VM's memory is written as a diff, and what comes back from it: against a model that knows every byte.

import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GuestMemory } from '../../../src/platform/guest-memory.js';
import { discardPages } from '../../../src/platform/memory-backing.js';
import { MIB, PAGE_SIZE, type Fd } from '../../../src/platform/units.js';
import { AllocatedMemory, type SavedMemory } from '../../../src/vmm/memory.js';
import {
  decodeExtents,
  encodeExtents,
  type Extent,
  ExtentList,
  extentsWithin,
} from '../../../src/vmm/snapshot/extents.js';
import { writeChanges, writeMemory } from '../../../src/vmm/snapshot/memory-file.js';

const SIZE = 4 * MIB;
const PAGES = SIZE / PAGE_SIZE;

let directory = '';
const open: number[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-diff-'));
});
afterEach(() => {
  for (const fd of open.splice(0)) closeSync(fd);
  rmSync(directory, { recursive: true });
});

function file(name: string, content?: Uint8Array): Fd {
  const path = join(directory, name);
  if (content !== undefined) writeFileSync(path, content);
  const fd = openSync(path, content === undefined ? 'w+' : 'r+');
  open.push(fd);
  return fd as Fd;
}

/** Memory that is neither zero nor the same in two places. */
function pattern(): Buffer {
  const bytes = Buffer.alloc(SIZE);
  for (let page = 0; page < PAGES; page += 2) bytes.fill((page % 255) + 1, page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
  return bytes;
}

function withRestored(saved: SavedMemory, use: (ram: AllocatedMemory) => Promise<void>, shared = false): Promise<void> {
  const ram = new AllocatedMemory({ size: SIZE, shared }, saved);
  return use(ram).finally(() => {
    ram.close();
  });
}

function contentOf(ram: AllocatedMemory): Buffer {
  const [chunk] = ram.map;
  return Buffer.from(new Uint8Array(chunk.buffer, chunk.bufferOffset, chunk.size));
}

function total(extents: readonly Extent[]): number {
  return extents.reduce((sum, { length }) => sum + length, 0);
}

describe('a diff', () => {
  test('of memory that nobody has written to is empty, though it was read', async () => {
    await withRestored({ fd: file('base', pattern()), diff: undefined }, async (ram) => {
      expect(contentOf(ram).equals(pattern())).toBe(true);
      expect(await writeChanges(ram.map, file('diff'))).toEqual({ written: 0, extents: [] });
      expect(statSync(join(directory, 'diff'))).toMatchObject({ size: SIZE, blocks: 0 });
    });
  });

  test('has pages that were written, pages that became zero, and pages that were given back', async () => {
    await withRestored({ fd: file('base', pattern()), diff: undefined }, async (ram) => {
      const memory = new GuestMemory(ram.map);
      memory.write(5 * PAGE_SIZE, Uint8Array.of(9));
      memory.write(20 * PAGE_SIZE, Buffer.alloc(PAGE_SIZE));
      discardPages(ram.map[0], 40 * PAGE_SIZE, 2 * PAGE_SIZE);
      expect(await writeChanges(ram.map, file('diff'))).toEqual({
        written: PAGE_SIZE,
        extents: [
          { offset: 5 * PAGE_SIZE, length: PAGE_SIZE },
          { offset: 20 * PAGE_SIZE, length: PAGE_SIZE },
          { offset: 40 * PAGE_SIZE, length: 2 * PAGE_SIZE },
        ],
      });
    });
  });

  test.each([false, true])(
    'brings any memory back, over any number of saves (shared=%s)',
    async (shared) => {
      // Runs up to 128 pages: long ones are mapped, short ones read.
      const change = fc.record({
        page: fc.nat(PAGES - 1),
        count: fc.integer({ min: 1, max: 128 }),
        how: fc.constantFrom('write' as const, 'zero' as const, 'discard' as const),
        value: fc.integer({ min: 1, max: 255 }),
      });
      let round = 0;
      const property = fc.asyncProperty(
        fc.array(fc.array(change, { maxLength: 12 }), { maxLength: 4 }),
        async (saves) => {
          const base = file(`base${round++}`, pattern());
          const model = pattern();
          let diff: SavedMemory['diff'];
          for (const changes of saves) {
            await withRestored({ fd: base, diff }, async (ram) => {
              expect(contentOf(ram).equals(model)).toBe(true);
              const memory = new GuestMemory(ram.map);
              for (const { page, count, how, value } of changes) {
                const [start, length] = [page * PAGE_SIZE, Math.min(count, PAGES - page) * PAGE_SIZE];
                const bytes = Buffer.alloc(length, how === 'write' ? value : 0);
                if (how === 'discard') expect(discardPages(ram.map[0], start, length)).toBe(0);
                else memory.write(start, bytes);
                bytes.copy(model, start);
              }
              const fd = file(`diff${round++}`);
              const { extents } = await writeChanges(ram.map, fd);
              diff = { fd, extents };
              const whole = file(`whole${round++}`);
              await writeMemory(ram.map, whole);
              await withRestored({ fd: whole, diff: undefined }, (again) => {
                expect(contentOf(again).equals(model)).toBe(true);
                return Promise.resolve();
              });
            });
          }
          const restored = (ram: AllocatedMemory): Promise<void> => {
            expect(contentOf(ram).equals(model)).toBe(true);
            return Promise.resolve();
          };
          await withRestored({ fd: base, diff }, restored, shared);
          for (const fd of open.splice(0)) closeSync(fd);
        },
      );
      await fc.assert(property, { numRuns: 20 });
    },
    60_000,
  );

  test('has no more than was changed, a page each', async () => {
    await withRestored({ fd: file('base', pattern()), diff: undefined }, async (ram) => {
      const memory = new GuestMemory(ram.map);
      for (let page = 0; page < PAGES; page += 16) memory.write(page * PAGE_SIZE, Uint8Array.of(1));
      const first = file('first');
      const { extents } = await writeChanges(ram.map, first);
      expect(total(extents)).toBe((PAGES / 16) * PAGE_SIZE);
      await withRestored({ fd: file('base', pattern()), diff: { fd: first, extents } }, async (again) => {
        expect(total((await writeChanges(again.map, file('second'))).extents)).toBe(total(extents));
      });
    });
  });
});

describe('lists of extents', () => {
  test('are what they were, written and read', () => {
    const list = new ExtentList();
    list.add(0, PAGE_SIZE);
    list.add(PAGE_SIZE, PAGE_SIZE);
    list.add(4 * PAGE_SIZE, 2 * PAGE_SIZE);
    const expected = [
      { offset: 0, length: 2 * PAGE_SIZE },
      { offset: 4 * PAGE_SIZE, length: 2 * PAGE_SIZE },
    ];
    expect(list.extents).toEqual(expected);
    expect(decodeExtents(encodeExtents(list.extents), SIZE)).toEqual(expected);
  });

  const run = (first: number, count: number): Extent => ({ offset: first * PAGE_SIZE, length: count * PAGE_SIZE });
  test.each([
    ['out of order', [run(8, 1), run(2, 1)]],
    ['overlapping', [run(2, 4), run(4, 1)]],
    ['empty', [run(2, 0)]],
    ['beyond the file', [run(PAGES - 1, 2)]],
    ['far beyond it', [run(2 ** 32 - 1, 2 ** 32 - 1)]],
  ])('that are %s are refused', (_, extents) => {
    expect(decodeExtents(encodeExtents(extents), SIZE)).toBeUndefined();
  });

  test('that are cut short are refused', () => {
    expect(decodeExtents(Buffer.alloc(12, 1).toString('base64'), SIZE)).toBeUndefined();
  });

  test('are cut where a chunk is', () => {
    expect(extentsWithin([run(0, 4), run(6, 2)], 2 * PAGE_SIZE, 5 * PAGE_SIZE)).toEqual([run(0, 2), run(4, 1)]);
  });
});
