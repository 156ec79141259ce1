// A SEQPACKET connection: virtio 1.2, section 5.10.6.6. What it does otherwise than a stream; the rest is connection.ts.
//
// Runs in the I/O worker. A message is whole on the host's side and in pieces on the guest's: RW packets up to the one
// with SEQ_EOM. Guest to host, a message that lies in one batch goes to the socket from guest memory; one that comes in
// several batches is gathered in the ring, as are those that the host does not take yet. Its credit returns when the
// message is with the host. Host to guest, see rx-path.ts and seqpacket-endpoint.ts.
//
// A message must fit the receiver's buffer (Linux takes messages whole, and refuses to send others): one that does not
// costs the connection.

import { EAGAIN, EMSGSIZE } from '../platform/errno.js';
import { CLOSED, Connection, DRAINING, ESTABLISHED } from './connection.js';
import { TX_WRITES, WRITE_STALLS } from './counters.js';
import { PACKET_OVERHEAD } from './credit.js';
import type { MessageEndpoint } from './endpoint.js';
import { Fifo } from './fifo.js';
import { VIRTIO_VSOCK_SHUTDOWN_SEND_MASK } from './packet.js';
import { NO_SEGMENT } from './tx-segments.js';

export class MessageConnection extends Connection {
  /** Lengths of the whole messages at the start of the ring, and their sum; behind them is the beginning of another. */
  private readonly lengths = new Fifo<number>();
  private waiting = 0;
  private inMessage = false;

  override get endpoint(): MessageEndpoint {
    // Only backends that carry messages are asked for these connections.
    return super.endpoint as MessageEndpoint;
  }

  // ---- Host to guest

  /** What may be sent now, with `overhead` for each packet. */
  get available(): number {
    return this.inMessage && this.ownRoom > 0 ? this.ownRoom : this.sendCredit.available();
  }

  /** What a packet costs beside its payload: within a message that the guest holds alone, nothing. */
  get overhead(): number {
    return this.inMessage && this.ownRoom > 0 ? 0 : PACKET_OVERHEAD;
  }

  /** The endpoint gave `bytes` of a message, in `packets` packets of at most `largest`. */
  sent(bytes: number, packets: number, largest: number): void {
    if (!this.inMessage) this.sendCredit.beginMessage();
    this.inMessage = !this.endpoint.messageEnded;
    this.sendCredit.consume(bytes, packets, largest);
  }

  /** The longest message that the guest can take: it has to have room for all of it at once, and so do we. */
  get messageLimit(): number {
    return Math.min(this.sendCredit.bufAlloc, this.context.rings.capacity);
  }

  messageTooLong(bytes: number): void {
    this.context.messageTooLong(this, bytes);
  }

  protected override get sendable(): boolean {
    return super.sendable || (this.inMessage && this.ownRoom > 0);
  }

  private get ownRoom(): number {
    return this.sendCredit.availableInMessage();
  }

  // ---- Guest to host

  /** The batch ends in the middle of a message: keeps its beginning. */
  override flushSegments(): void {
    const head = this.takeSegments();
    if (head === NO_SEGMENT) return;
    this.keep(head);
    if (this.unended >= this.receiveCredit.bufAlloc) {
      // The guest has no credit left to end it with, and gets none before it has.
      this.context.messageTooLong(this, this.unended);
      return;
    }
    this.tellCreditIfDue(true);
  }

  override endMessage(): void {
    const head = this.takeSegments();
    // An empty message is passed over: to the host it would look like the end.
    if (head === NO_SEGMENT && this.unended === 0) return;
    if (this.ring === undefined && this.writeAtOnce(head)) return;
    this.keep(head);
    const length = this.unended;
    this.lengths.push(length);
    this.waiting += length;
    // Behind others it waits for its turn.
    if (this.lengths.length > 1 || !this.writeWaiting() || this.lengths.length === 0) return;
    this.endpoint.watchWritable(true);
    this.context.counters.add(WRITE_STALLS, 1);
  }

  override guestShutDown(flags: number): void {
    if ((flags & VIRTIO_VSOCK_SHUTDOWN_SEND_MASK) !== 0) this.dropUnended();
    super.guestShutDown(flags);
  }

  override guestReset(): void {
    this.dropUnended();
    super.guestReset();
  }

  override endpointWritable(): void {
    if (this.lengths.length === 0 || !this.writeWaiting() || this.lengths.length > 0) return;
    this.endpoint.watchWritable(false);
    if (this.state === DRAINING) this.finishWithReset();
    else this.finishWriting();
  }

  protected override dropRing(): void {
    this.lengths.clear();
    this.waiting = 0;
    super.dropRing();
  }

  /** Bytes in the ring of a message that has not ended. */
  private get unended(): number {
    return (this.ring?.length ?? 0) - this.waiting;
  }

  /** The segments of this batch; none when nobody takes them, which is accounted for. */
  private takeSegments(): number {
    const head = this.txHead;
    this.txHead = NO_SEGMENT;
    if (head === NO_SEGMENT || this.state === CLOSED) return NO_SEGMENT;
    if (this.state === ESTABLISHED && !this.txDone) return head;
    this.discardBuffered();
    return NO_SEGMENT;
  }

  /** Puts segments into the ring, behind what is there. */
  private keep(head: number): void {
    this.ring ??= this.context.rings.take();
    this.context.segments.copyTo(this.ring, head, 0);
  }

  /** Writes segments that are a message. False when that has to wait. */
  private writeAtOnce(head: number): boolean {
    const { segments, writeVector } = this.context;
    writeVector.clear();
    // In more pieces than one call takes it is put together in the ring.
    if (segments.describe(head, writeVector) !== NO_SEGMENT) return false;
    const result = this.writeVector();
    if (result > 0) this.tellCreditIfDue(true);
    return result !== -EAGAIN;
  }

  /** Writes messages that wait, as many as go. False when the host turned out to be gone, or a message too long. */
  private writeWaiting(): boolean {
    const { ring, lengths } = this;
    const { writeVector } = this.context;
    for (let length = lengths.peek(); ring !== undefined && length !== undefined; length = lengths.peek()) {
      writeVector.clear();
      ring.describe(writeVector, length);
      const result = this.writeVector();
      if (result === -EAGAIN) break;
      if (result < 0) return false;
      lengths.shift();
      this.waiting -= length;
      ring.drop(length);
    }
    if (ring?.length === 0) this.dropRing();
    this.tellCreditIfDue(true);
    return true;
  }

  /** Writes the message in the vector; sees to whatever else than EAGAIN goes wrong. */
  private writeVector(): number {
    const { writeVector, counters } = this.context;
    const result = this.endpoint.write(writeVector, 0, writeVector.count);
    if (result >= 0) {
      counters.add(TX_WRITES, 1);
      this.forwarded(result);
    } else if (result === -EMSGSIZE) this.context.messageTooLong(this, writeVector.totalBytes);
    else if (result !== -EAGAIN) this.endpointHungUp();
    return result;
  }

  /** No more follows: what has begun is no message, and nobody gets it. */
  private dropUnended(): void {
    const { ring, unended } = this;
    if (ring === undefined || unended === 0) return;
    ring.dropLast(unended);
    this.receiveCredit.forward(unended);
    if (ring.length === 0) this.dropRing();
  }
}
