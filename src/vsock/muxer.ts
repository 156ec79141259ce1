// Connects packets with connections: routes what the guest sends, and makes and ends connections.
//
// Runs in the I/O worker. The two directions are rx-path.ts and tx-path.ts; what a connection does with a packet is
// connection.ts. Here is what concerns the guest as a whole: who may talk to whom, how many, and when RST is the answer.

import type { SplitQueue } from '../devices/virtio/queue.js';
import type { EventLoop } from '../platform/event-loop.js';
import type { GuestMemory } from '../platform/guest-memory.js';
import { IovecArray } from '../platform/iovec.js';
import { KIB, MIB } from '../platform/units.js';
import { RingPool } from './byte-ring.js';
import { ConnectionTable } from './connection-table.js';
import {
  CLOSING,
  Connection,
  CONNECTING,
  DRAINING,
  REQUEST_TIMEOUT_MS,
  REQUESTED,
  type ConnectionContext,
  type ConnectionState,
  type ConnectionTuple,
} from './connection.js';
import {
  CONNECTIONS_FROM_GUEST,
  CONNECTIONS_FROM_HOST,
  CONNECTIONS_REFUSED,
  RESETS_BROKEN,
  RESETS_FINISHED,
  RESETS_RECEIVED,
  RESETS_REFUSED,
  RESETS_TIMED_OUT,
  RESETS_UNKNOWN,
  type VsockCounters,
} from './counters.js';
import { describeConnection, type ConnectionInfo } from './connection-info.js';
import type { Backend, EndReason, StreamEndpoint } from './endpoint.js';
import type { GuestFaultLog } from './fault-log.js';
import { MessageConnection } from './message-connection.js';
import {
  VIRTIO_VSOCK_OP_CREDIT_REQUEST,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
  VIRTIO_VSOCK_SEQ_EOM_MASK,
  VIRTIO_VSOCK_TYPE_SEQPACKET,
  VIRTIO_VSOCK_TYPE_STREAM,
  VMADDR_CID_HOST,
  type PacketHeader,
} from './packet.js';
import { RESET_LIMIT } from './reset-queue.js';
import { RX_BROKEN, RX_IDLE, RxPath } from './rx-path.js';
import { RxBuffers } from './rx-buffers.js';
import { TX_BROKEN, TX_IDLE, TxPath, type TxSink } from './tx-path.js';
import type { TxSegments } from './tx-segments.js';

/** Host ports of host-initiated connections: far above any port that a service is given. */
const FIRST_EPHEMERAL_PORT = 0x4000_0000;
const EPHEMERAL_PORTS = 0x4000_0000;

/**
 * What the buffers of all connections together should come to, or that of BUFFER_SHARES connections if that is more.
 * Up to that, connections are offered the usual buffer; beyond it new ones are offered their share, but never less than
 * MIN_BUF_ALLOC. Without it a guest with 65,536 connections to hosts that do not read could fill dozens of GiB.
 */
const BUFFER_BUDGET = 256 * MIB;
const BUFFER_SHARES = 64;
const MIN_BUF_ALLOC = 4 * KIB;

const RESETS_BY_REASON: Readonly<Record<EndReason, number>> = {
  finished: RESETS_FINISHED,
  refused: RESETS_REFUSED,
  'timed-out': RESETS_TIMED_OUT,
  reset: RESETS_BROKEN,
};

export interface MuxerOptions {
  readonly guestCid: number;
  readonly loop: EventLoop;
  readonly maxConnections: number;
  readonly requestTimeoutMs?: number;
  readonly bufAlloc: number;
  /** The same for SEQPACKET, where it is the longest message too: no longer than what host sockets take at once. */
  readonly messageBufAlloc?: number;
  readonly counters: VsockCounters;
  readonly faults: GuestFaultLog;
  /** Who answers for `cid`, as the guest names it; `undefined` for nobody. */
  readonly route: (cid: number) => Backend | undefined;
}

/** What `poll` found. */
export const MUXER_IDLE = 0;
export const MUXER_WORKED = 1;
export const MUXER_BROKEN = 2;
export type MuxerResult = typeof MUXER_IDLE | typeof MUXER_WORKED | typeof MUXER_BROKEN;

