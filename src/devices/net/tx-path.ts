// Guest to host: writes the driver's frames to one queue of the tap, straight from guest memory. virtio 1.2, 5.1.6.2.
//
// Runs in the I/O worker. A tap takes one frame a call, so the batch is what is given back to the driver at once. Only
// the header is copied, checked and written from the copy. A frame that is refused, by us or by the kernel, is
// dropped and counted; one that the tap has no room for, or that a rate limit does not let through yet, stays first in
// its queue.

import { EAGAIN, errnoName } from '../../platform/errno.js';
import type { GuestMemory } from '../../platform/guest-memory.js';
import { IOV_MAX, IovecArray } from '../../platform/iovec.js';
import { libc, orErrno } from '../../platform/libc.js';
import type { Fd } from '../../platform/units.js';
import type { RateLimiter } from '../rate-limiter.js';
import { DescriptorChain, MAX_CHAIN_SEGMENTS } from '../virtio/chain.js';
import { BAD_CHAIN, BROKEN as BROKEN_RING, EMPTY, type SplitQueue } from '../virtio/queue.js';
import { HEADER_SIZE, MAX_FRAME, MIN_FRAME, TxHeader } from './header.js';
import { BROKEN, IDLE, WORKED, type PathContext, type PathResult } from './path.js';
import { TX_BYTES, TX_DROPPED, TX_FRAMES } from './settings.js';

/** Frames a batch takes at most, so that rx has its turn. */
const BATCH_FRAMES = 64;

export interface TxActivation {
  readonly memory: GuestMemory;
  readonly queue: SplitQueue;
  /** What the guest may leave to the device: a mask of TUN_F_…. */
  readonly offloads: number;
}

export class TxPath {
  private readonly fd: Fd;
  private readonly limiter: RateLimiter | undefined;
  private readonly context: PathContext;
  /** Asks to be told when the tap has room again. */
  private readonly awaitRoom: () => void;
  private readonly header = new TxHeader();
  private readonly iov = new IovecArray(1 + MAX_CHAIN_SEGMENTS);
  private queue: SplitQueue | undefined;
  private chain: DescriptorChain | undefined;
  private offloads = 0;
  /** The tap had no room for the next frame. */
  private full = false;
  /** The next frame's tokens have been taken. */
  private paid = false;

  constructor(fd: Fd, limiter: RateLimiter | undefined, context: PathContext, awaitRoom: () => void) {
    this.fd = fd;
    this.limiter = limiter;
    this.context = context;
    this.awaitRoom = awaitRoom;
  }

  activate({ memory, queue, offloads }: TxActivation): void {
    this.queue = queue;
    this.chain = new DescriptorChain(memory);
    this.offloads = offloads;
    this.full = false;
    this.paid = false;
  }

  deactivate(): void {
    this.queue = undefined;
    this.chain = undefined;
  }

  /** The tap has room again. */
  hasRoom(): void {
    this.full = false;
  }

  /** Sends a batch. Used entries are staged; the caller publishes them. */
  drain(): PathResult {
    const { queue, chain } = this;
    if (queue === undefined || chain === undefined || this.mustWait) return IDLE;
    for (let frames = 0; frames < BATCH_FRAMES; frames++) {
      const result = queue.pop(chain);
      if (result === BROKEN_RING) return BROKEN;
      if (result === EMPTY) return frames > 0 ? WORKED : IDLE;
      if (result === BAD_CHAIN) this.drop('malformed descriptor chain in a transmit queue dropped', chain.head);
      else if (!this.send(chain)) {
        queue.unpop();
        return frames > 0 ? WORKED : IDLE;
      }
      queue.addUsed(chain.head, 0);
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

  /** Before the loop sleeps: asks for notifications, and returns whether there is work already. */
  arm(): boolean {
    // While nothing may be sent, another frame is no news.
    if (this.queue === undefined || this.mustWait) return false;
    return this.queue.armNotifications();
  }

  private get mustWait(): boolean {
    return this.full || this.limiter?.blocked === true;
  }

  /** Sends or drops the frame in `chain`; false when it has to wait. */
  private send(chain: DescriptorChain): boolean {
    const bytes = chain.readableBytes - HEADER_SIZE;
    if (bytes < MIN_FRAME || bytes > MAX_FRAME) {
      this.drop('transmitted frame of an impossible length dropped', bytes);
      return true;
    }
    this.header.copyFrom(chain);
    const fault = this.header.fault(bytes, this.offloads);
    if (fault !== undefined) {
      this.drop(`transmitted frame dropped, for it asks for ${fault}`);
      return true;
    }
    this.describe(chain);
    if (this.iov.count > IOV_MAX) {
      this.drop('transmitted frame in too many pieces dropped', this.iov.count);
      return true;
    }
    if (!this.paid && this.limiter?.consume(bytes) === false) return false;
    const result = orErrno(libc.writev(this.fd, this.iov.entryAddress(0), this.iov.count));
    this.paid = result === -EAGAIN;
    if (result === -EAGAIN) {
      this.full = true;
      this.awaitRoom();
      return false;
    }
    if (result < 0) {
      this.drop(`the tap refused a frame: ${errnoName(-result)}`);
      return true;
    }
    const { counters } = this.context;
    counters[TX_FRAMES]++;
    counters[TX_BYTES] += bytes;
    return true;
  }

  /** The frame with the checked copy of its header, as one writev wants it. */
  private describe(chain: DescriptorChain): void {
    const { iov } = this;
    iov.clear();
    iov.add(this.header.address, HEADER_SIZE);
    let skip = HEADER_SIZE;
    for (let index = 0; index < chain.readableCount; index++) {
      const length = chain.lengths[index];
      if (skip < length) iov.add(chain.hostAddress(index, skip), length - skip);
      skip = skip > length ? skip - length : 0;
    }
  }

  private drop(what: string, detail?: number): void {
    this.context.counters[TX_DROPPED]++;
    this.context.note(what, detail);
  }
}
