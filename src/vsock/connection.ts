// One vsock connection: virtio 1.2, section 5.10.6. Runs in the I/O worker of the device.
//
// The protocol in short. A connection is named by (guest port, peer port, peer CID, socket type). Whoever begins sends
// REQUEST; the other answers RESPONSE, or RST for no. Then RW packets carry bytes both ways, within the credit each
// side gives (credit.ts). SHUTDOWN says that its sender will send no more (SEND), receive no more (RCV), or both; after
// both the other side answers RST, and the connection is gone. RST at any other time ends it at once.
//
// Here the guest's half of that meets a stream on the host (endpoint.ts):
//
//   rx: endpoint.read -> RW packets to the guest; its end -> SHUTDOWN(SEND), once everything before it is delivered
//   tx: RW packets -> endpoint.write; what it does not take waits in a ring, and its credit with it;
//       SHUTDOWN(SEND) -> shutdown(SHUT_WR), once the ring is empty
//
// States:
//
//   CONNECTING    the guest asked; the host side is being connected             -> ESTABLISHED, CLOSED
//   REQUESTED     the host asked; the guest has 2 s to answer                   -> ESTABLISHED, CLOSED
//   ESTABLISHED   bytes flow; each direction may have ended for itself          -> CLOSING, DRAINING, CLOSED
//   CLOSING       the host side is over and released; the guest was told by     -> CLOSED
//                 SHUTDOWN(both) and has 8 s to answer RST
//   DRAINING      the guest is done; the rest of the ring goes to the host      -> CLOSED
//   CLOSED        not in the table, owns nothing
//
// What each state accepts from the guest is LEGAL_OPS; anything else is answered with RST and ends the connection.
// The order of packets is kept by `pendingControl`: its lowest bit goes first, all of it goes before data, and
// SHUTDOWN(SEND) is only set when the last byte has been handed to the guest.

import { EAGAIN } from '../platform/errno.js';
import type { EventLoop, Timer, TimerTask } from '../platform/event-loop.js';
import type { IovecArray } from '../platform/iovec.js';
import type { ByteRing, RingPool } from './byte-ring.js';
import { TX_BYTES, TX_WRITES, WRITE_STALLS, type VsockCounters } from './counters.js';
import { ReceiveCredit, SendCredit } from './credit.js';
import type { ConnectOutcome, EndpointEvents, EndReason, PendingConnect, StreamEndpoint } from './endpoint.js';
import {
  SHUTDOWN_BOTH_MASK,
  VIRTIO_VSOCK_OP_CREDIT_REQUEST,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
  VIRTIO_VSOCK_SHUTDOWN_RCV_MASK,
  VIRTIO_VSOCK_SHUTDOWN_SEND_MASK,
  type PacketHeader,
} from './packet.js';
import { NO_SEGMENT, type SegmentList, type TxSegments } from './tx-segments.js';

export const CONNECTING = 0;
export const REQUESTED = 1;
export const ESTABLISHED = 2;
export const CLOSING = 3;
export const DRAINING = 4;
export const CLOSED = 5;
export type ConnectionState =
  typeof CONNECTING | typeof REQUESTED | typeof ESTABLISHED | typeof CLOSING | typeof DRAINING | typeof CLOSED;

const CREDIT_OPS_MASK = (1 << VIRTIO_VSOCK_OP_CREDIT_UPDATE) | (1 << VIRTIO_VSOCK_OP_CREDIT_REQUEST);
const RST_MASK = 1 << VIRTIO_VSOCK_OP_RST;

/** By state: bit N is set when a guest may send op N. RST is legal everywhere. */
const LEGAL_OPS: readonly number[] = [
  /* CONNECTING */ RST_MASK | CREDIT_OPS_MASK,
  /* REQUESTED */ RST_MASK | (1 << VIRTIO_VSOCK_OP_RESPONSE) | CREDIT_OPS_MASK,
  /* ESTABLISHED */ RST_MASK | CREDIT_OPS_MASK | (1 << VIRTIO_VSOCK_OP_RW) | (1 << VIRTIO_VSOCK_OP_SHUTDOWN),
  // What the guest sent before it heard that the host side is over.
  /* CLOSING */ RST_MASK | CREDIT_OPS_MASK | (1 << VIRTIO_VSOCK_OP_RW) | (1 << VIRTIO_VSOCK_OP_SHUTDOWN),
  /* DRAINING */ RST_MASK | CREDIT_OPS_MASK | (1 << VIRTIO_VSOCK_OP_SHUTDOWN),
  /* CLOSED */ RST_MASK,
];

