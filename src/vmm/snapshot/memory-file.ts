// Guest memory as a file: sparse, with every chunk where its place among all chunks says. Main thread, while nothing runs
// that writes to it.

import type { MemoryChunk, MemoryMap } from '../../platform/guest-memory.js';
import { SysError } from '../../platform/errno.js';
import { check, lastErrno, libc } from '../../platform/libc.js';
import { MIB, PAGE_SIZE, type Fd } from '../../platform/units.js';
import { type Extent, ExtentList } from './extents.js';
import { PageStates } from './page-states.js';

/** Guest memory looked at between two turns of the event loop. */
const SLICE = 32 * MIB;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;

const ZEROES = Buffer.alloc(PAGE_SIZE);

/** Where each chunk of `map` is in its memory file; the last entry is the file's size. */
export function fileOffsets(map: MemoryMap): number[] {
  const offsets = [0];
  for (const { size } of map) offsets.push((offsets.at(-1) ?? 0) + size);
  return offsets;
}

/**
 * Writes `map` to the file `fd`, which has nothing in it from `base` on. Returns how many bytes were not zero. Rejects with
 * SysError.
 */
export async function writeMemory(map: MemoryMap, fd: Fd, base = 0): Promise<number> {
  return writeChosen(map, { fd, base, mark: markInUse });
}

/** What a diff holds. */
export interface WrittenDiff {
  /** Bytes that were not zero. */
  readonly written: number;
  /** The pages that may differ from those of the file that `map` was mapped from, zeroes among them. */
  readonly extents: readonly Extent[];
}

/**
 * Writes what of `map`, private mappings of a snapshot's memory, differs from that snapshot, each page at its place in the
 * empty file `fd`. Rejects with SysError.
 */
export async function writeChanges(map: MemoryMap, fd: Fd): Promise<WrittenDiff> {
  const chosen = new ExtentList();
  const written = await writeChosen(map, { fd, base: 0, mark: markChanged, chosen });
  return { written, extents: chosen.extents };
}

/** Sets a byte for each page of `chunk` from `start` on that is to be looked at. */
type MarkPages = (chunk: MemoryChunk, start: number, pages: Uint8Array, states: PageStates) => void;

interface WriteOrder {
  readonly fd: Fd;
  readonly base: number;
  readonly mark: MarkPages;
  /** Takes down which pages were marked. */
  readonly chosen?: ExtentList;
}

async function writeChosen(map: MemoryMap, { fd, base, mark, chosen }: WriteOrder): Promise<number> {
  const offsets = fileOffsets(map).map((offset) => base + offset);
  check(libc.ftruncate(fd, offsets[map.length]), 'ftruncate memory file');
  const states = new PageStates();
  let written = 0;
  try {
    for (const [index, chunk] of map.entries()) {
      for (let start = 0; start < chunk.size; start += SLICE) {
        const pages = new Uint8Array(Math.min(SLICE, chunk.size - start) / PAGE_SIZE);
        mark(chunk, start, pages, states);
        const each = (first: number, count: number): void => {
          chosen?.add(offsets[index] + start + first * PAGE_SIZE, count * PAGE_SIZE);
        };
        if (chosen !== undefined) forEachRun(pages.length, (page) => pages[page] === 1, each);
        written += writePages(chunk, start, pages, fd, offsets[index]);
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  } finally {
    states.close();
  }
  return written;
}

/** Where there may be something in a page. */
function markInUse(chunk: MemoryChunk, start: number, pages: Uint8Array, states: PageStates): void {
  const { backing } = chunk;
  if (backing.kind === 'memory-file' || backing.kind === 'saved-file') markData(backing, start, pages);
  if (backing.kind === 'saved-file') markPieces(backing.replaced, start, pages);
  if (backing.kind !== 'memory-file') states.markInUse(chunk.hostAddress + start, pages);
}

function markChanged(chunk: MemoryChunk, start: number, pages: Uint8Array, states: PageStates): void {
  if (chunk.backing.kind !== 'saved-file') throw new Error('this memory was not mapped from a snapshot');
  markPieces(chunk.backing.replaced, start, pages);
  states.markReplaced(chunk.hostAddress + start, pages);
}

function markPieces(pieces: readonly Extent[], start: number, pages: Uint8Array): void {
  for (const { offset, length } of pieces) {
    const first = (offset - start) / PAGE_SIZE;
    if (first < pages.length) pages.fill(1, Math.max(0, first), Math.max(0, first + length / PAGE_SIZE));
  }
}

/** What the file behind the memory holds. */
function markData(backing: { readonly fd: Fd; readonly offset: number }, start: number, pages: Uint8Array): void {
  const first = backing.offset + start;
  const end = first + pages.length * PAGE_SIZE;
  for (let at = first; at < end;) {
    const data = libc.lseek(backing.fd, at, SEEK_DATA);
    if (data < 0) {
      const errno = lastErrno();
      if (errno === ENXIO) return;
      throw new SysError('lseek SEEK_DATA', errno);
    }
    if (data >= end) return;
    const hole = Math.min(end, check(libc.lseek(backing.fd, data, SEEK_HOLE), 'lseek SEEK_HOLE'));
    pages.fill(1, Math.floor((data - first) / PAGE_SIZE), Math.ceil((hole - first) / PAGE_SIZE));
    at = hole;
  }
}

/** Writes the marked pages but those of zeroes, which a file has where it has nothing. Returns how many bytes those were. */
function writePages(chunk: MemoryChunk, start: number, marked: Uint8Array, fd: Fd, fileOffset: number): number {
  const bytes = new Uint8Array(chunk.buffer, chunk.bufferOffset + start, marked.length * PAGE_SIZE);
  const holdsData = (page: number): boolean =>
    marked[page] === 1 && ZEROES.compare(bytes, page * PAGE_SIZE, (page + 1) * PAGE_SIZE) !== 0;
  let written = 0;
  forEachRun(marked.length, holdsData, (first, count) => {
    const offset = start + first * PAGE_SIZE;
    writeFully(fd, chunk.hostAddress + offset, count * PAGE_SIZE, fileOffset + offset);
    written += count * PAGE_SIZE;
  });
  return written;
}

/** Calls `each` with every longest run of numbers below `end` that `holds`. */
function forEachRun(
  end: number,
  holds: (index: number) => boolean,
  each: (first: number, count: number) => void,
): void {
  for (let index = 0; index < end; index++) {
    if (!holds(index)) continue;
    const first = index;
    do index++;
    while (index < end && holds(index));
    each(first, index - first);
  }
}

function writeFully(fd: Fd, address: number, length: number, offset: number): void {
  for (let done = 0; done < length;) {
    done += check(libc.pwrite(fd, address + done, length - done, offset + done), 'pwrite memory file');
  }
}
