// Opening a kernel or initramfs: regular files only, with every failure said in terms of the user's option. Main
// thread.

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';

import { BootError } from './errors.js';

/** Which of the user's files it is, as messages name it. */
export type BootFileRole = 'kernel' | 'initramfs';

/** An open regular file of at least one byte. Close it when done: `using` does. */
export class BootFile implements Disposable {
  readonly path: string;
  readonly role: BootFileRole;
  /** Bytes, when it was opened. */
  readonly size: number;
  readonly fd: number;

  /** Throws BootError: not-found, no-permission, not-a-file, empty, io. */
  constructor(path: string, role: BootFileRole) {
    this.path = path;
    this.role = role;
    this.fd = open(path, role);
    try {
      this.size = sizeOfRegularFile(this.fd, path, role);
    } catch (error) {
      closeSync(this.fd);
      throw error;
    }
  }

  /** Up to `length` bytes from `offset`; fewer only where the file ends. Throws BootError io. */
  read(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(Math.max(0, Math.min(length, this.size - offset)));
    let done = 0;
    while (done < bytes.length) {
      let count: number;
      try {
        count = readSync(this.fd, bytes, done, bytes.length - done, offset + done);
      } catch (cause) {
        throw unreadable(this.path, this.role, cause);
      }
      if (count === 0) return bytes.subarray(0, done); // shortened by someone since it was opened
      done += count;
    }
    return bytes;
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
  }
}

/** The BootError for a failed system call on `path`. */
export function unreadable(path: string, role: BootFileRole, cause: unknown): BootError {
  const code = errnoCode(cause);
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new BootError('not-found', `the ${role} does not exist`, 'check the path', { path, cause });
    case 'EACCES':
    case 'EPERM':
      return new BootError('no-permission', `no permission to read the ${role}`, 'make it readable for this user', {
        path,
        cause,
      });
    default:
      return new BootError('io', `cannot read the ${role} (${code})`, 'check the file and the disk it is on', {
        path,
        cause,
      });
  }
}

function open(path: string, role: BootFileRole): number {
  try {
    // O_NONBLOCK: opening a FIFO must end in an error, not in waiting for a writer.
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    // A socket cannot be opened at all.
    if (errnoCode(cause) === 'ENXIO') throw notAFile(path, role, 'a socket');
    throw unreadable(path, role, cause);
  }
}

function sizeOfRegularFile(fd: number, path: string, role: BootFileRole): number {
  const stat = fstatSync(fd);
  if (stat.isDirectory()) throw notAFile(path, role, 'a directory');
  if (stat.isFIFO()) throw notAFile(path, role, 'a FIFO');
  if (stat.isCharacterDevice() || stat.isBlockDevice()) throw notAFile(path, role, 'a device');
  if (stat.size === 0) {
    const mend = role === 'initramfs' ? 'check how it was made, or boot without one' : 'check how it was made';
    throw new BootError('empty', `the ${role} is an empty file`, mend, { path });
  }
  return stat.size;
}

function notAFile(path: string, role: BootFileRole, what: string): BootError {
  return new BootError('not-a-file', `the ${role} is ${what}`, 'name a regular file', { path });
}

function errnoCode(error: unknown): string {
  const { code } = error as { readonly code?: unknown };
  return typeof code === 'string' ? code : String(error);
}
