// Memory mappings: mmap(2), memfd_create(2), and shared buffers whose inside is mapped to something else.

import { SysError } from './errno.js';
import { addressOf, check, lastErrno, libc } from './libc.js';
import { alignUp, PAGE_SIZE, type Fd, type HostAddress } from './units.js';

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MFD_CLOEXEC = 1;
const MFD_HUGETLB = 4;
/** The logarithm of the huge page's size goes above this bit. */
const MFD_HUGE_SHIFT = 26;

// MAP_FAILED is (void *)-1, far above any address (koffi gives it as a BigInt, which compares like a Number).
const HIGHEST_USER_ADDRESS = 2 ** 47;

function mmap(address: number, length: number, flags: number, fd: number, offset: number): HostAddress {
  const result = libc.mmap(address, length, PROT_READ | PROT_WRITE, flags, fd, offset);
  if (result >= HIGHEST_USER_ADDRESS) throw new SysError('mmap', lastErrno());
  return result as HostAddress;
}

/** Maps `length` bytes of `fd` from `offset` on shared, at an address of the kernel's choice. Throws SysError. */
export function mapShared(fd: Fd, length: number, offset = 0): HostAddress {
  return mmap(0, length, MAP_SHARED, fd, offset);
}

/** Undoes `mapShared`. Throws SysError. */
export function unmap(address: HostAddress, length: number): void {
  check(libc.munmap(address, length), 'munmap');
}

/**
 * Makes an anonymous memory file of `length` bytes (sparse), of huge pages when their size is given. The caller owns the
 * descriptor. Throws SysError.
 */
export function createMemfd(name: string, length: number, hugePageSize?: number): Fd {
  const huge = hugePageSize === undefined ? 0 : MFD_HUGETLB | (Math.log2(hugePageSize) << MFD_HUGE_SHIFT);
  const fd = check(libc.memfd_create(name, MFD_CLOEXEC | huge), 'memfd_create') as Fd;
  if (libc.ftruncate(fd, length) < 0) {
    const errno = lastErrno();
    libc.close(fd);
    throw new SysError(`ftruncate memfd to ${length}`, errno);
  }
  return fd;
}

/** Where the pages of a mapping come from. */
export type PageSource =
  /** Zeroed pages of this process alone, which count against the host's memory when they are first written. */
  | { readonly kind: 'anonymous' }
  /** Pages of a file, the same for all who map it shared. */
  | { readonly kind: 'shared-file'; readonly fd: Fd; readonly offset: number }
  /** Pages of a file that may be open for reading only; a page that is written to becomes this process's own. */
  | { readonly kind: 'private-file'; readonly fd: Fd; readonly offset: number };

/** A SharedArrayBuffer whose bytes [offset, offset + size) are mapped pages. */
export interface MappedSharedBuffer {
  readonly buffer: SharedArrayBuffer;
  /** Where the mapped pages start inside `buffer`: they are aligned in memory, not in the buffer. */
  readonly offset: number;
  readonly size: number;
  readonly address: HostAddress;
}

/**
 * Allocates a SharedArrayBuffer and maps `size` bytes of `source` over its inside, at a multiple of `alignment`, so that
 * JavaScript in every thread, the kernel and the file see the same bytes. `size` and the source's offset are multiples
 * of the source's pages. Throws SysError, or RangeError when the buffer cannot be allocated.
 */
export function mapOverSharedBuffer(source: PageSource, size: number, alignment = PAGE_SIZE): MappedSharedBuffer {
  const buffer = new SharedArrayBuffer(size + alignment);
  const start = addressOf(new Uint8Array(buffer));
  const address = alignUp(start, alignment) as HostAddress;
  remap({ address, size }, source);
  return { buffer, offset: address - start, size, address };
}

/**
 * Maps `source` over a buffer that `mapOverSharedBuffer` made, in place of what is there. Throws SysError; ordinary pages
 * are there then.
 */
export function remap(mapped: Pick<MappedSharedBuffer, 'address' | 'size'>, source: PageSource): void {
  try {
    mapFixed(mapped, source);
  } catch (error) {
    // A mapping that fails may have taken the old one away first, and V8 believes that its buffer is there.
    mapFixed(mapped, { kind: 'anonymous' });
    throw error;
  }
}

function mapFixed({ address, size }: Pick<MappedSharedBuffer, 'address' | 'size'>, source: PageSource): void {
  switch (source.kind) {
    case 'anonymous':
      mmap(address, size, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      return;
    case 'shared-file':
      mmap(address, size, MAP_SHARED | MAP_FIXED, source.fd, source.offset);
      return;
    case 'private-file':
      mmap(address, size, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, source.fd, source.offset);
      return;
  }
}

/** Puts fresh pages in the place of [address, address + length). Returns 0, or the negative errno. */
export function mapZeroes(address: number, length: number): number {
  const flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE;
  const result = libc.mmap(address, length, PROT_READ | PROT_WRITE, flags, -1, 0);
  return result >= HIGHEST_USER_ADDRESS ? -lastErrno() : 0;
}

/**
 * Puts ordinary pages back under a buffer that `mapOverSharedBuffer` made. V8 frees the buffer whenever its last view
 * dies; from here on that frees ordinary memory, and what was mapped is gone at once. Throws SysError.
 */
export function unmapFromSharedBuffer(mapped: Pick<MappedSharedBuffer, 'address' | 'size'>): void {
  remap(mapped, { kind: 'anonymous' });
}
