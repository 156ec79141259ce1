// The seam between the block device and what holds its sectors: a raw file, a qcow2 image, or a fake in a test.
//
// Runs in the I/O worker of the device, one thread for all queues; every call is synchronous and returns when the host
// has done the work. Nothing is allocated per call, and nothing is thrown: a call answers 0, or the negative errno of
// what failed, and the image stays usable after a failure. What a failed write wrote is undefined within its range, and
// untouched outside it.
//
// The device has checked, before it calls: offsets and lengths are multiples of SECTOR_SIZE, lengths are above 0, ranges
// are inside [0, size), and a read-only image is never asked to change.

import type { IovecArray } from '../../platform/iovec.js';

/** The unit of virtio-blk's requests, whatever the block size (virtio 1.2, 5.2.6). */
export const SECTOR_SIZE = 512;

/** Transfers that an image carries out at the same time, where that is quicker than one after the other. */
export interface TransferBatch {
  /** How many at most. */
  readonly capacity: number;

  /**
   * Takes a transfer, which is begun with the others; or returns false for one that has to be carried out by itself. The
   * entries of `iovecs` are left as they are.
   */
  add(reading: boolean, iovecs: IovecArray, offset: number): boolean;

  /** Carries out what was taken. results[N] becomes 0 when all of the Nth was moved; else it is to be done again. */
  execute(results: Int32Array): void;
}

export interface DiskImage {
  /** Bytes, a multiple of SECTOR_SIZE. Stays as it was when the image was opened. */
  readonly size: number;

  /**
   * Reads into the memory that `iovecs` name (addresses in this process), from `offset` on, all of it. The entries are
   * the image's to use up: afterwards they mean nothing.
   */
  readv(iovecs: IovecArray, offset: number): number;

  /** The reverse. When it returns, later reads see the bytes; only `flush` makes them durable. */
  writev(iovecs: IovecArray, offset: number): number;

  /** Everything written before, metadata included, survives a crash of the host once this has returned 0. */
  flush(): number;

  /** The guest has no use for these bytes any more: gives the space back where the image can, else does nothing. */
  discard(offset: number, length: number): number;

  /** The range reads as zeroes from now on. `unmap` allows to give the space back, without it the space stays taken. */
  writeZeroes(offset: number, length: number, unmap: boolean): number;

  /** Undefined where one transfer after the other is as quick. */
  readonly batch?: TransferBatch | undefined;

  /**
   * Writes out what is held back (without making it durable) and releases what the image owns in this thread. Open
   * descriptors are the main thread's: it opened them, and closes them when the VM has ended. Returns 0 or -errno.
   */
  close(): number;
}
