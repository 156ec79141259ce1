// The event queue of the vsock device: virtio 1.2, section 5.10.6.7. One kind of event exists, TRANSPORT_RESET: the guest
// is to forget its connections and to read its CID anew.
//
// Runs in the I/O worker. The driver posts buffers; an event that finds none waits for one. More than one reset at once
// is one reset.
//
// After a restore, delivery of packets is held back (`gated`) until the guest has taken the event: it would be asked about
// connections that it still believes in. It has taken it when it makes another buffer available, as Linux does with the
// one that brought the event.

import { DescriptorChain } from '../devices/virtio/chain.js';
import { BROKEN, CHAIN, EMPTY, type SplitQueue } from '../devices/virtio/queue.js';
import type { GuestMemory } from '../platform/guest-memory.js';

/** struct virtio_vsock_event { le32 id; } */
const EVENT_SIZE = 4;
const VIRTIO_VSOCK_EVENT_TRANSPORT_RESET = 0;

const NOT_TOLD = -1;

/** What `pump` found. */
export const EVENT_IDLE = 0;
/** An event was sent, or the gate was opened. */
export const EVENT_SENT = 1;
export const EVENT_BROKEN = 2;
export type EventResult = typeof EVENT_IDLE | typeof EVENT_SENT | typeof EVENT_BROKEN;

export class EventQueue {
  private queue: SplitQueue | undefined;
  private chain: DescriptorChain | undefined;
  private pending = false;
  /** Whether delivery waits for the guest to take the event. */
  private waiting = false;
  /** The driver's available index when it was told of the event that is waited for; -1 while it was not. */
  private toldAt = NOT_TOLD;

  /** Whether no packet may be delivered yet. */
  get gated(): boolean {
    return this.waiting;
  }

  activate(memory: GuestMemory, queue: SplitQueue | undefined): void {
    this.queue = queue;
    this.chain = new DescriptorChain(memory);
    // A driver that comes up has no connections, and has yet to read its CID.
    this.pending = false;
    this.open();
  }

  deactivate(): void {
    this.queue = undefined;
    this.chain = undefined;
    this.pending = false;
    this.open();
  }

  /** Tells the driver, if there is one, as soon as it has a buffer for it. */
  transportReset(): void {
    this.pending = this.queue !== undefined;
  }

  /** Tells the driver, and holds packets back until it has heard: it was restored, and its connections were not. */
  transportResetAfterRestore(): void {
    this.transportReset();
    this.waiting = this.pending;
    this.toldAt = NOT_TOLD;
  }

  /** Sends what waits, if there is a buffer. The caller publishes what was staged. */
  pump(): EventResult {
    const { queue, chain } = this;
    if (queue === undefined || chain === undefined) return EVENT_IDLE;
    if (this.waiting && this.toldAt !== NOT_TOLD && queue.available !== this.toldAt) {
      this.open();
      return EVENT_SENT;
    }
    if (!this.pending) return EVENT_IDLE;
    // As many as the ring holds: see RxBuffers.refill.
    for (let taken = 0; ; taken++) {
      const result = taken < queue.size ? queue.pop(chain) : EMPTY;
      if (result === EMPTY) return EVENT_IDLE;
      if (result === BROKEN) return EVENT_BROKEN;
      if (result === CHAIN && chain.readableCount === 0 && chain.writableBytes >= EVENT_SIZE) break;
      queue.addUsed(chain.head, 0);
    }
    chain.copyToWritable(0, EVENT, EVENT_SIZE);
    queue.addUsed(chain.head, EVENT_SIZE);
    this.pending = false;
    if (this.waiting) this.toldAt = queue.available;
    return EVENT_SENT;
  }

  /** Publishes; whether the driver wants an interrupt for it. */
  publish(): boolean {
    return this.queue?.publish() ?? false;
  }

  /** Asks to be notified of a buffer, if one is waited for; whether there is one already. */
  arm(): boolean {
    const { queue } = this;
    if (queue === undefined) return false;
    if (this.pending) return queue.armNotifications();
    return this.waiting && queue.armForMoreThan(this.toldAt);
  }

  private open(): void {
    this.waiting = false;
    this.toldAt = NOT_TOLD;
  }
}

const EVENT = new Uint8Array(new Uint32Array([VIRTIO_VSOCK_EVENT_TRANSPORT_RESET]).buffer);
