// System call failures as typed errors. The only place that knows errno numbers by name.

import { constants } from 'node:os';

const ERRNO = constants.errno;

const NAME_BY_NUMBER = new Map<number, string>(Object.entries(ERRNO).map(([name, number]) => [number, name]));

export const EPERM = ERRNO.EPERM;
export const ENOENT = ERRNO.ENOENT;
export const EINTR = ERRNO.EINTR;
export const EIO = ERRNO.EIO;
export const EBADF = ERRNO.EBADF;
export const EAGAIN = ERRNO.EAGAIN;
export const ENOMEM = ERRNO.ENOMEM;
export const EACCES = ERRNO.EACCES;
export const ENOSPC = ERRNO.ENOSPC;
export const EINVAL = ERRNO.EINVAL;
export const ENOTTY = ERRNO.ENOTTY;
export const EOPNOTSUPP = ERRNO.EOPNOTSUPP;
export const EMFILE = ERRNO.EMFILE;
export const ENFILE = ERRNO.ENFILE;
export const EPIPE = ERRNO.EPIPE;
export const ENXIO = ERRNO.ENXIO;
export const EMSGSIZE = ERRNO.EMSGSIZE;
export const ECONNABORTED = ERRNO.ECONNABORTED;
export const ECONNREFUSED = ERRNO.ECONNREFUSED;
export const ECONNRESET = ERRNO.ECONNRESET;
export const EADDRINUSE = ERRNO.EADDRINUSE;
export const EADDRNOTAVAIL = ERRNO.EADDRNOTAVAIL;
export const EBUSY = ERRNO.EBUSY;
export const EFAULT = ERRNO.EFAULT;
export const ENODEV = ERRNO.ENODEV;

/** The symbolic name of an errno value (`2` is `ENOENT`); `errno N` for one this system does not name. */
export function errnoName(errno: number): string {
  return NAME_BY_NUMBER.get(errno) ?? `errno ${errno}`;
}

/** A system call that failed: which call, with which errno, on which path if it had one. */
export class SysError extends Error {
  override readonly name = 'SysError';
  /** The call, for example `open` or `ioctl KVM_CREATE_VM`. */
  readonly call: string;
  /** The positive errno value. */
  readonly errno: number;
  /** The symbolic errno name, for example `EACCES`. */
  readonly code: string;
  readonly path: string | undefined;

  constructor(call: string, errno: number, path?: string) {
    super(`${call}${path === undefined ? '' : ` ${path}`}: ${errnoName(errno)}`);
    this.call = call;
    this.errno = errno;
    this.code = errnoName(errno);
    this.path = path;
  }
}
