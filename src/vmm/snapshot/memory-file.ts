// Guest memory as a file: sparse, with every chunk where its place among all chunks says. Main thread, while nothing runs
// that writes to it.
//
// What to write is asked of the kernel, not found by reading: pages that the guest never touched are not in this
// process's page table (or in the memory file), and looking at them would bring them into being.

import { closeSync, openSync, readSync } from 'node:fs';
import { SysError } from '../../platform/errno.js';
import type { MemoryChunk, MemoryMap } from '../../platform/guest-memory.js';
import { check, lastErrno, libc } from '../../platform/libc.js';
import { MIB, PAGE_SIZE, type Fd } from '../../platform/units.js';

/** Documentation/admin-guide/mm/pagemap.rst: one u64 a page. */
const PAGEMAP_ENTRY_SIZE = 8;
/** Bits 63 (present) and 62 (swapped), in the upper half of the entry. */
const PAGEMAP_IN_USE_MASK = 0xc000_0000;
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
  const offsets = fileOffsets(map).map((offset) => base + offset);
  check(libc.ftruncate(fd, offsets[map.length]), 'ftruncate memory file');
  const pagemap = openSync('/proc/self/pagemap', 'r');
  let written = 0;
  try {
    for (const [index, chunk] of map.entries()) {
      for (let start = 0; start < chunk.size; start += SLICE) {
        const length = Math.min(SLICE, chunk.size - start);
        const inUse = pagesInUse(chunk, start, length, pagemap);
        written += writePages(chunk, start, inUse, fd, offsets[index]);
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  } finally {
    closeSync(pagemap);
  }
  return written;
}

/** One byte a page of [start, start + length): whether there may be something in it. */
function pagesInUse(chunk: MemoryChunk, start: number, length: number, pagemap: number): Uint8Array {
  const { backing } = chunk;
  const pages = new Uint8Array(length / PAGE_SIZE);
  if (backing.kind !== 'anonymous') markData(backing.kind === 'device' ? undefined : backing, start, pages);
  if (backing.kind !== 'memory-file') markPresent(chunk.hostAddress + start, pages, pagemap);
  return pages;
}

/** What the file behind the memory holds. */
function markData(
  backing: { readonly fd: Fd; readonly offset: number } | undefined,
  start: number,
  pages: Uint8Array,
): void {
  if (backing === undefined) return;
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

function markPresent(address: number, pages: Uint8Array, pagemap: number): void {
  const entries = Buffer.alloc(pages.length * PAGEMAP_ENTRY_SIZE);
  readSync(pagemap, entries, 0, entries.length, (address / PAGE_SIZE) * PAGEMAP_ENTRY_SIZE);
  for (let page = 0; page < pages.length; page++) {
    if ((entries.readUInt32LE(page * PAGEMAP_ENTRY_SIZE + 4) & PAGEMAP_IN_USE_MASK) !== 0) pages[page] = 1;
  }
}

function writePages(chunk: MemoryChunk, start: number, inUse: Uint8Array, fd: Fd, fileOffset: number): number {
  const bytes = new Uint8Array(chunk.buffer, chunk.bufferOffset + start, inUse.length * PAGE_SIZE);
  let written = 0;
  let page = 0;
  const holdsData = (index: number): boolean =>
    inUse[index] === 1 && ZEROES.compare(bytes, index * PAGE_SIZE, (index + 1) * PAGE_SIZE) !== 0;
  while (page < inUse.length) {
    if (!holdsData(page)) {
      page++;
      continue;
    }
    const first = page;
    while (page < inUse.length && holdsData(page)) page++;
    const offset = start + first * PAGE_SIZE;
    writeFully(fd, chunk.hostAddress + offset, (page - first) * PAGE_SIZE, fileOffset + offset);
    written += (page - first) * PAGE_SIZE;
  }
  return written;
}

function writeFully(fd: Fd, address: number, length: number, offset: number): void {
  for (let done = 0; done < length;) {
    done += check(libc.pwrite(fd, address + done, length - done, offset + done), 'pwrite memory file');
  }
}