/** Hears of connections. */
export interface ConnectionObserver {
  /** It is established now. */
  opened(connection: ConnectionInfo): void;
  /** It has ended, or was refused before it was established. */
  ended(connection: ConnectionInfo, reason: EndReason): void;
}

export class Muxer implements ConnectionContext, TxSink {
  readonly loop: EventLoop;
  readonly counters: VsockCounters;
  readonly requestTimeoutMs: number;
  readonly rings: RingPool;
  readonly writeVector = new IovecArray();
  readonly segments: TxSegments;
  /** Where nobody watches, nothing is put together. */
  observer: ConnectionObserver | undefined;

  private readonly options: MuxerOptions;
  private readonly faults: GuestFaultLog;
  private readonly rx: RxPath;
  private readonly tx: TxPath;
  private readonly table = new ConnectionTable();
  /** Not in the table any more, but not at their end either. */
  private readonly draining = new Set<Connection>();
  private rxQueue: SplitQueue | undefined;
  private txQueue: SplitQueue | undefined;
  private guestCid: number;
  private nextEphemeral = 0;
  /** Whether the driver accepted VIRTIO_VSOCK_F_SEQPACKET. */
  private seqpacket = false;

  constructor(options: MuxerOptions) {
    this.options = options;
    this.guestCid = options.guestCid;
    this.loop = options.loop;
    this.counters = options.counters;
    this.requestTimeoutMs = options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
    this.faults = options.faults;
    this.rings = new RingPool(options.bufAlloc);
    this.rx = new RxPath(options.guestCid, options.counters);
    this.tx = new TxPath(this, options.counters, options.faults);
    this.segments = this.tx.segments;
  }

  /** Whether the driver is there. */
  get active(): boolean {
    return this.rxQueue !== undefined;
  }

  /** Connections that cost something: in the table, or draining. */
  get connectionCount(): number {
    return this.table.size + this.draining.size;
  }

  activate(memory: GuestMemory, rxQueue: SplitQueue, txQueue: SplitQueue, seqpacket = false): void {
    this.seqpacket = seqpacket;
    this.rxQueue = rxQueue;
    this.txQueue = txQueue;
    const buffers = new RxBuffers(memory, rxQueue, (head) => {
      this.faults.report('rx buffer that no packet fits into dropped', head);
    });
    this.rx.activate(rxQueue, buffers);
    this.tx.activate(memory, txQueue);
  }

  /** Ends every connection without a word to the guest, and touches no queue from here on. */
  deactivate(): void {
    this.endConnections();
    this.rx.deactivate();
    this.tx.deactivate();
    this.rxQueue = undefined;
    this.txQueue = undefined;
  }

  /** Every connection, as it is now: for a look at them, not for the hot path. */
  connections(): ConnectionInfo[] {
    return [...this.table.all(), ...this.draining].map(describeConnection);
  }

  /**
   * The guest is to be `cid` from now on: what it had under its old one is forgotten without a word to it, and the host
   * sides are closed.
   */
  setGuestCid(cid: number): void {
    this.endConnections();
    this.rx.changeGuest(cid);
    this.guestCid = cid;
  }

  /** How many host ports of host-initiated connections have been given out, modulo their number. */
  get ephemeralPortsUsed(): number {
    return this.nextEphemeral;
  }

  /** Goes on behind the ports that were given out before: the guest may remember them. */
  skipEphemeralPorts(used: number): void {
    this.nextEphemeral = used % EPHEMERAL_PORTS;
  }

  /** Holds no receive buffer any more; the next packet takes them again. */
  putBuffersBack(): void {
    this.rx.putBuffersBack();
  }

  /** One batch each way, or from the guest only. The caller publishes what was staged. */
  poll(mayDeliver = true): MuxerResult {
    let worked = false;
    // While the guest owes receive buffers for this many answers it is not given the chance to ask for more.
    if (this.rx.resets.length < RESET_LIMIT) {
      const result = this.tx.drain();
      if (result === TX_BROKEN) return MUXER_BROKEN;
      worked = result !== TX_IDLE;
    }
    if (!mayDeliver) return worked ? MUXER_WORKED : MUXER_IDLE;
    const result = this.rx.pump();
    if (result === RX_BROKEN) return MUXER_BROKEN;
    return worked || result !== RX_IDLE ? MUXER_WORKED : MUXER_IDLE;
  }

