// Credit-based flow control of one connection: virtio 1.2, section 5.10.6.3. Arithmetic only, no I/O.
//
// Each side tells the other, in every packet, how large its receive buffer is (buf_alloc) and how many bytes it has
// taken out of it since the connection began (fwd_cnt). A sender keeps the bytes it sent minus fwd_cnt within
// buf_alloc. Byte counts are free-running modulo 2^32; they are kept as signed 32-bit integers, which V8 stores
// without allocating, and only their differences mean anything.

const MAX_INT32 = 0x7fff_ffff;

/**
 * What a packet costs a Linux guest beside its payload: it counts the book-keeping of its socket buffers against
 * buf_alloc too (struct sk_buff and skb_shared_info, 576 to 1024 bytes by configuration), and resets a connection
 * whose many small packets exceed it.
 */
export const PACKET_OVERHEAD = 1024;

/** Room left in its buffer, as told to us, at which Linux sends a credit update (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE). */
const SPEAKS_UP_BELOW = 64 * 1024;

/** What the guest lets us send (rx). */
export class SendCredit {
  private sent = 0;
  private peerForwarded = 0;
  private peerBufAlloc = 0;
  // Packets that the guest may still hold, in two generations: those up to byte `oldEnd`, and those after it.
  private oldPackets = 0;
  private oldEnd = 0;
  private newPackets = 0;
  private newLargest = 1;
  /** Where the message that is being sent begins. */
  private messageStart = 0;

  /** The guest's buffer as it last said, in bytes. */
  get bufAlloc(): number {
    return this.peerBufAlloc;
  }

  /** Bytes that the guest was sent and has not taken yet; negative when it claims to have taken more than it got. */
  get inFlight(): number {
    return (this.sent - this.peerForwarded) | 0;
  }

  /** Whether there is credit for a packet of at least one byte. */
  get sendable(): boolean {
    return this.available() > PACKET_OVERHEAD;
  }

  /**
   * Whether it is packets rather than bytes that the guest has too many of. Linux before 6.7 speaks up by itself only
   * when it has taken all but 64 KiB of its buffer since it last did: fewer bytes under way never make that. Of small
   * buffers three quarters are near enough.
   */
  get limitedByPackets(): boolean {
    const { inFlight, peerBufAlloc } = this;
    return !this.sendable && inFlight < Math.max((peerBufAlloc / 4) * 3, peerBufAlloc - SPEAKS_UP_BELOW);
  }

  /**
   * How much may be sent now, where each packet costs PACKET_OVERHEAD beside its payload. With nothing under way
   * one packet may go in any case, or a small buf_alloc would mean none ever.
   */
  available(): number {
    const { inFlight } = this;
    // A guest that takes what it was not sent has lost count; it gets nothing until its numbers make sense.
    if (inFlight < 0) return 0;
    if (inFlight === 0) return this.peerBufAlloc === 0 ? 0 : this.peerBufAlloc + PACKET_OVERHEAD;
    return this.peerBufAlloc - inFlight - (this.oldPackets + this.newPackets) * PACKET_OVERHEAD;
  }

  /** A message begins with the next byte (SEQPACKET). */
  beginMessage(): void {
    this.messageStart = this.sent;
  }

  /**
   * How many bytes may be sent now of a message that has begun, whatever their packets cost; 0 while the guest holds
   * anything of an earlier one. A guest takes messages whole: if the rest of one waited until packets were taken, it
   * would wait for ever.
   */
  availableInMessage(): number {
    const { inFlight } = this;
    if (inFlight < 0 || ((this.peerForwarded - this.messageStart) | 0) < 0) return 0;
    return this.peerBufAlloc - inFlight;
  }

  /** Takes over what a packet from the guest says. */
  update(bufAlloc: number, fwdCnt: number): void {
    this.peerBufAlloc = bufAlloc > MAX_INT32 ? MAX_INT32 : bufAlloc;
    this.peerForwarded = fwdCnt | 0;
    if (this.inFlight <= 0) {
      this.oldPackets = 0;
      this.newPackets = 0;
      return;
    }
    const takenOfNew = (this.peerForwarded - this.oldEnd) | 0;
    if (takenOfNew < 0) return;
    // All of the old generation is gone, and of the new one at least as many as full-sized packets would have been.
    this.oldPackets = Math.max(0, this.newPackets - Math.floor(takenOfNew / this.newLargest));
    this.oldEnd = this.sent;
    this.newPackets = 0;
    this.newLargest = 1;
  }

  /** `bytes` went out in `packets` packets, none with more than `largest` bytes. */
  consume(bytes: number, packets: number, largest: number): void {
    if (this.oldPackets === 0 && this.newPackets === 0) this.oldEnd = this.sent;
    this.sent = (this.sent + bytes) | 0;
    this.newPackets += packets;
    if (largest > this.newLargest) this.newLargest = largest;
  }
}

/** What we let the guest send (tx). */
export class ReceiveCredit {
  readonly bufAlloc: number;
  private received = 0;
  private forwarded = 0;
  private told = 0;

  constructor(bufAlloc: number) {
    this.bufAlloc = bufAlloc;
  }

  /** Bytes received and not yet passed on. */
  get buffered(): number {
    return (this.received - this.forwarded) | 0;
  }

  /** The value for the fwd_cnt field, modulo 2^32. */
  get fwdCnt(): number {
    return this.forwarded;
  }

  /** Counts `bytes` from the guest; false when it had no credit for them. */
  receive(bytes: number): boolean {
    if (bytes > this.bufAlloc - this.buffered) return false;
    this.received = (this.received + bytes) | 0;
    return true;
  }

  /** `bytes` were passed on: their room is free again. */
  forward(bytes: number): void {
    this.forwarded = (this.forwarded + bytes) | 0;
  }

  /** A packet with the present fwd_cnt goes out. */
  tell(): void {
    this.told = this.forwarded;
  }

  /**
   * Whether a credit update is due: half of what the guest may have under way, as it sees it, is used up, and there
   * is a quarter of it or all we hold to give back. `peerBufAlloc` counts too, since Linux never has more under way
   * than its own buffer is large, whatever ours is. With `wholeMessages` what we hold may be part of a message whose
   * rest waits for just this credit: then any room is worth telling.
   */
  updateDue(peerBufAlloc: number, wholeMessages = false): boolean {
    const freed = (this.forwarded - this.told) | 0;
    if (freed === 0) return false;
    const window = peerBufAlloc > 0 && peerBufAlloc < this.bufAlloc ? peerBufAlloc : this.bufAlloc;
    const used = (this.received - this.told) | 0;
    return used * 2 >= window && (wholeMessages || freed * 4 >= window || this.received === this.forwarded);
  }
}
