// The host's listening Unix socket of a device: taken at start, given back at the end. Main thread.

import { lstatSync, unlinkSync, type Stats } from 'node:fs';
import { dirname } from 'node:path';
import { SysError } from '../platform/errno.js';
import { check, close, libc, O_RDONLY, open } from '../platform/libc.js';
import { listenUnix, probeUnixSocket, SOCK_STREAM, type SocketType } from '../platform/unix-socket.js';
import type { Fd } from '../platform/units.js';
import { VmError } from './errors.js';

const LOCK_EX = 2;
/** Bursts of clients wait here until the I/O worker takes them; the kernel caps it at net.core.somaxconn. */
const BACKLOG = 4096;

/** Leaves a new socket readable and writable for its owner alone. */
const PRIVATE_MASK = 0o177;

export interface HostSocketOptions {
  readonly type?: SocketType;
  /** Only its owner may connect. */
  readonly isPrivate?: boolean;
}

function statIfPresent(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

/** A listening socket and the file it is bound to. `close` closes it and removes the file if it is still ours. */
export class HostSocket {
  readonly fd: Fd;
  readonly path: string;
  private readonly file: Stats | undefined;

  /**
   * Listens at `path`, replacing the socket file that a killed process left. Throws VmError SOCKET_IN_USE when a live
   * process listens there, HOST_PATH when the path cannot be used.
   */
  constructor(option: string, path: string, { type = SOCK_STREAM, isPrivate = false }: HostSocketOptions = {}) {
    this.path = path;
    try {
      this.fd = withDirectoryLocked(path, () => {
        clearTheWay(option, path, type);
        const listen = (): Fd => listenUnix(path, type, BACKLOG);
        return isPrivate ? withMask(PRIVATE_MASK, listen) : listen();
      });
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      throw new VmError(
        'HOST_PATH',
        `${option}: cannot listen at ${path} (${error.code})`,
        'name a socket path in a directory where you may create files',
        error,
      );
    }
    this.file = statIfPresent(path);
  }

  close(): void {
    close(this.fd);
    const present = statIfPresent(this.path);
    if (present !== undefined && present.ino === this.file?.ino && present.dev === this.file.dev) unlinkSync(this.path);
  }
}

/**
 * Holds a lock on the directory meanwhile: of two monitors that start at once, one must not take the other's fresh
 * socket for a stale one. The lock is the kernel's and leaves nothing behind, whatever happens to its holder.
 */
function withDirectoryLocked<T>(path: string, action: () => T): T {
  const directory = open(dirname(path), O_RDONLY);
  try {
    check(libc.flock(directory, LOCK_EX), 'flock', dirname(path));
    return action();
  } finally {
    close(directory);
  }
}

/** There is no moment at which others could connect: the file has its mode from the beginning. */
function withMask<T>(mask: number, action: () => T): T {
  const before = process.umask(mask);
  try {
    return action();
  } finally {
    process.umask(before);
  }
}

function clearTheWay(option: string, path: string, type: SocketType): void {
  const present = statIfPresent(path);
  if (present === undefined) return;
  if (!present.isSocket()) {
    throw new VmError(
      'HOST_PATH',
      `${option}: ${path} exists and is not a socket`,
      'name another path, or remove it if you do not need it',
    );
  }
  if (probeUnixSocket(path, type) === 'live') {
    throw new VmError(
      'SOCKET_IN_USE',
      `${option}: a running process listens at ${path}`,
      'end that process (another VM?) or name another path',
    );
  }
  unlinkSync(path);
}