  /** Publishes what was staged; whether the driver wants an interrupt for it. */
  publish(): boolean {
    const tx = this.txQueue?.publish() ?? false;
    const rx = this.rxQueue?.publish() ?? false;
    return tx || rx;
  }

  /** Asks for notifications of what `poll` waits for, and returns whether some of it is there already. */
  arm(): boolean {
    const { rxQueue, txQueue } = this;
    if (rxQueue === undefined || txQueue === undefined) return false;
    const tx = this.rx.resets.length < RESET_LIMIT && txQueue.armNotifications();
    const rx = this.rx.isStarved && rxQueue.armNotifications();
    return tx || rx;
  }

  suppressNotifications(): void {
    this.rxQueue?.suppressNotifications();
    this.txQueue?.suppressNotifications();
  }

  /**
   * Asks the guest for a connection to its port `guestPort` on behalf of `endpoint`, which tells the client the
   * outcome (`accepted`, or it is closed). False when there is no driver, none for that `type`, or no room: `endpoint`
   * stays the caller's. For SEQPACKET it is a MessageEndpoint. It is the host who asks, unless `from` says which other
   * guest it is.
   */
  connectToGuest(
    guestPort: number,
    endpoint: StreamEndpoint,
    from?: { readonly cid: number; readonly port: number },
    type: number = VIRTIO_VSOCK_TYPE_STREAM,
  ): boolean {
    const taken = from !== undefined && this.table.find(guestPort, from.port, from.cid, type) !== undefined;
    const unknown = type === VIRTIO_VSOCK_TYPE_SEQPACKET && !this.seqpacket;
    if (!this.active || this.full() || taken || unknown) {
      this.counters.add(CONNECTIONS_REFUSED, 1);
      return false;
    }
    const peerPort = from?.port ?? this.ephemeralPort(guestPort, type);
    const tuple = { guestPort, peerPort, peerCid: from?.cid ?? VMADDR_CID_HOST, type };
    const connection = this.makeConnection(tuple, REQUESTED);
    this.counters.add(CONNECTIONS_FROM_HOST, 1);
    connection.request(endpoint);
    return true;
  }

  // ---- TxSink

  receive(header: PacketHeader, payload: number): void {
    const { srcCid, srcPort, dstCid, dstPort, type, op } = header;
    if (header.reservedCidBits !== 0 || srcCid !== this.guestCid) {
      this.faults.report('tx packet with a source CID that is not the guest dropped', srcCid);
      return;
    }
    const connection = this.table.find(srcPort, dstPort, dstCid, type);
    if (connection === undefined) {
      this.receiveUnconnected(header);
      return;
    }
    if (op === VIRTIO_VSOCK_OP_REQUEST && (connection.state === CLOSING || connection.state === DRAINING)) {
      // A guest that has heard or said SHUTDOWN(both) may use the port anew before RST has gone its way.
      connection.guestReset();
      this.receiveUnconnected(header);
      return;
    }
    if (!connection.accepts(op)) {
      this.faults.report('tx packet with an operation that is illegal in the state of its connection', op);
      connection.flushSegments();
      connection.abort();
      return;
    }
    // RST may come from a guest that has no connection to take credit from.
    if (op !== VIRTIO_VSOCK_OP_RST) connection.updateCredit(header);
    switch (op) {
      case VIRTIO_VSOCK_OP_RW:
        if (!this.receivePayload(connection, header.len, payload)) return;
        if ((header.flags & VIRTIO_VSOCK_SEQ_EOM_MASK) !== 0) connection.endMessage();
        return;
      case VIRTIO_VSOCK_OP_RESPONSE:
        connection.responded();
        return;
      case VIRTIO_VSOCK_OP_SHUTDOWN:
        connection.flushSegments();
        connection.guestShutDown(header.flags);
        return;
      case VIRTIO_VSOCK_OP_RST:
        this.counters.add(RESETS_RECEIVED, 1);
        connection.flushSegments();
        connection.guestReset();
        return;
      case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        connection.answerCreditRequest();
        return;
      case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        return;
    }
  }

  // ---- ConnectionContext

  queueControl(connection: Connection): void {
    this.rx.queueControl(connection);
  }

  queueReady(connection: Connection): void {
    this.rx.queueReady(connection);
  }

