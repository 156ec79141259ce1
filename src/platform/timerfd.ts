// timerfd(2) for I/O workers, which run no JavaScript timers.

import { check, close, libc, lastErrno } from './libc.js';
import { EAGAIN, SysError } from './errno.js';
import { NativeBuffer } from './native-buffer.js';
import type { Fd } from './units.js';

const CLOCK_MONOTONIC = 1;
const TFD_CLOEXEC = 0o2000000;
const TFD_NONBLOCK = 0o4000;

/** struct itimerspec { struct timespec it_interval, it_value; } with 64-bit seconds and nanoseconds. */
const ITIMERSPEC_SIZE = 32;
const IT_VALUE_OFFSET = 16;

/** A one-shot monotonic timer. Owned by one thread; `close` releases it. */
export class TimerFd {
  readonly fd: Fd;
  private readonly spec = new NativeBuffer(ITIMERSPEC_SIZE);
  private readonly expirations = new NativeBuffer(8);

  /** Throws SysError. */
  constructor() {
    this.fd = check(libc.timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), 'timerfd_create') as Fd;
  }

  /** Fires once, `milliseconds` (fractions allowed, at least 1 ns) from now; 0 or less disarms. Throws SysError. */
  arm(milliseconds: number): void {
    const nanoseconds = milliseconds <= 0 ? 0 : Math.max(1, Math.round(milliseconds * 1e6));
    this.spec.setU64(IT_VALUE_OFFSET, Math.floor(nanoseconds / 1e9));
    this.spec.setU64(IT_VALUE_OFFSET + 8, nanoseconds % 1e9);
    check(libc.timerfd_settime(this.fd, 0, this.spec.address, 0), 'timerfd_settime');
  }

  /** Takes an expiry; returns whether there was one. Throws SysError. */
  drain(): boolean {
    if (libc.read(this.fd, this.expirations.address, 8) === 8) return true;
    if (lastErrno() !== EAGAIN) throw new SysError('read timerfd', lastErrno());
    return false;
  }

  close(): void {
    close(this.fd);
  }
}
