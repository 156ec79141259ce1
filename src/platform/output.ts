// Writes to a descriptor that may be a terminal, a pipe, a socket or a file, without ever blocking the caller.
//
// Setting O_NONBLOCK on an inherited stdout would change it for every process that shares it (the user's shell among
// them), so terminals and pipes are opened again through /proc for a file description of our own.

import { fstatSync } from 'node:fs';
import { EAGAIN, EINTR } from './errno.js';
import { FdWatcher } from './fd-watcher.js';
import { addressOf, check, close, libc, O_NOCTTY, O_NONBLOCK, O_WRONLY, open, orErrno } from './libc.js';
import type { Fd } from './units.js';

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/** A non-blocking byte sink over a descriptor. Main thread. `close` releases what it opened, not the original. */
export class NonBlockingOutput {
  private readonly fd: Fd;
  private readonly isSocket: boolean;
  private waiting: FdWatcher | undefined;

  /** `original` stays the caller's. Throws SysError. */
  constructor(original: Fd) {
    const kind = fstatSync(original);
    this.isSocket = kind.isSocket();
    this.fd = kind.isFIFO() || kind.isCharacterDevice() ? reopen(original) : duplicate(original);
  }

  /**
   * Writes what can be written at once. Returns how many bytes that was (0: would block), or the negative errno of an
   * output that takes nothing any more (EPIPE, EIO, ENOSPC...).
   */
  write(bytes: Uint8Array): number {
    const address = addressOf(bytes);
    const result = this.isSocket
      ? orErrno(libc.send(this.fd, address, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL))
      : orErrno(libc.write(this.fd, address, bytes.length));
    return result === -EAGAIN || result === -EINTR ? 0 : result;
  }

  /** Calls back once, when `write` may take bytes again. */
  whenWritable(callback: () => void): void {
    this.waiting ??= new FdWatcher(this.fd, { writable: true }, () => {
      this.waiting?.close();
      this.waiting = undefined;
      callback();
    });
  }

  close(): void {
    this.waiting?.close();
    this.waiting = undefined;
    close(this.fd);
  }
}

function reopen(original: Fd): Fd {
  try {
    return open(`/proc/self/fd/${original}`, O_WRONLY | O_NONBLOCK | O_NOCTTY);
  } catch {
    // A terminal of another user (after `su`), or no /proc: better a write that may block than no output.
    return duplicate(original);
  }
}

function duplicate(original: Fd): Fd {
  return check(libc.dup(original), `dup ${original}`) as Fd;
}