  queueReset(connection: Connection, reason: EndReason): void {
    this.counters.add(RESETS_BY_REASON[reason], 1);
    this.rx.resets.push(connection.guestPort, connection.peerPort, connection.peerCid, connection.type);
  }

  messageTooLong(connection: Connection, bytes: number): void {
    this.faults.note('SEQPACKET message too long for its receiver; its connection is reset', bytes);
    connection.abort();
  }

  release(connection: Connection): void {
    this.table.remove(connection);
    this.draining.add(connection);
  }

  ended(connection: Connection, reason: EndReason): void {
    this.draining.delete(connection);
    this.observer?.ended(describeConnection(connection), reason);
  }

  established(connection: Connection): void {
    this.observer?.opened(describeConnection(connection));
  }

  // ----

  private receiveUnconnected(header: PacketHeader): void {
    const { srcPort, dstPort, dstCid, type, op } = header;
    // An answer to RST could meet a new connection that uses the same ports.
    if (op === VIRTIO_VSOCK_OP_RST) return;
    const backend = this.backendFor(dstCid, type);
    if (op !== VIRTIO_VSOCK_OP_REQUEST || backend === undefined || this.full()) {
      const asked = op === VIRTIO_VSOCK_OP_REQUEST;
      if (asked) this.counters.add(CONNECTIONS_REFUSED, 1);
      this.counters.add(asked ? RESETS_REFUSED : RESETS_UNKNOWN, 1);
      this.rx.resets.push(srcPort, dstPort, dstCid, type);
      return;
    }
    const tuple = { guestPort: srcPort, peerPort: dstPort, peerCid: dstCid, type };
    const connection = this.makeConnection(tuple, CONNECTING);
    this.counters.add(CONNECTIONS_FROM_GUEST, 1);
    connection.updateCredit(header);
    const pending = backend.connect(dstPort, connection, srcPort, type);
    if (pending !== undefined) connection.awaitConnect(pending);
  }

  private endConnections(): void {
    for (const connection of this.table.all()) connection.end();
    for (const connection of this.draining) connection.end();
  }

  private backendFor(cid: number, type: number): Backend | undefined {
    if (type === VIRTIO_VSOCK_TYPE_STREAM) return this.options.route(cid);
    if (type !== VIRTIO_VSOCK_TYPE_SEQPACKET || !this.seqpacket) return undefined;
    const backend = this.options.route(cid);
    return backend?.carriesMessages === true ? backend : undefined;
  }

  private makeConnection(tuple: ConnectionTuple, state: ConnectionState): Connection {
    const { messageBufAlloc = Infinity } = this.options;
    const bufAlloc = this.bufAllocForNext();
    const connection =
      tuple.type === VIRTIO_VSOCK_TYPE_SEQPACKET
        ? new MessageConnection(this, tuple, Math.min(bufAlloc, messageBufAlloc), state)
        : new Connection(this, tuple, bufAlloc, state);
    this.table.add(connection);
    return connection;
  }

  /** Whether the payload was in order. */
  private receivePayload(connection: Connection, length: number, payload: number): boolean {
    if (length > payload) {
      this.faults.report('tx packet shorter than its length field', payload);
      connection.abort();
      return false;
    }
    if (!connection.mayReceive(length)) {
      this.faults.report('tx packet beyond the credit given, or after SHUTDOWN(SEND)', length);
      connection.flushSegments();
      connection.abort();
      return false;
    }
    this.tx.addPayload(connection, length);
    return true;
  }

  private bufAllocForNext(): number {
    const { bufAlloc } = this.options;
    const budget = Math.max(BUFFER_BUDGET, BUFFER_SHARES * bufAlloc);
    const share = Math.floor(budget / (this.connectionCount + 1));
    return Math.min(bufAlloc, Math.max(share, MIN_BUF_ALLOC));
  }

  private full(): boolean {
    return this.connectionCount >= this.options.maxConnections;
  }

  /** A host port that is not in use, nor was lately: they are handed out in turn. */
  private ephemeralPort(guestPort: number, type: number): number {
    let port: number;
    do {
      port = FIRST_EPHEMERAL_PORT + this.nextEphemeral;
      this.nextEphemeral = (this.nextEphemeral + 1) % EPHEMERAL_PORTS;
    } while (this.table.find(guestPort, port, VMADDR_CID_HOST, type) !== undefined);
    return port;
  }
}
