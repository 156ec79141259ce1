// Host to guest: reads frames from one queue of the tap straight into what the driver has posted. virtio 1.2, 5.1.6.4.
//
// Runs in the I/O worker. A tap gives one frame a call, so the batch is what is published at once, with one decision
// about an interrupt. Without buffers nothing is read: frames wait in the tap, whose sender is the host's own network
// stack, and the guest is asked to notify when it posts some.

import { EAGAIN, EFAULT } from '../../platform/errno.js';
import type { GuestMemory } from '../../platform/guest-memory.js';
import { libc, orErrno } from '../../platform/libc.js';
import type { Fd } from '../../platform/units.js';
import type { RateLimiter } from '../rate-limiter.js';
import type { SplitQueue } from '../virtio/queue.js';
import { HEADER_SIZE, MIN_FRAME } from './header.js';
import { BROKEN, IDLE, WORKED, type PathContext, type PathResult } from './path.js';
import { RxBuffers } from './rx-buffers.js';
import { RX_BYTES, RX_DROPPED, RX_FRAMES } from './settings.js';

/** Frames between two publications: the guest works on one batch while the next is read. */
const BATCH_FRAMES = 64;
/** More than a tap holds unless it was told to; a host that sends as fast as this drops must not keep the worker here. */
const STALE_FRAMES = 4096;

export interface RxActivation {
  readonly memory: GuestMemory;
  readonly queue: SplitQueue;
  /** VIRTIO_NET_F_MRG_RXBUF: a frame may take several chains. */
  readonly merge: boolean;
}

export class RxPath {
  /** The tap may have something to read. */
  mayRead = false;
  /** The driver has no checksum offload, and is to see no flag about it. */
  clearFlags = false;
  private readonly fd: Fd;
  private readonly limiter: RateLimiter | undefined;
  private readonly context: PathContext;
  private queue: SplitQueue | undefined;
  private buffers: RxBuffers | undefined;
  /** There is something to receive, and nothing to receive it in. */
  private starved = false;

  constructor(fd: Fd, limiter: RateLimiter | undefined, context: PathContext) {
    this.fd = fd;
    this.limiter = limiter;
    this.context = context;
  }

  activate({ memory, queue, merge }: RxActivation): void {
    this.queue = queue;
    this.buffers = new RxBuffers(memory, queue, merge, (head) => {
      this.context.note('unusable chain in a receive queue dropped', head);
    });
    this.starved = false;
    this.discardStale(this.buffers);
  }

  get active(): boolean {
    return this.queue !== undefined;
  }

  /** Holds no chain of the driver's until the next `pump`. */
  putBuffersBack(): void {
    this.buffers?.putBack();
    this.starved = false;
  }

  deactivate(): void {
    this.queue = undefined;
    this.buffers = undefined;
    this.mayRead = false;
    this.starved = false;
  }

  /** Receives a batch. Used entries are staged; the caller publishes them. */
  pump(): PathResult {
    const { queue, buffers } = this;
    if (queue === undefined || buffers === undefined || !(this.mayRead || buffers.parked)) return IDLE;
    if (this.throttled() || (this.starved && queue.pending() === 0)) return IDLE;
    this.starved = false;
    for (let frames = 0; frames < BATCH_FRAMES; frames++) {
      if (buffers.wantsMore() && queue.pending() > 0 && !buffers.refill()) return BROKEN;
      const received = buffers.parked ? this.unpark(buffers) : this.receive(buffers);
      if (!received) return frames > 0 || queue.staged ? WORKED : IDLE;
      if (this.throttled()) break;
    }
    return WORKED;
  }

  /** Publishes the batch; whether the driver wants an interrupt for it. */
  publish(): boolean {
    return this.queue?.publish() ?? false;
  }

  suppressNotifications(): void {
    this.queue?.suppressNotifications();
  }

  /** Before the loop sleeps: asks for a notification if there must be one, and returns whether there is work already. */
  arm(): boolean {
    if (this.queue === undefined || !this.starved) return false;
    return this.queue.armNotifications();
  }

  private throttled(): boolean {
    return this.limiter?.blocked === true;
  }

  /** Reads one frame; false when there is none, or nothing to read it into. */
  private receive(buffers: RxBuffers): boolean {
    if (buffers.held === 0) {
      this.starved = true;
      return false;
    }
    const { counters, lost } = this.context;
    buffers.prepare();
    const result = this.read(buffers);
    if (result >= HEADER_SIZE + MIN_FRAME) {
      if (buffers.finish(result, this.clearFlags)) this.count(result);
      else if (!buffers.parked) counters[RX_DROPPED]++;
      this.limiter?.charge(1, result - HEADER_SIZE);
      return true;
    }
    buffers.cancel();
    if (result === -EAGAIN) {
      this.mayRead = false;
      return false;
    }
    // The frame is gone; so is whatever is no frame, which a tap does not give.
    if (result > 0 || result === -EFAULT) {
      counters[RX_DROPPED]++;
      return true;
    }
    this.mayRead = false;
    lost(-result);
    return false;
  }

  /** Goes on with the parked frame; false when it waits for more buffers still. */
  private unpark(buffers: RxBuffers): boolean {
    const bytes = buffers.unpark(this.clearFlags);
    if (bytes > 0) this.count(bytes);
    else if (bytes < 0) this.context.counters[RX_DROPPED]++;
    else this.starved = true;
    return bytes !== 0;
  }

  private read(buffers: RxBuffers): number {
    return orErrno(libc.readv(this.fd, buffers.iov.entryAddress(buffers.firstEntry), buffers.entryCount));
  }

  private count(bytes: number): void {
    const { counters } = this.context;
    counters[RX_FRAMES]++;
    counters[RX_BYTES] += bytes - HEADER_SIZE;
  }

  /**
   * Drops what came while there was no driver: it was for another guest, or is segments that this one did not say it
   * can take.
   */
  private discardStale(buffers: RxBuffers): void {
    for (let frames = 0; frames < STALE_FRAMES; frames++) {
      buffers.prepareDiscard();
      const result = this.read(buffers);
      buffers.cancel();
      if (result <= 0) return;
      this.context.counters[RX_DROPPED]++;
    }
  }
}