/** Control packets that wait for a receive buffer. The lowest bit goes first. */
export const CONTROL_REQUEST_MASK = 1;
export const CONTROL_RESPONSE_MASK = 2;
export const CONTROL_CREDIT_REQUEST_MASK = 4;
export const CONTROL_CREDIT_UPDATE_MASK = 8;
export const CONTROL_SHUTDOWN_MASK = 16;

/** How long a guest may take to answer REQUEST, unless configured: what Linux gives its own connects (VSOCK_DEFAULT_CONNECT_TIMEOUT). */
export const REQUEST_TIMEOUT_MS = 2000;
/** How long a guest may take to answer SHUTDOWN(both) with RST: what Linux waits for (VSOCK_CLOSE_TIMEOUT). */
export const CLOSE_TIMEOUT_MS = 8000;

/** How long until a guest that has too many packets is asked again whether it took some, at first and at most. */
const CREDIT_RETRY_MS = 10;
const MAX_CREDIT_RETRY_MS = 640;

/** What a connection uses of the multiplexer it belongs to. */
export interface ConnectionContext {
  readonly loop: EventLoop;
  readonly counters: VsockCounters;
  /** How long a guest may take to answer REQUEST. */
  readonly requestTimeoutMs: number;
  readonly rings: RingPool;
  /** Scratch for one write. */
  readonly writeVector: IovecArray;
  readonly segments: TxSegments;
  /** `connection.pendingControl` has something to send. */
  queueControl(connection: Connection): void;
  /** The endpoint may have bytes for the guest. */
  queueReady(connection: Connection): void;
  /** The connection has just become ESTABLISHED. */
  established(connection: Connection): void;
  /** Sends RST for the connection, which need not exist any more by then. */
  queueReset(connection: Connection, reason: EndReason): void;
  /** The host or the guest sent a message that no buffer may hold: `bytes`, or more. The connection is aborted. */
  messageTooLong(connection: Connection, bytes: number): void;
  /** The tuple is free again; the object may live on to drain. */
  release(connection: Connection): void;
  /** The object is at its end. */
  ended(connection: Connection, reason: EndReason): void;
}

export interface ConnectionTuple {
  readonly guestPort: number;
  readonly peerPort: number;
  readonly peerCid: number;
  readonly type: number;
}

export class Connection implements EndpointEvents, ConnectOutcome, TimerTask, SegmentList {
  readonly guestPort: number;
  readonly peerPort: number;
  readonly peerCid: number;
  readonly type: number;
  state: ConnectionState;

  /** Bytes handed to the guest, and to the host. */
  rxBytes = 0;
  txBytes = 0;
  readonly sendCredit = new SendCredit();
  readonly receiveCredit: ReceiveCredit;

  // For the rx path.
  /** CONTROL_… bits to be sent. */
  pendingControl = 0;
  inControlQueue = false;
  inReadyQueue = false;
  /** The endpoint may have something: told by it, taken back by EAGAIN or a short read. */
  mayRead = false;
  /** Waits for credit from the guest. */
  creditStalled = false;
  /** The host has sent all it will: a short read does not mean that there is nothing more to see. */
  hostEnded = false;
  /** Nothing more goes to the guest. */
  rxDone = false;

  // For the tx path: the payload of the present batch.
  txHead = NO_SEGMENT;
  txTail = NO_SEGMENT;

  protected readonly context: ConnectionContext;
  private endpointOrNone: StreamEndpoint | undefined;
  private pendingConnect: PendingConnect | undefined;
  /** By state: until the guest must have answered REQUEST or SHUTDOWN, or is asked for credit again. */
  private timer: Timer | undefined;
  private creditRetryMs = CREDIT_RETRY_MS;
  protected ring: ByteRing | undefined;
  /** Nothing more goes to the host. */
  protected txDone = false;
  /** The host end is gone: what it sent may still be read, what it is sent is lost. */
  private hostGone = false;
  /** What each side has said it will not do any more: SHUTDOWN flags. */
  protected guestShutdown = 0;
  private hostShutdown = 0;
  private released = false;

  constructor(context: ConnectionContext, tuple: ConnectionTuple, bufAlloc: number, state: ConnectionState) {
    this.context = context;
    this.guestPort = tuple.guestPort;
    this.peerPort = tuple.peerPort;
    this.peerCid = tuple.peerCid;
    this.type = tuple.type;
    this.state = state;
    this.receiveCredit = new ReceiveCredit(bufAlloc);
  }

  /** The host side. Only in states that have one. */
  get endpoint(): StreamEndpoint {
    if (this.endpointOrNone === undefined) throw new Error(`a connection in state ${this.state} has no host side`);
    return this.endpointOrNone;
  }

