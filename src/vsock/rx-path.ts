// Host to guest: fills posted receive buffers with control packets and with what the hosts have sent.
//
// Runs in the I/O worker. What goes first, whenever there is a buffer: RST packets, then the control packets of
// connections, then data, connection after connection with a quantum each (round robin). A connection that has data
// but no credit leaves the round until the guest gives some; when there are no buffers everything waits where it is,
// and the guest is asked to notify when it posts more. Neither costs a system call or a turn of the loop.

import { EAGAIN } from '../platform/errno.js';
import type { SplitQueue } from '../devices/virtio/queue.js';
import {
  CONTROL_CREDIT_REQUEST_MASK,
  CONTROL_CREDIT_UPDATE_MASK,
  CONTROL_REQUEST_MASK,
  CONTROL_RESPONSE_MASK,
  CONTROL_SHUTDOWN_MASK,
  type Connection,
} from './connection.js';
import {
  CREDIT_STALLS,
  RESETS_SENT,
  RX_BATCHES,
  RX_BYTES,
  RX_PACKETS,
  RX_READS,
  STARVED_STALLS,
  type VsockCounters,
} from './counters.js';
import { PACKET_OVERHEAD } from './credit.js';
import { Fifo } from './fifo.js';
import { MessageConnection } from './message-connection.js';
import {
  PacketHeader,
  VIRTIO_VSOCK_OP_CREDIT_REQUEST,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
  VIRTIO_VSOCK_SEQ_EOM_MASK,
} from './packet.js';
import { ResetQueue } from './reset-queue.js';
import type { RxBuffers } from './rx-buffers.js';

/**
 * What one connection may read before the next has its turn, with PACKET_OVERHEAD for each packet: about 64 buffers of
 * 4 KiB. Measured: beyond 64 a readv gains nothing, and a Unix socket seldom holds more.
 */
const QUANTUM_BYTES = 64 * (4096 + PACKET_OVERHEAD);
/** Top the held chains up below this, so that a read seldom finds fewer. */
const REFILL_BELOW = 64;
/**
 * Packets between two publications: the guest works on one batch while the next is filled. No more than one large read,
 * or a guest that polls for work falls asleep in between, and waking it is dear: with 128 a hundred streams took four
 * times the interrupts and were a sixth slower.
 */
const BATCH_PACKETS = 32;

/** What `pump` found. */
export const RX_IDLE = 0;
export const RX_WORKED = 1;
export const RX_BROKEN = 2;
export type RxResult = typeof RX_IDLE | typeof RX_WORKED | typeof RX_BROKEN;

export class RxPath {
  readonly resets = new ResetQueue();
  private guestCid: number;
  private readonly counters: VsockCounters;
  private readonly header = new PacketHeader();
  private readonly controls = new Fifo<Connection>();
  private readonly ready = new Fifo<Connection>();
  private queue: SplitQueue | undefined;
  private buffers: RxBuffers | undefined;
  private starved = false;

  constructor(guestCid: number, counters: VsockCounters) {
    this.guestCid = guestCid;
    this.counters = counters;
  }

  /** There is something to send, and no buffer to send it in. */
  get isStarved(): boolean {
    return this.starved;
  }

  activate(queue: SplitQueue, buffers: RxBuffers): void {
    this.queue = queue;
    this.buffers = buffers;
  }

  /** Forgets the queue and everything that waits. */
  deactivate(): void {
    this.queue = undefined;
    this.buffers = undefined;
    this.starved = false;
    this.forget();
  }

  /** Forgets everything that waits: it was for a guest with another CID. */
  changeGuest(cid: number): void {
    this.forget();
    this.guestCid = cid;
  }

  /** Holds no receive buffer any more. */
  putBuffersBack(): void {
    this.buffers?.putBack();
    this.starved = false;
  }

  private forget(): void {
    this.resets.clear();
    this.controls.clear();
    this.ready.clear();
  }

  queueControl(connection: Connection): void {
    if (connection.inControlQueue) return;
    connection.inControlQueue = true;
    this.controls.push(connection);
  }

  queueReady(connection: Connection): void {
    if (connection.inReadyQueue || !connection.wantsToRead) return;
    connection.inReadyQueue = true;
    this.ready.push(connection);
  }

  /** Sends a batch. Staged entries are published by the caller. */
  pump(): RxResult {
    const { queue, buffers } = this;
    if (queue === undefined || buffers === undefined || !this.hasWork()) return RX_IDLE;
    if (this.starved && queue.pending() === 0) return RX_IDLE;
    this.starved = false;
    let packets = 0;
    do {
      if (buffers.held < REFILL_BELOW && queue.pending() > 0 && !buffers.refill()) return RX_BROKEN;
      if (buffers.held === 0) {
        this.starved = true;
        this.counters.add(STARVED_STALLS, 1);
        break;
      }
      packets += this.sendNext(buffers);
    } while (packets < BATCH_PACKETS && this.hasWork());
    this.counters.add(RX_PACKETS, packets);
    if (packets > 0) this.counters.add(RX_BATCHES, 1);
    // Buffers that were refused go back as well.
    return packets > 0 || queue.staged ? RX_WORKED : RX_IDLE;
  }

  private hasWork(): boolean {
    return this.resets.length > 0 || this.controls.length > 0 || this.ready.length > 0;
  }

