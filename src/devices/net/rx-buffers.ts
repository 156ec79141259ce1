// Receive buffers that the driver has posted, held ready for reads of whole frames: virtio 1.2, section 5.1.6.3 and 5.1.6.4.
//
// Runs in the I/O worker. Chains are popped once and checked by the queue; what they offer lies in one standing iovec
// array in chain order, header and frame alike, since a tap gives both in one piece. A read is offered a window of it:
// as many chains as the longest frame may need (just one when the driver does not merge buffers). Chains leave in
// order; those that a frame did not reach stay for the next one.
//
// When fewer chains are at hand than the longest frame may need, the window ends with memory of ours, the spill. So a
// frame is never cut short unnoticed, and one that is longer than what was posted need not be lost: it is parked, its
// beginning in the guest's chains and its end in the spill, until the driver has posted enough for the rest.

import { IOV_MAX, IovecArray } from '../../platform/iovec.js';
import type { GuestMemory } from '../../platform/guest-memory.js';
import { libc } from '../../platform/libc.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import { DescriptorChain, MAX_CHAIN_SEGMENTS } from '../virtio/chain.js';
import { BAD_CHAIN, BROKEN, CHAIN, EMPTY, type SplitQueue } from '../virtio/queue.js';
import { HEADER_FLAGS, HEADER_NUM_BUFFERS, HEADER_SIZE, MAX_FRAME } from './header.js';

/** What the tap's longest frame takes with its header. */
const LONGEST = HEADER_SIZE + MAX_FRAME;
/** A window this large tells the longest frame from one that was cut short. */
const FULL_WINDOW = LONGEST + 1;

/** Chains held at most: several of the longest frames in buffers of 1.5 KiB, which is what Linux posts. */
const MAX_HELD = 256;
/** Segments a read can be offered, the spill included. */
const MAX_WINDOW_SEGMENTS = IOV_MAX - 1;
/** Room for one chain of the worst kind beyond what a full set of ordinary chains takes, and for the spill. */
const SEGMENTS = 2 * MAX_CHAIN_SEGMENTS;

/** What the array of capacities takes; a chain may offer one byte more. */
const MAX_CAPACITY = 0xffff_ffff;

/** The header of the chain is not in one segment. */
const SCATTERED = 0xff;

export class RxBuffers {
  /** What `prepare` found: read into the entries from `firstEntry` on, `entryCount` of them. */
  firstEntry = 0;
  entryCount = 0;
  readonly iov = new IovecArray(SEGMENTS + 1);

  private readonly memory: GuestMemory;
  private readonly queue: SplitQueue;
  private readonly chain: DescriptorChain;
  private readonly maxHeld: number;
  private readonly rejected: (head: number) => void;
  private readonly spill = new NativeBuffer(LONGEST);
  private spillOffered = false;

  // Held chains are [first, end) of these; those in the window are [first, windowEnd).
  private first = 0;
  private end = 0;
  private windowEnd = 0;
  private windowBytes = 0;
  private readonly heads = new Uint16Array(MAX_HELD);
  private readonly capacities = new Uint32Array(MAX_HELD);
  private readonly segmentFirst = new Uint16Array(MAX_HELD);
  private readonly segmentCount = new Uint16Array(MAX_HELD);
  private readonly headerChunks = new Uint8Array(MAX_HELD);
  private readonly headerOffsets = new Uint32Array(MAX_HELD);

  /** Bytes of the parked frame with its header, or 0; the first `parkedInGuest` of them are in chains. */
  private parkedBytes = 0;
  private parkedInGuest = 0;

  /** `merge`: a frame may take several chains. `rejected` hears of chains of no use; they have been given back. */
  constructor(memory: GuestMemory, queue: SplitQueue, merge: boolean, rejected: (head: number) => void) {
    this.memory = memory;
    this.queue = queue;
    this.chain = new DescriptorChain(memory);
    this.maxHeld = merge ? MAX_HELD : 1;
    this.rejected = rejected;
  }

  /** Chains at hand. */
  get held(): number {
    return this.end - this.first;
  }

  /** A frame waits for more chains. */
  get parked(): boolean {
    return this.parkedBytes > 0;
  }

  /** Whether more chains would be of use for the next frame. */
  wantsMore(): boolean {
    if (this.held >= this.maxHeld) return false;
    this.extendWindow();
    return this.windowBytes < FULL_WINDOW && this.windowEnd === this.end;
  }