  /** The flags for a SHUTDOWN that goes out now. */
  get shutdownFlags(): number {
    return this.hostShutdown;
  }

  accepts(op: number): boolean {
    return op < 32 && ((LEGAL_OPS[this.state] >>> op) & 1) !== 0;
  }

  /** Whether the rx path should look at the endpoint. */
  get wantsToRead(): boolean {
    return this.mayRead && this.state === ESTABLISHED && !this.rxDone && !this.creditStalled;
  }

  // ---- Beginning

  /** REQUESTED: asks the guest on behalf of `endpoint`. */
  request(endpoint: StreamEndpoint): void {
    this.endpointOrNone = endpoint;
    this.timer = this.context.loop.setTimer(endpoint.requestTimeoutMs ?? this.context.requestTimeoutMs, this);
    this.control(CONTROL_REQUEST_MASK);
    endpoint.attach(this);
  }

  /** CONNECTING: an attempt to connect the host side goes on; its outcome comes by `connected` or `refused`. */
  awaitConnect(pending: PendingConnect): void {
    this.pendingConnect = pending;
  }

  connected(endpoint: StreamEndpoint): void {
    this.pendingConnect = undefined;
    this.endpointOrNone = endpoint;
    this.state = ESTABLISHED;
    this.context.established(this);
    this.control(CONTROL_RESPONSE_MASK);
    endpoint.attach(this);
  }

  refused(): void {
    this.pendingConnect = undefined;
    this.abort('refused');
  }

  /** The guest answered RESPONSE. */
  responded(): void {
    this.cancelTimer();
    this.state = ESTABLISHED;
    this.context.established(this);
    const result = this.endpoint.accepted(this.peerPort);
    if (result < 0) this.endpointHungUp();
    else this.context.queueReady(this);
  }

  // ---- Guest to host

  /** Takes over the credit fields of a packet from the guest. */
  updateCredit(header: PacketHeader): void {
    this.sendCredit.update(header.bufAlloc, header.fwdCnt);
    if (!this.creditStalled) return;
    if (this.sendable) {
      this.creditStalled = false;
      this.cancelTimer();
      this.creditRetryMs = CREDIT_RETRY_MS;
      this.context.queueReady(this);
    } else this.askForCredit();
  }

  /** Whether `length` bytes from the guest are acceptable: it has credit, and did not say that it was done. */
  mayReceive(length: number): boolean {
    return (this.guestShutdown & VIRTIO_VSOCK_SHUTDOWN_SEND_MASK) === 0 && this.receiveCredit.receive(length);
  }

  /** The guest wants to hear how much it may send; before it was answered RESPONSE there is nothing to say. */
  answerCreditRequest(): void {
    if (this.state === ESTABLISHED) this.control(CONTROL_CREDIT_UPDATE_MASK);
  }

  /** Passes the payload of the present batch on: to the host, or to the ring behind what waits there already. */
  flushSegments(): void {
    const head = this.txHead;
    this.txHead = NO_SEGMENT;
    if (head === NO_SEGMENT || this.state === CLOSED) return;
    if (this.state !== ESTABLISHED || this.txDone) {
      this.discardBuffered();
      return;
    }
    const waiting = this.ring?.length ?? 0;
    const total = this.receiveCredit.buffered - waiting;
    const taken = waiting === 0 ? this.writeSegments(head) : 0;
    if (taken < 0) return;
    this.forwarded(taken);
    if (taken < total) {
      if (this.ring === undefined) {
        this.ring = this.context.rings.take();
        this.endpoint.watchWritable(true);
        this.context.counters.add(WRITE_STALLS, 1);
      }
      this.context.segments.copyTo(this.ring, head, taken);
    }
    this.tellCreditIfDue();
  }

  /** An RW packet carried SEQ_EOM, which means nothing on a stream. */
  endMessage(): void {
    // See MessageConnection.
  }

  /** The guest said SHUTDOWN with `flags`; its payload up to here has been flushed. */
  guestShutDown(flags: number): void {
    this.guestShutdown |= flags & SHUTDOWN_BOTH_MASK;
    if (this.guestShutdown === SHUTDOWN_BOTH_MASK) {
      this.rxDone = true;
      if (this.state === CLOSING || this.ring === undefined) this.finishWithReset();
      else this.drain();
      return;
    }
    if (this.state !== ESTABLISHED) return;
    if ((this.guestShutdown & VIRTIO_VSOCK_SHUTDOWN_RCV_MASK) !== 0 && !this.rxDone) {
      this.rxDone = true;
      this.endpoint.shutdownRead();
    }
    if (this.ring === undefined) this.finishWriting();
  }

