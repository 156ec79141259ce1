// A Unix SOCK_SEQPACKET socket as the host side of a SEQPACKET connection.
//
// Runs in the I/O worker. One recvmsg takes one message: into the guest's buffers, and what they (or the guest's credit)
// have no room for into a ring, which is handed out by the reads that follow. So a message that fits is copied once, by
// the kernel, and asking for its length first costs no call of its own.
//
// Left out: ancillary data, which vsock cannot carry; MSG_EOR, which Unix sockets do not deliver; and empty messages,
// which recv(2) cannot tell from the end, here or in the guest.

import { EAGAIN, ECONNRESET } from '../platform/errno.js';
import type { EventLoop } from '../platform/event-loop.js';
import { IOV_MAX, IovecArray } from '../platform/iovec.js';
import { libc, orErrno } from '../platform/libc.js';
import { NativeBuffer } from '../platform/native-buffer.js';
import { bytesWaiting, sendBufferGranted, SOCK_SEQPACKET } from '../platform/unix-socket.js';
import type { Fd } from '../platform/units.js';
import type { ByteRing, RingPool } from './byte-ring.js';
import type { MessageEndpoint } from './endpoint.js';
import { MSG_IOV_OFFSET, MSG_IOVLEN_OFFSET, MSGHDR_SIZE, SEND_BUFFER, UnixEndpoint } from './unix-endpoint.js';

/** Makes recvmsg return the real length of a message, however much of it there was room for. */
const MSG_TRUNC = 0x20;

// One per thread: used within one call.
const vector = new IovecArray();
const header = new NativeBuffer(MSGHDR_SIZE);

/** What the kernel takes off a socket's send buffer for the longest message (unix_dgram_sendmsg). */
const SEND_BUFFER_RESERVE = 32;

function messageSendBuffer(bufAlloc: number): number {
  return Math.max(SEND_BUFFER, bufAlloc);
}

/**
 * The longest message that a host socket takes, up to `bufAlloc`. A message goes in one piece or not at all, and the
 * kernel caps the send buffer at twice net.core.wmem_max. Throws SysError.
 */
export function longestMessage(bufAlloc: number): number {
  const granted = sendBufferGranted(SOCK_SEQPACKET, messageSendBuffer(bufAlloc));
  return Math.min(bufAlloc, granted - SEND_BUFFER_RESERVE);
}

export class SeqpacketEndpoint extends UnixEndpoint implements MessageEndpoint {
  messageBytes = 0;
  private readonly rings: RingPool;
  /** What is left of the message that is being read. */
  private rest: ByteRing | undefined;
  private hostEnded = false;

  /** Takes over `fd`, a connected non-blocking SOCK_SEQPACKET socket. A message may be as long as a ring of `rings`. */
  constructor(fd: Fd, loop: EventLoop, rings: RingPool) {
    super(fd, loop, messageSendBuffer(rings.capacity));
    this.rings = rings;
  }

  get messageEnded(): boolean {
    return this.rest === undefined;
  }

  override read(target: IovecArray, first: number, count: number): number {
    if (this.rest !== undefined) return this.readRest(this.rest, target, first, count);
    const rest = this.rings.take();
    // One entry is for the ring.
    const entries = Math.min(count, IOV_MAX - 1);
    vector.clear();
    for (let entry = first; entry < first + entries; entry++)
      vector.add(target.addressAt(entry), target.lengthAt(entry));
    const room = vector.totalBytes;
    rest.describeEmpty(vector);
    const length = this.receive();
    if (length <= room) {
      this.rings.give(rest);
      // If this is the end and was not told yet, an event is about to.
      if (length === 0) return this.hostEnded ? 0 : -EAGAIN;
      if (length > 0) this.messageBytes = length;
      return length;
    }
    this.messageBytes = length;
    rest.filled(Math.min(length - room, rest.capacity));
    this.rest = rest;
    return room;
  }

  override ready(events: number): void {
    this.hostEnded ||= UnixEndpoint.tellsEnd(events);
    super.ready(events);
  }

  override close(): void {
    this.dropRest();
    super.close();
  }

  private readRest(rest: ByteRing, target: IovecArray, first: number, count: number): number {
    const moved = rest.moveTo(target, first, count);
    if (rest.length === 0) this.dropRest();
    return moved;
  }

  /** The length of the next message that is not empty; 0 when there is none (yet), or a negative errno. */
  private receive(): number {
    header.setU64(MSG_IOV_OFFSET, vector.address);
    header.setU64(MSG_IOVLEN_OFFSET, vector.count);
    for (let reset = false; ;) {
      const length = orErrno(libc.recvmsg(this.fd, header.address, MSG_TRUNC));
      // A peer that closes with something unread makes one call fail; what it sent before can still be read.
      if (length === -ECONNRESET && !reset) reset = true;
      else if (length !== 0 || bytesWaiting(this.fd) === 0) return length;
    }
  }

  private dropRest(): void {
    if (this.rest === undefined) return;
    this.rings.give(this.rest);
    this.rest = undefined;
  }
}
