// Guest to host: takes what the driver has queued, a batch at a time.
//
// Runs in the I/O worker. Each chain is popped and checked once, its header copied and parsed once. Payload stays where
// it is in guest memory until the end of the batch; then every connection that got some is written with one call, and
// only then are the descriptors given back, all with one publication.

import { DescriptorChain } from '../devices/virtio/chain.js';
import { BAD_CHAIN, BROKEN, EMPTY, type SplitQueue } from '../devices/virtio/queue.js';
import type { GuestMemory } from '../platform/guest-memory.js';
import type { Connection } from './connection.js';
import { TX_BATCHES, TX_PACKETS, type VsockCounters } from './counters.js';
import type { GuestFaultLog } from './fault-log.js';
import { HEADER_SIZE, PacketHeader } from './packet.js';
import { NO_SEGMENT, TxSegments } from './tx-segments.js';

/** Packets a batch takes at most, so that rx has its turn. */
const BATCH_PACKETS = 128;

/** Where packets go once they are known to be whole. */
export interface TxSink {
  /** A packet whose chain is at least a header long. `payload` is what is there behind it. */
  receive(header: PacketHeader, payload: number): void;
}

/** What `drain` found. */
export const TX_IDLE = 0;
export const TX_WORKED = 1;
export const TX_BROKEN = 2;
export type TxResult = typeof TX_IDLE | typeof TX_WORKED | typeof TX_BROKEN;

export class TxPath {
  readonly segments = new TxSegments();
  private readonly sink: TxSink;
  private readonly counters: VsockCounters;
  private readonly faults: GuestFaultLog;
  private readonly header = new PacketHeader();
  private readonly touched: Connection[] = [];
  private queue: SplitQueue | undefined;
  private chain: DescriptorChain | undefined;

  constructor(sink: TxSink, counters: VsockCounters, faults: GuestFaultLog) {
    this.sink = sink;
    this.counters = counters;
    this.faults = faults;
  }

  activate(memory: GuestMemory, queue: SplitQueue): void {
    this.queue = queue;
    this.chain = new DescriptorChain(memory);
  }

  deactivate(): void {
    this.queue = undefined;
    this.chain = undefined;
    this.segments.clear();
    this.touched.length = 0;
  }

  /** Takes a batch. Used entries are staged; the caller publishes them. */
  drain(): TxResult {
    const { queue, chain } = this;
    if (queue === undefined || chain === undefined) return TX_IDLE;
    let packets = 0;
    let broken = false;
    while (packets < BATCH_PACKETS && !this.segments.full) {
      const result = queue.pop(chain);
      if (result === EMPTY) break;
      if (result === BROKEN) {
        broken = true;
        break;
      }
      packets++;
      if (result === BAD_CHAIN) this.faults.report('malformed descriptor chain in the tx queue dropped', chain.head);
      else this.take(chain);
      queue.addUsed(chain.head, 0);
    }
    if (packets > 0) {
      this.flushAll();
      this.counters.add(TX_BATCHES, 1);
    }
    this.counters.add(TX_PACKETS, packets);
    if (broken) return TX_BROKEN;
    return packets > 0 ? TX_WORKED : TX_IDLE;
  }

  /** The payload of the packet being received belongs to `connection`: `length` bytes of it. */
  addPayload(connection: Connection, length: number): void {
    if (this.chain === undefined || length === 0) return;
    if (connection.txHead === NO_SEGMENT) this.touched.push(connection);
    this.segments.append(connection, this.chain, HEADER_SIZE, length);
  }

  private take(chain: DescriptorChain): void {
    if (chain.readableBytes < HEADER_SIZE) {
      this.faults.report('tx packet shorter than its header dropped', chain.readableBytes);
      return;
    }
    this.header.copyFrom(chain);
    this.sink.receive(this.header, chain.readableBytes - HEADER_SIZE);
  }

  private flushAll(): void {
    const { touched } = this;
    for (const connection of touched) connection.flushSegments();
    touched.length = 0;
    this.segments.clear();
  }
}