  /** Takes what the driver has posted, as far as there is room. False when the ring is broken. */
  refill(): boolean {
    if (this.first === this.end) this.clear();
    // No more than the ring holds: a driver that posts as fast as its chains are refused must not keep the worker here.
    for (let taken = 0; taken < this.queue.size && this.makeRoom(); taken++) {
      switch (this.queue.pop(this.chain)) {
        case EMPTY:
          return true;
        case BROKEN:
          return false;
        case BAD_CHAIN:
          this.reject();
          break;
        case CHAIN:
          this.hold();
          break;
      }
    }
    return true;
  }

  /** Chooses where the next frame goes; at least one chain is held and none is parked. `finish` or `cancel` follows. */
  prepare(): void {
    this.extendWindow();
    const { first, windowEnd } = this;
    this.firstEntry = this.segmentFirst[first];
    this.entryCount = this.segmentFirst[windowEnd - 1] + this.segmentCount[windowEnd - 1] - this.firstEntry;
    if (this.windowBytes < FULL_WINDOW && windowEnd === this.end) {
      this.addSpill();
      this.entryCount++;
    }
  }

  /** Offers the spill alone, for a frame that nobody is to see; `cancel` follows. */
  prepareDiscard(): void {
    this.firstEntry = this.iov.count;
    this.entryCount = 1;
    this.addSpill();
  }

  /** Nothing was read, or nothing that matters. */
  cancel(): void {
    this.dropSpill();
  }

  /**
   * A frame of `bytes` with its header was read. Stages its chains as used and returns true; or returns false when it
   * is parked, or was longer than whatever could take it: then it is gone (`parked` tells).
   */
  finish(bytes: number, clearFlags: boolean): boolean {
    const spilled = this.dropSpill();
    if (bytes < this.windowBytes || (spilled && bytes === this.windowBytes)) {
      this.deliver(bytes, clearFlags);
      return true;
    }
    // Without the spill, a read that filled the window may have been cut short.
    if (spilled && bytes <= LONGEST && this.canGrow()) {
      this.parkedBytes = bytes;
      this.parkedInGuest = this.windowBytes;
    }
    return false;
  }

  /**
   * Puts more of the parked frame into chains that were posted since. Returns its bytes once it has been staged, 0
   * while it waits for more, and -1 when it cannot be held whole by what the driver can post: then it is gone.
   */
  unpark(clearFlags: boolean): number {
    this.extendWindow();
    if (this.windowBytes < this.parkedBytes) {
      if (this.canGrow()) return 0;
      this.parkedBytes = 0;
      return -1;
    }
    const bytes = this.parkedBytes;
    this.copySpill();
    this.parkedBytes = 0;
    this.deliver(bytes, clearFlags);
    return bytes;
  }

  /** Holds no chain any more; a parked frame is kept, whole, for chains that are taken later. */
  putBack(): void {
    this.gatherParked();
    this.queue.unpop(this.held);
    this.clear();
  }

  /** Brings all of the parked frame into the spill. */
  private gatherParked(): void {
    const { iov, spill, parkedBytes, parkedInGuest } = this;
    if (parkedBytes === 0) return;
    spill.bytes.copyWithin(parkedInGuest, 0, parkedBytes - parkedInGuest);
    let at = 0;
    for (let entry = this.segmentFirst[this.first]; at < parkedInGuest; entry++) {
      const length = Math.min(iov.lengthAt(entry), parkedInGuest - at);
      libc.memcpy(spill.address + at, iov.addressAt(entry), length);
      at += length;
    }
    this.parkedInGuest = 0;
  }

  /** Whether the driver may yet post a chain that the present window can have. */
  private canGrow(): boolean {
    return this.windowEnd === this.end && this.held < this.queue.size && this.makeRoom();
  }

  /** Room for one more chain, even of the worst kind. */
  private makeRoom(): boolean {
    if (this.held >= this.maxHeld) return false;
    if (this.end < MAX_HELD && this.iov.count + MAX_CHAIN_SEGMENTS <= SEGMENTS) return true;
    if (this.first === 0) return false;
    this.compact();
    return this.iov.count + MAX_CHAIN_SEGMENTS <= SEGMENTS;
  }

  private clear(): void {
    this.first = 0;
    this.end = 0;
    this.windowEnd = 0;
    this.windowBytes = 0;
    this.iov.clear();
  }

  /** Moves the held chains to the front of all arrays. */
  private compact(): void {
    const { first, end } = this;
    const shift = this.segmentFirst[first];
    this.iov.dropFirst(shift);
    this.heads.copyWithin(0, first, end);
    this.capacities.copyWithin(0, first, end);
    this.segmentCount.copyWithin(0, first, end);
    this.headerChunks.copyWithin(0, first, end);
    this.headerOffsets.copyWithin(0, first, end);
    for (let index = first; index < end; index++) this.segmentFirst[index - first] = this.segmentFirst[index] - shift;
    this.first = 0;
    this.end = end - first;
    this.windowEnd -= first;
  }

