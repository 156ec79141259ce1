// Memory mappings: mmap(2), memfd_create(2), and shared buffers whose inside is a memfd.

import { SysError } from './errno.js';
import { addressOf, check, lastErrno, libc } from './libc.js';
import { PAGE_SIZE, type Fd, type HostAddress } from './units.js';

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MFD_CLOEXEC = 1;

// MAP_FAILED is (void *)-1, far above any address (koffi gives it as a BigInt, which compares like a Number).
const HIGHEST_USER_ADDRESS = 2 ** 47;

function mmap(address: number, length: number, flags: number, fd: number, offset: number): HostAddress {
  const result = libc.mmap(address, length, PROT_READ | PROT_WRITE, flags, fd, offset);
  if (result >= HIGHEST_USER_ADDRESS) throw new SysError('mmap', lastErrno());
  return result as HostAddress;
}

/** Maps `length` bytes of `fd` shared, at an address of the kernel's choice. Throws SysError. */
export function mapShared(fd: Fd, length: number): HostAddress {
  return mmap(0, length, MAP_SHARED, fd, 0);
}

/** Undoes `mapShared`. Throws SysError. */
export function unmap(address: HostAddress, length: number): void {
  check(libc.munmap(address, length), 'munmap');
}

/** Makes an anonymous memory file of `length` bytes (sparse). The caller owns the descriptor. Throws SysError. */
export function createMemfd(name: string, length: number): Fd {
  const fd = check(libc.memfd_create(name, MFD_CLOEXEC), 'memfd_create') as Fd;
  if (libc.ftruncate(fd, length) < 0) {
    const errno = lastErrno();
    libc.close(fd);
    throw new SysError(`ftruncate memfd to ${length}`, errno);
  }
  return fd;
}

/** A SharedArrayBuffer whose bytes [offset, offset + size) are pages of a memfd. */
export interface MappedSharedBuffer {
  readonly buffer: SharedArrayBuffer;
  /** Where the mapped pages start inside `buffer`: it is page-aligned in memory, not in the buffer. */
  readonly offset: number;
  readonly size: number;
  readonly address: HostAddress;
}

/**
 * Allocates a SharedArrayBuffer and maps `size` bytes of `fd` from `fileOffset` over its page-aligned inside, so that
 * JavaScript in every thread, the kernel and the file see the same bytes. `size` and `fileOffset` are page multiples.
 * Throws SysError, or RangeError when the buffer cannot be allocated.
 */
export function mapOverSharedBuffer(fd: Fd, fileOffset: number, size: number): MappedSharedBuffer {
  const buffer = new SharedArrayBuffer(size + PAGE_SIZE);
  const start = addressOf(new Uint8Array(buffer));
  const offset = (PAGE_SIZE - (start % PAGE_SIZE)) % PAGE_SIZE;
  const address = mmap(start + offset, size, MAP_SHARED | MAP_FIXED, fd, fileOffset);
  return { buffer, offset, size, address };
}

/**
 * Puts private anonymous pages back under a buffer that `mapOverSharedBuffer` made. V8 frees the buffer whenever its
 * last view dies; from here on that frees ordinary memory and the memfd's pages are gone at once. Throws SysError.
 */
export function unmapFromSharedBuffer(mapped: Pick<MappedSharedBuffer, 'address' | 'size'>): void {
  mmap(mapped.address, mapped.size, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}
