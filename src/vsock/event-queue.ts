// The event queue of the vsock device: virtio 1.2, section 5.10.6.7. One kind of event exists, TRANSPORT_RESET: the guest
// is to forget its connections and to read its CID anew.
//
// Runs in the I/O worker. The driver posts buffers; an event that finds none waits for one. More than one reset at once
// is one reset.
//
// Left out: holding delivery back until the guest has taken the event, which a restored guest needs; `pump` is where that
// would end.

import { DescriptorChain } from '../devices/virtio/chain.js';
import { BROKEN, CHAIN, EMPTY, type SplitQueue } from '../devices/virtio/queue.js';
import type { GuestMemory } from '../platform/guest-memory.js';

/** struct virtio_vsock_event { le32 id; } */
const EVENT_SIZE = 4;
const VIRTIO_VSOCK_EVENT_TRANSPORT_RESET = 0;

/** What `pump` found. */
export const EVENT_IDLE = 0;
export const EVENT_SENT = 1;
export const EVENT_BROKEN = 2;
export type EventResult = typeof EVENT_IDLE | typeof EVENT_SENT | typeof EVENT_BROKEN;

export class EventQueue {
  private queue: SplitQueue | undefined;
  private chain: DescriptorChain | undefined;
  private pending = false;

  activate(memory: GuestMemory, queue: SplitQueue | undefined): void {
    this.queue = queue;
    this.chain = new DescriptorChain(memory);
    // A driver that comes up has no connections, and has yet to read its CID.
    this.pending = false;
  }

  deactivate(): void {
    this.queue = undefined;
    this.chain = undefined;
    this.pending = false;
  }

  /** Tells the driver, if there is one, as soon as it has a buffer for it. */
  transportReset(): void {
    this.pending = this.queue !== undefined;
  }

  /** Sends what waits, if there is a buffer. The caller publishes what was staged. */
  pump(): EventResult {
    const { queue, chain } = this;
    if (!this.pending || queue === undefined || chain === undefined) return EVENT_IDLE;
    for (;;) {
      const result = queue.pop(chain);
      if (result === EMPTY) return EVENT_IDLE;
      if (result === BROKEN) return EVENT_BROKEN;
      if (result === CHAIN && chain.readableCount === 0 && chain.writableBytes >= EVENT_SIZE) break;
      queue.addUsed(chain.head, 0);
    }
    chain.copyToWritable(0, EVENT, EVENT_SIZE);
    queue.addUsed(chain.head, EVENT_SIZE);
    this.pending = false;
    return EVENT_SENT;
  }

  /** Publishes; whether the driver wants an interrupt for it. */
  publish(): boolean {
    return this.queue?.publish() ?? false;
  }

  /** Asks to be notified of a buffer, if one is waited for; whether there is one already. */
  arm(): boolean {
    return this.pending && this.queue?.armNotifications() === true;
  }
}

const EVENT = new Uint8Array(new Uint32Array([VIRTIO_VSOCK_EVENT_TRANSPORT_RESET]).buffer);