  private reject(): void {
    this.queue.addUsed(this.chain.head, 0);
    this.rejected(this.chain.head);
  }

  private hold(): void {
    const { chain } = this;
    // Receive buffers are for the device to write, and the first of a frame has its header; any may be the first.
    if (chain.readableCount > 0 || chain.writableBytes < HEADER_SIZE || chain.count > MAX_WINDOW_SEGMENTS) {
      this.reject();
      return;
    }
    const index = this.end++;
    this.heads[index] = chain.head;
    this.capacities[index] = Math.min(chain.writableBytes, MAX_CAPACITY);
    this.segmentFirst[index] = this.iov.count;
    this.segmentCount[index] = chain.count;
    this.headerChunks[index] = chain.lengths[0] >= HEADER_SIZE ? chain.chunks[0] : SCATTERED;
    this.headerOffsets[index] = chain.offsets[0];
    for (let segment = 0; segment < chain.count; segment++) {
      this.iov.add(chain.hostAddress(segment), chain.lengths[segment]);
    }
  }

  /** Lets the window reach as far as the longest frame may. */
  private extendWindow(): void {
    const firstSegment = this.segmentFirst[this.first];
    while (this.windowBytes < FULL_WINDOW && this.windowEnd < this.end) {
      const index = this.windowEnd;
      if (this.segmentFirst[index] + this.segmentCount[index] - firstSegment > MAX_WINDOW_SEGMENTS) return;
      this.windowBytes += this.capacities[index];
      this.windowEnd++;
    }
  }

  private addSpill(): void {
    this.iov.add(this.spill.address, LONGEST);
    this.spillOffered = true;
  }

  /** Takes the spill off the array; returns whether it was there. */
  private dropSpill(): boolean {
    if (!this.spillOffered) return false;
    this.spillOffered = false;
    this.iov.dropLast();
    return true;
  }

  private deliver(bytes: number, clearFlags: boolean): void {
    const { first } = this;
    let index = first;
    for (let left = bytes; left > 0; index++) {
      const capacity = this.capacities[index];
      const length = left < capacity ? left : capacity;
      this.queue.addUsed(this.heads[index], length);
      this.windowBytes -= capacity;
      left -= length;
    }
    this.writeHeader(first, index - first, clearFlags);
    this.first = index;
  }

  /** Copies the end of the parked frame from the spill to where it belongs. */
  private copySpill(): void {
    const { iov, parkedBytes, parkedInGuest } = this;
    let at = 0;
    for (let entry = this.segmentFirst[this.first]; at < parkedBytes; entry++) {
      const length = iov.lengthAt(entry);
      const end = at + length < parkedBytes ? at + length : parkedBytes;
      if (end > parkedInGuest) {
        const from = at > parkedInGuest ? at : parkedInGuest;
        libc.memcpy(iov.addressAt(entry) + from - at, this.spill.address + from - parkedInGuest, end - from);
      }
      at += length;
    }
  }

  /** Puts into the header of a frame what the tap does not know (5.1.6.4.1). */
  private writeHeader(index: number, buffers: number, clearFlags: boolean): void {
    const chunkIndex = this.headerChunks[index];
    if (chunkIndex === SCATTERED) {
      this.writeHeaderByte(index, HEADER_NUM_BUFFERS, buffers & 0xff);
      this.writeHeaderByte(index, HEADER_NUM_BUFFERS + 1, buffers >>> 8);
      if (clearFlags) this.writeHeaderByte(index, HEADER_FLAGS, 0);
      return;
    }
    const { bytes } = this.memory.chunks[chunkIndex];
    const at = this.headerOffsets[index];
    bytes[at + HEADER_NUM_BUFFERS] = buffers;
    bytes[at + HEADER_NUM_BUFFERS + 1] = buffers >>> 8;
    if (clearFlags) bytes[at + HEADER_FLAGS] = 0;
  }

  private writeHeaderByte(index: number, at: number, value: number): void {
    let entry = this.segmentFirst[index];
    for (; at >= this.iov.lengthAt(entry); entry++) at -= this.iov.lengthAt(entry);
    const address = this.iov.addressAt(entry) + at;
    for (const chunk of this.memory.chunks) {
      const offset = address - chunk.hostAddress;
      if (offset >= 0 && offset < chunk.size) chunk.bytes[offset] = value;
    }
  }
}