  /** The guest said RST. */
  guestReset(): void {
    this.release();
    // Having said that it would send no more, a guest may forget the connection: what it sent before still counts.
    const drains = this.ring !== undefined && (this.guestShutdown & VIRTIO_VSOCK_SHUTDOWN_SEND_MASK) !== 0;
    if (drains && (this.state === ESTABLISHED || this.state === DRAINING)) {
      this.drain();
    } else this.end(this.state === REQUESTED ? 'refused' : this.resetReason);
  }

  /** Ends the connection at once and tells the guest by RST. */
  abort(reason: EndReason = 'reset'): void {
    if (this.state === CLOSED) return;
    if (this.released) {
      this.end(reason);
      return;
    }
    // A guest that was never asked need not hear that the question is withdrawn.
    const unasked = this.state === REQUESTED && (this.pendingControl & CONTROL_REQUEST_MASK) !== 0;
    if (!unasked) this.context.queueReset(this, reason);
    this.end(reason);
  }

  /** Ends the connection at once without a word to the guest. */
  end(reason: EndReason = 'reset'): void {
    if (this.state === CLOSED) return;
    this.release();
    this.state = CLOSED;
    this.pendingControl = 0;
    this.cancelTimer();
    this.pendingConnect?.cancel();
    this.pendingConnect = undefined;
    this.dropRing();
    this.closeEndpoint(reason);
    this.context.ended(this, reason);
  }

  // ---- Host to guest

  endpointReadable(ended: boolean): void {
    this.mayRead = true;
    if (ended) this.hostEnded = true;
    this.context.queueReady(this);
  }

  /** There is something to read, and no credit for it. */
  stalled(): void {
    this.creditStalled = true;
    this.askForCredit();
    this.announceHostGone();
  }

  /** All the host sent has been handed to the guest. */
  hostFinished(): void {
    this.rxDone = true;
    this.hostShutdown |= VIRTIO_VSOCK_SHUTDOWN_SEND_MASK;
    if (this.txDone) this.closeWithShutdown();
    else this.control(CONTROL_SHUTDOWN_MASK);
  }

  /** Reading failed: the host end is gone, and nothing can be read any more. */
  hostFailed(): void {
    this.loseHost();
    this.hostFinished();
  }

  /**
   * If the endpoint is gone, and what it left cannot be delivered for lack of credit: the guest hears at once that its
   * own bytes have no taker. Otherwise SHUTDOWN(both) follows shortly and says it all.
   */
  announceHostGone(): void {
    if (!this.hostGone || (this.hostShutdown & VIRTIO_VSOCK_SHUTDOWN_RCV_MASK) !== 0) return;
    this.hostShutdown |= VIRTIO_VSOCK_SHUTDOWN_RCV_MASK;
    this.control(CONTROL_SHUTDOWN_MASK);
  }

  endpointHungUp(): void {
    switch (this.state) {
      case ESTABLISHED:
        this.loseHost();
        if (this.rxDone) this.closeWithShutdown();
        else if (this.creditStalled) this.announceHostGone();
        else this.context.queueReady(this);
        return;
      case DRAINING:
        this.finishWithReset();
        return;
      case REQUESTED: // What the client sent before it left is still delivered if the guest accepts.
      case CONNECTING:
      case CLOSING:
      case CLOSED:
        return;
    }
  }

  endpointReset(): void {
    this.abort('finished');
  }

  endpointWritable(): void {
    const { ring } = this;
    if (ring === undefined) return;
    const { writeVector, counters } = this.context;
    writeVector.clear();
    ring.describe(writeVector);
    const taken = this.endpoint.write(writeVector, 0, writeVector.count);
    if (taken < 0) {
      if (taken !== -EAGAIN) this.endpointHungUp();
      return;
    }
    counters.add(TX_WRITES, 1);
    ring.drop(taken);
    this.forwarded(taken);
    if (ring.length === 0) {
      this.dropRing();
      this.endpoint.watchWritable(false);
      if (this.state === DRAINING) {
        this.finishWithReset();
        return;
      }
      this.finishWriting();
    }
    this.tellCreditIfDue();
  }

  timerExpired(): void {
    this.timer = undefined;
    if (this.state === ESTABLISHED) this.askForCredit();
    else this.abort('timed-out');
  }

  /** Queues control packets. */
  control(mask: number): void {
    this.pendingControl |= mask;
    this.context.queueControl(this);
  }

  // ---- Ends and means

  /** Whether there is credit to go on with. */
  protected get sendable(): boolean {
    return this.sendCredit.sendable;
  }

