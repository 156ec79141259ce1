// The block device as it crosses from the main thread to its I/O worker: plain data, light to import.

import type { Fd } from '../../platform/units.js';

/**
 * A file or block device of the host, opened and locked by the main thread, which owns the descriptor. Every image is
 * made of at least one; see HostFile (host-file.ts) for reading and writing it.
 */
export interface HostFileSettings {
  readonly fd: Fd;
  /** For messages only. */
  readonly path: string;
  /** Bytes when it was opened. */
  readonly size: number;
  readonly readOnly: boolean;
  /**
   * What memory addresses, file offsets and lengths of every call must be multiples of: the O_DIRECT alignment, or 1
   * when the descriptor goes through the page cache.
   */
  readonly alignment: number;
  readonly isBlockDevice: boolean;
}

/** A raw image: the file's bytes are the disk's. */
export interface RawImageSettings {
  readonly format: 'raw';
  readonly file: HostFileSettings;
}

/** What an image is made from; see `openImage` (images.ts). */
export type ImageSettings = RawImageSettings;