  /** Sends what is first in line; returns how many packets that made, which may be none. */
  private sendNext(buffers: RxBuffers): number {
    if (this.resets.length > 0) {
      this.sendReset(buffers);
      return 1;
    }
    const control = this.controls.peek();
    if (control !== undefined) {
      if (control.pendingControl !== 0) {
        this.sendControl(buffers, control);
        return 1;
      }
      control.inControlQueue = false;
      this.controls.shift();
      return 0;
    }
    const connection = this.ready.shift();
    if (connection === undefined) return 0;
    connection.inReadyQueue = false;
    return connection.wantsToRead ? this.serve(buffers, connection) : 0;
  }

  private sendReset(buffers: RxBuffers): void {
    const { header, resets } = this;
    resets.shift();
    header.setAddresses(resets.peerCid, resets.peerPort, this.guestCid, resets.guestPort);
    header.setOperation(resets.type, VIRTIO_VSOCK_OP_RST, 0, 0, 0, 0);
    buffers.sendHeader(header);
    this.counters.add(RESETS_SENT, 1);
  }

  private sendControl(buffers: RxBuffers, connection: Connection): void {
    const mask = connection.pendingControl & -connection.pendingControl;
    connection.pendingControl &= ~mask;
    this.address(connection, controlOp(mask), mask === CONTROL_SHUTDOWN_MASK ? connection.shutdownFlags : 0);
    buffers.sendHeader(this.header);
  }

  /** Reads from a connection's host side into as many buffers as its credit and its quantum allow. */
  private serve(buffers: RxBuffers, connection: Connection): number {
    if (connection instanceof MessageConnection) return this.serveMessage(buffers, connection);
    const credit = connection.sendCredit;
    const available = credit.available();
    if (!buffers.prepare(available < QUANTUM_BYTES ? available : QUANTUM_BYTES, PACKET_OVERHEAD)) {
      buffers.finish(0, this.header);
      this.stall(connection);
      return 0;
    }
    const wanted = buffers.preparedBytes;
    const bytes = connection.endpoint.read(buffers.iov, buffers.firstEntry, buffers.entryCount);
    let packets = 0;
    if (bytes > 0) {
      this.address(connection, VIRTIO_VSOCK_OP_RW, 0);
      packets = buffers.finish(bytes, this.header);
      credit.consume(bytes, packets, buffers.largestPacket);
      this.counters.add(RX_BYTES, bytes);
      connection.rxBytes += bytes;
      this.counters.add(RX_READS, 1);
      // A short read has emptied the socket: what comes later is told anew, but an end that was told already is not.
      if (bytes < wanted && !connection.hostEnded) connection.mayRead = false;
      else this.queueReady(connection);
    } else {
      buffers.finish(0, this.header);
      if (bytes === 0) connection.hostFinished();
      else if (bytes === -EAGAIN) {
        connection.mayRead = false;
        // The host refuses what it is sent, but has not ended: it may write on for long.
        connection.announceHostGone();
      } else connection.hostFailed();
    }
    return packets;
  }

  /** Reads one message, or as much of it as its credit, its quantum and the buffers allow. */
  private serveMessage(buffers: RxBuffers, connection: MessageConnection): number {
    const { available, overhead, endpoint } = connection;
    if (!buffers.prepare(available < QUANTUM_BYTES ? available : QUANTUM_BYTES, overhead)) {
      buffers.finish(0, this.header);
      this.stall(connection);
      return 0;
    }
    const bytes = endpoint.read(buffers.iov, buffers.firstEntry, buffers.entryCount);
    if (bytes > 0 && endpoint.messageBytes <= connection.messageLimit) {
      this.address(connection, VIRTIO_VSOCK_OP_RW, 0);
      const packets = buffers.finish(bytes, this.header, endpoint.messageEnded ? VIRTIO_VSOCK_SEQ_EOM_MASK : 0);
      connection.sent(bytes, packets, buffers.largestPacket);
      this.counters.add(RX_BYTES, bytes);
      connection.rxBytes += bytes;
      this.counters.add(RX_READS, 1);
      // There may be another message, however short this one was.
      this.queueReady(connection);
      return packets;
    }
    buffers.finish(0, this.header);
    if (bytes > 0) connection.messageTooLong(endpoint.messageBytes);
    else if (bytes === 0) connection.hostFinished();
    else if (bytes === -EAGAIN) connection.mayRead = false;
    else connection.hostFailed();
    return 0;
  }

  private stall(connection: Connection): void {
    this.counters.add(CREDIT_STALLS, 1);
    connection.stalled();
  }

  /** Fills the header in for a packet of `connection` without payload; it carries the present credit, as all do. */
  private address(connection: Connection, op: number, flags: number): void {
    const { header } = this;
    const { receiveCredit } = connection;
    header.setAddresses(connection.peerCid, connection.peerPort, this.guestCid, connection.guestPort);
    header.setOperation(connection.type, op, flags, 0, receiveCredit.bufAlloc, receiveCredit.fwdCnt);
    receiveCredit.tell();
    connection.pendingControl &= ~CONTROL_CREDIT_UPDATE_MASK;
  }
}

function controlOp(mask: number): number {
  switch (mask) {
    case CONTROL_REQUEST_MASK:
      return VIRTIO_VSOCK_OP_REQUEST;
    case CONTROL_RESPONSE_MASK:
      return VIRTIO_VSOCK_OP_RESPONSE;
    case CONTROL_CREDIT_REQUEST_MASK:
      return VIRTIO_VSOCK_OP_CREDIT_REQUEST;
    case CONTROL_CREDIT_UPDATE_MASK:
      return VIRTIO_VSOCK_OP_CREDIT_UPDATE;
    case CONTROL_SHUTDOWN_MASK:
      return VIRTIO_VSOCK_OP_SHUTDOWN;
    default:
      throw new RangeError(`no control packet ${mask}`);
  }
}
