// eventfd(2): a counter that threads, KVM (ioeventfd, irqfd) and epoll understand.

import { check, libc, lastErrno } from './libc.js';
import { EAGAIN, SysError } from './errno.js';
import { NativeBuffer } from './native-buffer.js';
import type { Fd } from './units.js';

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

/** Creates a non-blocking eventfd with counter 0. The caller owns the descriptor. Throws SysError. */
export function createEventFd(): Fd {
  return check(libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), 'eventfd') as Fd;
}

// One per thread, since each worker evaluates this module for itself.
const one = new NativeBuffer(8);
one.setU64(0, 1);
const counter = new NativeBuffer(8);

/**
 * Adds 1 to the counter: wakes whoever waits on it. A full counter (EAGAIN) already means "look", so it is no error.
 * Throws SysError on anything else, which can only be a closed descriptor.
 */
export function signalEventFd(fd: Fd): void {
  if (libc.write(fd, one.address, 8) < 0 && lastErrno() !== EAGAIN) throw new SysError('write eventfd', lastErrno());
}

/** Takes the counter back to 0; returns whether it was above 0. Throws SysError. */
export function drainEventFd(fd: Fd): boolean {
  if (libc.read(fd, counter.address, 8) === 8) return true;
  if (lastErrno() !== EAGAIN) throw new SysError('read eventfd', lastErrno());
  return false;
}
