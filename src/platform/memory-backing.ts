// What is behind guest memory, and how pages of it are given back to the host. Any thread: it works from plain data.

import { EINVAL, SysError } from './errno.js';
import { check, lastErrno, libc } from './libc.js';
import { mapZeroes } from './mapping.js';
import { PAGE_SIZE, type Fd, type HostAddress } from './units.js';

/** What is behind a piece of guest memory: plain data that can be sent to another thread. */
export type MemoryBacking =
  /** RAM: private pages of this process. */
  | { readonly kind: 'anonymous' }
  /** RAM: pages of a memory file, mapped shared. `pageSize` is above 4096 when they come from the huge page pool. */
  | { readonly kind: 'memory-file'; readonly fd: Fd; readonly offset: number; readonly pageSize: number }
  /**
   * RAM: pages of a saved machine's memory file, mapped private: one that is written to becomes this process's own. In the
   * place of the pieces that `replaced` names, in bytes from the beginning, those of another file were mapped.
   */
  | {
      readonly kind: 'saved-file';
      readonly fd: Fd;
      readonly offset: number;
      readonly replaced: readonly { readonly offset: number; readonly length: number }[];
    }
  /** Not RAM: a device shows the pages of a file here. They are never discarded. */
  | { readonly kind: 'device' };

/** A piece of guest memory as far as its pages go. */
export interface BackedMemory {
  readonly hostAddress: HostAddress;
  readonly size: number;
  readonly backing: MemoryBacking;
}

const MADV_DONTNEED = 4;
const MADV_MERGEABLE = 12;
const MADV_HUGEPAGE = 14;
const MADV_NOHUGEPAGE = 15;
/** Linux 5.14. */
const MADV_POPULATE_WRITE = 23;

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

/** The smallest piece of `memory` that can be given back; 0 when none can. */
export function discardUnit({ backing }: BackedMemory): number {
  switch (backing.kind) {
    case 'anonymous':
    case 'saved-file':
      return PAGE_SIZE;
    case 'memory-file':
      return backing.pageSize;
    case 'device':
      return 0;
  }
}

/**
 * Gives bytes [offset, offset + length) of `memory` back to the host; the guest finds zeroes there afterwards. Both are
 * multiples of `discardUnit`. Returns 0, or the negative errno.
 */
export function discardPages(memory: BackedMemory, offset: number, length: number): number {
  const { backing } = memory;
  switch (backing.kind) {
    case 'anonymous':
      return libc.madvise(memory.hostAddress + offset, length, MADV_DONTNEED) < 0 ? -lastErrno() : 0;
    case 'memory-file': {
      const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
      return libc.fallocate(backing.fd, mode, backing.offset + offset, length) < 0 ? -lastErrno() : 0;
    }
    case 'saved-file':
      // Advice would bring the file's bytes back, which are what was there before.
      return mapZeroes(memory.hostAddress + offset, length);
    case 'device':
      return -EINVAL;
  }
}

/**
 * Allocates every page of [address, address + length) now, without changing what is in them. `bytes` shows the same
 * memory: kernels before 5.14 have it done page by page. Throws SysError.
 */
export function populatePages(address: HostAddress, bytes: Uint8Array, pageSize: number): void {
  if (libc.madvise(address, bytes.length, MADV_POPULATE_WRITE) === 0) return;
  const errno = lastErrno();
  if (errno !== EINVAL) throw new SysError('madvise MADV_POPULATE_WRITE', errno);
  for (let offset = 0; offset < bytes.length; offset += pageSize) Atomics.or(bytes, offset, 0);
}

/** Lets KSM merge equal pages of private memory. Throws SysError: EINVAL when the kernel has no KSM. */
export function allowMerging(address: HostAddress, length: number): void {
  check(libc.madvise(address, length, MADV_MERGEABLE), 'madvise MADV_MERGEABLE');
}

/**
 * Asks for transparent huge pages, or for none. A kernel that has no such thing, or an administrator who wants none,
 * is no error: it is a hint.
 */
export function adviseHugePages(address: HostAddress, length: number, wanted: boolean): void {
  libc.madvise(address, length, wanted ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}
