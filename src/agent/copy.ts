// Files and folders to and from the guest: what copying in and out have in common. Main thread.

import { constants } from 'node:os';
import { basename, dirname, resolve } from 'node:path';
import { AgentError, type AgentErrorCode } from './errors.js';

/** How far a copy is. */
export interface CopyProgress {
  /** Bytes of files so far. */
  readonly bytes: number;
  /** Entries that are done: files, folders and symbolic links. */
  readonly entries: number;
  /** Bytes that there will be, as long as a single file is copied; undefined for a folder. */
  readonly total?: number | undefined;
}

/** How to copy. */
export interface CopyOptions {
  /** Breaks the copy off with ABORTED; nothing of it stays. */
  readonly signal?: AbortSignal;
  /** Called after each piece of a file, at most 128 KiB, and after each entry. */
  readonly onProgress?: (progress: CopyProgress) => void;
}

/** How to copy out of a guest. */
export interface CopyOutOptions extends CopyOptions {
  /** Bytes of files beyond which the copy fails with TOO_LARGE, for guests that are not trusted. No limit unless given. */
  readonly maxBytes?: number;
  /** Files, folders and links beyond which the copy fails with TOO_LARGE: 1,000,000 unless given. */
  readonly maxEntries?: number;
}

/** Entries that a guest may send unless told: each costs the host an inode, and `maxBytes` counts bytes of files alone. */
export const DEFAULT_MAX_ENTRIES = 1_000_000;
/** Folders within folders: as many as the agent takes. */
export const DEPTH_MAX = 128;
/** One DATA frame. */
export const CHUNK = 131_072;

const { ENOSPC, EDQUOT, ENOENT, EEXIST, ENOTEMPTY, EISDIR, ENOTDIR } = constants.errno;
const CODES: Readonly<Record<number, AgentErrorCode>> = {
  [ENOSPC]: 'DISK_FULL',
  [EDQUOT]: 'DISK_FULL',
  [ENOENT]: 'PATH_NOT_FOUND',
  [EEXIST]: 'EXISTS',
  [ENOTEMPTY]: 'EXISTS',
  [EISDIR]: 'EXISTS',
  [ENOTDIR]: 'EXISTS',
};

/** A failure of this process's file system, about the copy to or from `path`. */
export function hostError(error: unknown, path: string): unknown {
  if (error instanceof AgentError || typeof error !== 'object' || error === null) return error;
  // By its shape: Node's own errors may be of another realm.
  if (!('errno' in error) || typeof error.errno !== 'number' || !('message' in error)) return error;
  const errno = -error.errno;
  const code = CODES[errno] ?? 'IO';
  return new AgentError(code, `${path} on the host: ${String(error.message)}`, { side: 'host', errno, cause: error });
}

/** Counts for `onProgress`. */
export class ProgressCounter {
  private bytes = 0;
  private entries = 0;
  private total: number | undefined;
  private readonly tell: ((progress: CopyProgress) => void) | undefined;

  constructor(tell: ((progress: CopyProgress) => void) | undefined) {
    this.tell = tell;
  }

  /** All that is copied is one file, of that size as far as is known now. */
  expect(total: number): void {
    this.total = total;
  }

  addBytes(count: number): number {
    this.bytes += count;
    this.report();
    return this.bytes;
  }

  addEntry(): number {
    this.entries += 1;
    this.report();
    return this.entries;
  }

  private report(): void {
    const { bytes, entries, total } = this;
    this.tell?.({ bytes, entries, ...(total === undefined ? {} : { total }) });
  }
}

/** A path of the guest for a frame. Throws TypeError for one that cannot be. */
export function guestPathBytes(path: string): Buffer {
  if (path === '' || path.includes('\0')) throw new TypeError(`${JSON.stringify(path)} is no path of the guest`);
  return Buffer.from(path);
}

/** Throws TypeError for a path of the host that cannot be. */
export function refuseNul(path: string): void {
  if (path.includes('\0')) throw new TypeError(`${JSON.stringify(path)} is no path: it has a NUL in it`);
}

/** A path's folder and last name. Throws AgentError EXISTS for one that has none, such as `/`, and TypeError. */
export function splitPath(path: string): { readonly folder: string; readonly name: string } {
  refuseNul(path);
  const whole = resolve(path);
  const name = basename(whole);
  if (path === '' || name === '') {
    throw new AgentError('EXISTS', `${JSON.stringify(path)} names nothing that a copy could become`, { side: 'host' });
  }
  return { folder: dirname(whole), name };
}
