// epoll(7) for I/O workers: a blocking wait through FFI, with a caller-chosen 32-bit token per descriptor.

import { EINTR } from './errno.js';
import { check, close, lastErrno, libc } from './libc.js';
import { NativeBuffer } from './native-buffer.js';
import { SysError } from './errno.js';
import type { Fd } from './units.js';

export const EPOLLIN = 0x001;
export const EPOLLOUT = 0x004;
export const EPOLLERR = 0x008;
export const EPOLLHUP = 0x010;
export const EPOLLRDHUP = 0x2000;
/** Edge-triggered: an eventfd need not be read to be quiet again, which saves a call per wake-up. */
export const EPOLLET = 0x8000_0000;

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;

/** struct epoll_event { uint32_t events; uint64_t data; } packed on x86-64. */
const EVENT_SIZE = 12;
const EVENT_DATA_OFFSET = 4;

/** An epoll instance. Owned by one thread; `close` releases it. */
export class Epoll {
  private readonly fd: Fd;
  private readonly event = new NativeBuffer(EVENT_SIZE);
  private readonly ready: NativeBuffer;
  private readonly maxEvents: number;

  /** `maxEvents` bounds how many events one `wait` returns. Throws SysError. */
  constructor(maxEvents = 256) {
    this.maxEvents = maxEvents;
    this.ready = new NativeBuffer(maxEvents * EVENT_SIZE);
    this.fd = check(libc.epoll_create1(EPOLL_CLOEXEC), 'epoll_create1') as Fd;
  }

  /** Starts watching `fd` for `events`; `token` (unsigned 32 bits) comes back with each event. Throws SysError. */
  add(fd: Fd, events: number, token: number): void {
    this.control(EPOLL_CTL_ADD, fd, events, token);
  }

  /** Changes what `fd` is watched for. Throws SysError. */
  modify(fd: Fd, events: number, token: number): void {
    this.control(EPOLL_CTL_MOD, fd, events, token);
  }

  /** Stops watching `fd`. Throws SysError. */
  remove(fd: Fd): void {
    this.control(EPOLL_CTL_DEL, fd, 0, 0);
  }

  /**
   * Waits up to `timeoutMs` (-1: for ever, 0: not at all) and returns the number of events, read with `eventsAt` and
   * `tokenAt`. An interrupted wait counts as 0 events. Throws SysError.
   */
  wait(timeoutMs: number): number {
    const count = libc.epoll_wait(this.fd, this.ready.address, this.maxEvents, timeoutMs);
    if (count >= 0) return count;
    const errno = lastErrno();
    if (errno === EINTR) return 0;
    throw new SysError('epoll_wait', errno);
  }

  eventsAt(index: number): number {
    return this.ready.view.getUint32(index * EVENT_SIZE, true);
  }

  tokenAt(index: number): number {
    return this.ready.view.getUint32(index * EVENT_SIZE + EVENT_DATA_OFFSET, true);
  }

  close(): void {
    close(this.fd);
  }

  private control(operation: number, fd: Fd, events: number, token: number): void {
    this.event.setU32(0, events);
    this.event.setU32(EVENT_DATA_OFFSET, token);
    check(libc.epoll_ctl(this.fd, operation, fd, this.event.address), 'epoll_ctl');
  }
}
