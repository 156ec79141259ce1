// The entropy device: virtio 1.2, section 5.4. The guest posts buffers, the device fills them with random bytes.
//
// Runs in the I/O worker that owns it. The source is read straight into the guest's buffers, at most MAX_BYTES a request:
// the driver gets fewer bytes than it asked for, as it may, and asks again. A source that has none now is waited for by
// epoll; one that epoll does not take is asked again after a while.
//
// At the end of a regular file the request stays open: there is nothing random to answer with, and a driver may not be
// given an empty buffer back. The guest waits, and the log says why.

import { EAGAIN, EINTR, EPERM, errnoName, SysError } from '../../platform/errno.js';
import { EPOLLIN } from '../../platform/epoll.js';
import type { FdHandler, Timer, TimerTask } from '../../platform/event-loop.js';
import { IovecArray } from '../../platform/iovec.js';
import { lastErrno, libc } from '../../platform/libc.js';
import { KIB } from '../../platform/units.js';
import { FaultLog } from '../fault-log.js';
import type { DescriptorChain } from '../virtio/chain.js';
import type { Activation, DeviceContext, VirtioDevice } from '../virtio/device.js';
import { RequestQueue, WAIT, type RequestHandler } from '../virtio/request-queue.js';
import type { RngSettings } from './settings.js';

// Places in RNG_COUNTERS.
const BYTES = 0;
const REQUESTS = 1;
const WAITS = 2;
const FAULTS = 3;

/** Bytes of one request that are filled: 0.2 ms of /dev/urandom. */
const MAX_BYTES = 64 * KIB;
const BATCH = 16;
/** How long after a source had nothing, and epoll does not take it, it is asked again. */
const RETRY_MS = 100;

export class RngDevice implements VirtioDevice, RequestHandler, FdHandler, TimerTask {
  private readonly settings: RngSettings;
  private readonly context: DeviceContext;
  private readonly faults: FaultLog;
  private readonly iovecs = new IovecArray();
  private queue: RequestQueue | undefined;
  /** Whether a request waits for the source. */
  private waiting = false;
  private retry: Timer | undefined;
  /** Why the source could not be read the last time; said once. */
  private failure = 0;

  constructor(settings: RngSettings, context: DeviceContext) {
    this.settings = settings;
    this.context = context;
    this.faults = FaultLog.ofDevice(context);
  }

  activate({ memory, queues, interrupt }: Activation): void {
    const [queue] = queues;
    if (queue === undefined) {
      this.fault('the guest driver left out the request queue');
      interrupt.needsReset();
      return;
    }
    this.queue = new RequestQueue({ loop: this.context.loop, memory, queue, interrupt, handler: this, batch: BATCH });
  }

  reset(): void {
    this.stopWaiting();
    this.queue?.close();
    this.queue = undefined;
  }

  queueNotified(_index: number): void {
    this.stopWaiting();
    this.queue?.run();
  }

  close(): void {
    this.reset();
  }

  handle(chain: DescriptorChain): number {
    const { counters } = this.context;
    // 5.4.6: buffers are for the device to write. What a driver wants read is its mistake.
    if (chain.writableBytes === 0) {
      this.fault('the guest driver asked for no bytes');
      return 0;
    }
    const { iovecs } = this;
    iovecs.clear();
    for (let index = chain.readableCount; index < chain.count && iovecs.totalBytes < MAX_BYTES; index++) {
      iovecs.add(chain.hostAddress(index), Math.min(chain.lengths[index], MAX_BYTES - iovecs.totalBytes));
    }
    const count = libc.readv(this.settings.fd, iovecs.entryAddress(0), iovecs.count);
    if (count <= 0) return this.wait(count === 0 ? 0 : lastErrno());
    this.failure = 0;
    counters[BYTES] += count;
    counters[REQUESTS]++;
    return count;
  }

  badChain(): void {
    this.fault('the guest driver made a malformed chain available');
  }

  broken(): void {
    this.fault('the guest driver broke its virtqueue; the device needs a reset');
    this.reset();
  }

  /** The source has something again. */
  ready(): void {
    this.queueNotified(0);
  }

  timerExpired(): void {
    this.retry = undefined;
    this.queueNotified(0);
  }

  /** The source gave nothing: at its end (0), or for `errno`. */
  private wait(errno: number): typeof WAIT {
    const { fd, path } = this.settings;
    const { loop, counters } = this.context;
    counters[WAITS]++;
    if (errno === 0) {
      this.faults.note(`${path} is at its end: the guest gets no more random bytes; name a device, like /dev/urandom`);
      return WAIT;
    }
    if (errno !== EAGAIN && errno !== EINTR && errno !== this.failure) {
      this.failure = errno;
      this.faults.note(`${path} cannot be read (${errnoName(errno)}); it is tried again and again`);
    }
    this.waiting = true;
    try {
      // A failing source would be ready at once, again and again.
      if (errno === EAGAIN) {
        loop.watch(fd, EPOLLIN, this);
        return WAIT;
      }
    } catch (error) {
      // EPERM: files and some devices cannot be waited for.
      if (!(error instanceof SysError) || error.errno !== EPERM) throw error;
    }
    this.retry = loop.setTimer(RETRY_MS, this);
    return WAIT;
  }

  private stopWaiting(): void {
    if (!this.waiting) return;
    this.waiting = false;
    const { loop } = this.context;
    loop.unwatch(this.settings.fd);
    loop.cancelTimer(this.retry);
    this.retry = undefined;
  }

  private fault(what: string): void {
    this.context.counters[FAULTS]++;
    this.faults.note(what);
  }
}
