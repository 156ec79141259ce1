// Both directions of a non-blocking descriptor that another process is at the other end of: a socket, the master of a
// pseudo-terminal. Main thread.

import { EAGAIN, EINTR } from './errno.js';
import { FdWatcher } from './fd-watcher.js';
import { addressOf, check, close, libc, orErrno } from './libc.js';
import { NativeBuffer } from './native-buffer.js';
import type { Fd } from './units.js';

// struct pollfd { int fd; short events; short revents; }
const POLLFD_SIZE = 8;
const POLLIN = 0x001;
const POLLERR = 0x008;
const POLLHUP = 0x010;

const pollFd = new NativeBuffer(POLLFD_SIZE);

/** Whether there is something to read, and whether the other side is gone for good (or for now: a pseudo-terminal). */
export function pollDescriptor(fd: Fd): { readonly readable: boolean; readonly hungUp: boolean } {
  pollFd.view.setInt32(0, fd, true);
  pollFd.view.setUint16(4, POLLIN, true);
  pollFd.view.setUint16(6, 0, true);
  check(libc.poll(pollFd.address, 1, 0), 'poll');
  const ready = pollFd.view.getUint16(6, true);
  return { readable: (ready & POLLIN) !== 0, hungUp: (ready & (POLLHUP | POLLERR)) !== 0 };
}

/** A stream over `fd`, which has to be non-blocking and stays the caller's. `close` ends the watching. */
export class NonBlockingDuplex {
  private readonly fd: Fd;
  /** The same file once more: a descriptor can be watched once, and the two directions are watched apart. */
  private readonly writeFd: Fd;
  private reading: FdWatcher | undefined;
  private writing: FdWatcher | undefined;
  private writers = new Set<() => void>();

  /** Throws SysError. */
  constructor(fd: Fd) {
    this.fd = fd;
    this.writeFd = check(libc.dup(fd), `dup ${fd}`) as Fd;
  }

  /** read(2): how many bytes, 0 at the end, or a negative errno; -EAGAIN when there is nothing now. */
  read(into: NativeBuffer): number {
    const result = orErrno(libc.read(this.fd, into.address, into.byteLength));
    return result === -EINTR ? -EAGAIN : result;
  }

  /** Writes what can be written at once: how many bytes that was (0: would block), or a negative errno. */
  write(bytes: Uint8Array): number {
    const result = orErrno(libc.write(this.fd, addressOf(bytes), bytes.length));
    return result === -EAGAIN || result === -EINTR ? 0 : result;
  }

  /** Whether the other side is gone; there may be bytes of it to read still. */
  get hungUp(): boolean {
    return pollDescriptor(this.fd).hungUp;
  }

  /** Calls back once, when `read` gives something: bytes, the end, or an error. */
  whenReadable(callback: () => void): void {
    this.reading = new FdWatcher(this.fd, { readable: true }, () => {
      this.reading?.close();
      this.reading = undefined;
      callback();
    });
  }

  /** Calls back once, when `write` may take bytes or says why not. Several callbacks may wait, each of them once. */
  whenWritable(callback: () => void): void {
    this.writers.add(callback);
    this.writing ??= new FdWatcher(this.writeFd, { writable: true }, () => {
      for (const writer of this.stopWriting()) writer();
    });
  }

  /** Returns who still waited to write. */
  close(): Iterable<() => void> {
    this.reading?.close();
    this.reading = undefined;
    const writers = this.stopWriting();
    close(this.writeFd);
    return writers;
  }

  private stopWriting(): Iterable<() => void> {
    this.writing?.close();
    this.writing = undefined;
    const { writers } = this;
    this.writers = new Set();
    return writers;
  }
}