  /** Writes a batch's segments. Returns the bytes taken, or -1 when the host turned out to be gone. */
  private writeSegments(head: number): number {
    const { segments, writeVector, counters } = this.context;
    let taken = 0;
    let segment = head;
    do {
      writeVector.clear();
      segment = segments.describe(segment, writeVector);
      const result = this.endpoint.write(writeVector, 0, writeVector.count);
      if (result < 0) {
        if (result === -EAGAIN) return taken;
        this.endpointHungUp();
        return -1;
      }
      counters.add(TX_WRITES, 1);
      taken += result;
      if (result < writeVector.totalBytes) return taken;
    } while (segment !== NO_SEGMENT);
    return taken;
  }

  /**
   * The guest speaks up by itself when it runs low on bytes, but it does not know that packets are the trouble: it is
   * asked. It answers at once, even if nobody there has read yet, and is silent when somebody does: so it is asked
   * again, less and less often, until its answer is a good one.
   */
  private askForCredit(): void {
    if (!this.creditStalled || this.rxDone || this.timer !== undefined || !this.sendCredit.limitedByPackets) return;
    this.control(CONTROL_CREDIT_REQUEST_MASK);
    this.timer = this.context.loop.setTimer(this.creditRetryMs, this);
    this.creditRetryMs = Math.min(2 * this.creditRetryMs, MAX_CREDIT_RETRY_MS);
  }

  protected forwarded(bytes: number): void {
    this.receiveCredit.forward(bytes);
    this.context.counters.add(TX_BYTES, bytes);
    this.txBytes += bytes;
  }

  protected tellCreditIfDue(wholeMessages = false): void {
    if (this.state !== ESTABLISHED || (this.guestShutdown & VIRTIO_VSOCK_SHUTDOWN_SEND_MASK) !== 0) return;
    if (this.receiveCredit.updateDue(this.sendCredit.bufAlloc, wholeMessages)) this.control(CONTROL_CREDIT_UPDATE_MASK);
  }

  /** Bytes that have no taker are taken by nobody: the guest gets its credit back and is told why by SHUTDOWN(RCV). */
  protected discardBuffered(): void {
    this.receiveCredit.forward(this.receiveCredit.buffered);
    this.dropRing();
    this.tellCreditIfDue();
  }

  private loseHost(): void {
    this.hostGone = true;
    this.txDone = true;
    this.hostEnded = true;
    this.mayRead = true;
    this.discardBuffered();
  }

  /** If the guest is done sending and everything is passed on, says so to the host. */
  protected finishWriting(): void {
    if (this.txDone || (this.guestShutdown & VIRTIO_VSOCK_SHUTDOWN_SEND_MASK) === 0) return;
    this.txDone = true;
    this.endpoint.shutdownWrite();
    if (this.rxDone) this.closeWithShutdown();
  }

  /** Both directions are over as far as the host is concerned. */
  private closeWithShutdown(): void {
    if (this.guestShutdown === SHUTDOWN_BOTH_MASK) {
      this.finishWithReset();
      return;
    }
    this.state = CLOSING;
    this.closeEndpoint('finished');
    this.hostShutdown = SHUTDOWN_BOTH_MASK;
    this.cancelTimer();
    this.timer = this.context.loop.setTimer(CLOSE_TIMEOUT_MS, this);
    this.control(CONTROL_SHUTDOWN_MASK);
  }

  /** The guest has said SHUTDOWN(both), and there is nothing left to do: RST is the answer it waits for. */
  protected finishWithReset(): void {
    this.abort('finished');
  }

  /** The guest is done; what waits in the ring still goes to the host. */
  private drain(): void {
    this.cancelTimer();
    this.state = DRAINING;
    this.rxDone = true;
  }

  private release(): void {
    if (this.released) return;
    this.released = true;
    this.pendingControl = 0;
    this.context.release(this);
  }

  /** Having said that it would send no more, a guest that says RST has merely forgotten a connection that was over. */
  private get resetReason(): EndReason {
    return (this.guestShutdown & VIRTIO_VSOCK_SHUTDOWN_SEND_MASK) !== 0 ? 'finished' : 'reset';
  }

  private closeEndpoint(reason: EndReason): void {
    this.endpointOrNone?.close(reason);
    this.endpointOrNone = undefined;
  }

  protected dropRing(): void {
    if (this.ring === undefined) return;
    this.context.rings.give(this.ring);
    this.ring = undefined;
  }

  private cancelTimer(): void {
    this.context.loop.cancelTimer(this.timer);
    this.timer = undefined;
  }
}
