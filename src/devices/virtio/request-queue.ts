// One virtqueue of a device that answers each chain on the spot: takes chains in batches, hands each to the device, gives
// them back and interrupts once. Runs in the I/O worker that owns the device.
//
// The driver is asked not to notify while a batch is worked on, and the batch is bounded, so that one queue cannot keep
// the worker from its other devices: what is left comes in the next turn of the event loop.
//
// A chain that is answered later is kept by the device, which gives its head back (`KEEP`).

import type { DeferredTask, EventLoop } from '../../platform/event-loop.js';
import type { GuestMemory } from '../../platform/guest-memory.js';
import { DescriptorChain } from './chain.js';
import type { DeviceInterrupt } from './device.js';
import { BAD_CHAIN, BROKEN, EMPTY, type SplitQueue } from './queue.js';

/** What a handler returns for a chain that must wait: it is put back, and nothing is taken before `run`. */
export const WAIT = -1;
/** What a handler returns for a chain that it keeps: `giveBack` ends that. */
export const KEEP = -2;

export interface RequestHandler {
  /** Handles the chain; returns how many bytes were written to it, WAIT or KEEP. */
  handle(chain: DescriptorChain): number;
  /** A chain was malformed; it has been given back unused. */
  badChain(): void;
  /** The ring makes no sense: the device was asked to be reset, and takes nothing from the queue any more. */
  broken(): void;
}

/** Everything a queue needs while its driver is there. */
export interface RequestQueueOptions {
  readonly loop: EventLoop;
  readonly memory: GuestMemory;
  readonly queue: SplitQueue;
  readonly interrupt: DeviceInterrupt;
  readonly handler: RequestHandler;
  /** Chains that are taken in one turn of the loop. */
  readonly batch: number;
}

/** Made at activation; `close` at reset. */
export class RequestQueue implements DeferredTask {
  private readonly options: RequestQueueOptions;
  private readonly chain: DescriptorChain;
  private deferred = false;
  private closed = false;

  constructor(options: RequestQueueOptions) {
    this.options = options;
    this.chain = new DescriptorChain(options.memory);
  }

  /** Takes what the driver has made available, up to a batch. */
  run(): void {
    this.deferred = false;
    if (this.closed) return;
    const { queue, handler, interrupt, batch } = this.options;
    const { chain } = this;
    queue.suppressNotifications();
    let taken = 0;
    for (; taken < batch; taken++) {
      const found = queue.pop(chain);
      if (found === EMPTY) {
        if (!queue.armNotifications()) break;
        queue.suppressNotifications();
        continue;
      }
      if (found === BROKEN) {
        this.publish();
        this.closed = true;
        interrupt.needsReset();
        handler.broken();
        return;
      }
      if (found === BAD_CHAIN) {
        handler.badChain();
        queue.addUsed(chain.head, 0);
        continue;
      }
      const written = handler.handle(chain);
      if (written === WAIT) {
        queue.unpop();
        break;
      }
      if (written !== KEEP) queue.addUsed(chain.head, written);
    }
    this.publish();
    if (taken === batch) this.defer();
  }

  /** Gives a chain back that was kept: `written` bytes were written to it. */
  giveBack(head: number, written: number): void {
    if (this.closed) return;
    this.options.queue.addUsed(head, written);
    this.publish();
  }

  /** The rings are the driver's again: nothing is touched from here on. */
  close(): void {
    this.closed = true;
  }

  private publish(): void {
    if (this.options.queue.publish()) this.options.interrupt.usedBuffers();
  }

  private defer(): void {
    if (this.deferred) return;
    this.deferred = true;
    this.options.loop.defer(this);
  }
}
