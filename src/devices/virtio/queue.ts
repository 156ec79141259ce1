// The device's half of a split virtqueue: virtio 1.2, section 2.7, with indirect descriptors and EVENT_IDX.
//
// Runs in the I/O worker that owns the device, and in nothing else. Habits of this file:
// - indices run free modulo 2^16 and are masked on access;
// - stage, publish, then ask: `addUsed` stages entries, `publish` makes them visible with one store of the used index
//   and answers whether the driver wants an interrupt;
// - everything read from the rings is hostile. A bad chain is reported and can be dropped (`BAD_CHAIN`); a ring that
//   makes no sense as a whole is `BROKEN`, and the device asks for a reset.
//
// Barriers: JavaScript's Atomics are sequentially consistent, which covers both the acquire/release pairs of the index
// words and the full barrier that EVENT_IDX needs between publishing an index and reading the other side's event word.

import { NO_CHUNK, type GuestMemory } from '../../platform/guest-memory.js';
import { TWO_POW_32 } from '../../platform/units.js';
import { MAX_CHAIN_SEGMENTS, type DescriptorChain } from './chain.js';

/** The largest queue size virtio allows; it is a power of two (2.7). */
export const MAX_QUEUE_SIZE = 32768;

// struct virtq_desc { le64 addr; le32 len; le16 flags; le16 next; } (2.7.5)
const DESCRIPTOR_SIZE = 16;
const DESCRIPTOR_WORDS = DESCRIPTOR_SIZE / 4;
const VIRTQ_DESC_F_NEXT = 1;
const VIRTQ_DESC_F_WRITE = 2;
const VIRTQ_DESC_F_INDIRECT = 4;

// struct virtq_avail { le16 flags; le16 idx; le16 ring[size]; le16 used_event; } (2.7.6)
const AVAIL_IDX = 1;
const AVAIL_RING = 2;
const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;

// struct virtq_used { le16 flags; le16 idx; struct { le32 id; le32 len; } ring[size]; le16 avail_event; } (2.7.8)
const USED_IDX = 1;
const USED_RING_WORDS32 = 1;
const USED_AVAIL_EVENT_WORDS16 = 2;
const VIRTQ_USED_F_NO_NOTIFY = 1;

const INDEX_MASK = 0xffff;

/** No chain is longer (2.7.5.2), though its buffers may lie one over the other: a device may count its bytes in 32 bits. */
const MAX_CHAIN_BYTES = TWO_POW_32;

/** What `pop` found. */
export const EMPTY = 0;
export const CHAIN = 1;
/** The chain is malformed; `chain.head` can be returned to the driver with `addUsed(head, 0)`. */
export const BAD_CHAIN = 2;
/** The available ring itself is malformed: only a device reset helps. */
export const BROKEN = 3;
export type PopResult = typeof EMPTY | typeof CHAIN | typeof BAD_CHAIN | typeof BROKEN;

/** Where a driver put a queue: what it wrote into the transport's registers. */
export interface QueueLayout {
  readonly size: number;
  /** Guest-physical addresses of the descriptor table, the available ring and the used ring. */
  readonly descriptorTable: number;
  readonly availableRing: number;
  readonly usedRing: number;
}

/** How far a device has come in a queue: both indices run free modulo 2^16. */
export interface QueuePosition {
  /** The next available entry to take. */
  readonly avail: number;
  /** The next used entry to write. */
  readonly used: number;
}

export interface QueueFeatures {
  readonly eventIdx: boolean;
  readonly indirect: boolean;
}

/** A queue layout that cannot be used: the driver's fault. */
export class QueueLayoutError extends Error {
  override readonly name = 'QueueLayoutError';
}

function checkAligned(name: string, address: number, alignment: number): void {
  if (address % alignment !== 0) throw new QueueLayoutError(`${name} at ${address} is not ${alignment}-byte aligned`);
}

/** One split virtqueue, device side. */
export class SplitQueue {
  readonly size: number;
  readonly eventIdx: boolean;
  private readonly memory: GuestMemory;
  private readonly indirect: boolean;
  private readonly mask: number;
  private readonly descriptors: Uint32Array;
  private readonly descriptorBase: number;
  private readonly avail: Uint16Array;
  private readonly availBase: number;
  private readonly used16: Uint16Array;
  private readonly used16Base: number;
  private readonly used32: Uint32Array;
  private readonly used32Base: number;
  /** The next available entry to take. */
  private nextAvail = 0;
  /** The driver's available index when it was last read. */
  private knownAvail = 0;
  /** The next used entry to stage. */
  private nextUsed = 0;
  /** What the driver can see: the used index last published. */
  private publishedUsed = 0;

  /** `position` is where a saved device was. Throws QueueLayoutError when the size is no power of two, an address is misaligned, or a ring is not in RAM. */
  constructor(memory: GuestMemory, layout: QueueLayout, features: QueueFeatures, position?: QueuePosition) {
    const { size, descriptorTable, availableRing, usedRing } = layout;
    if (size === 0 || size > MAX_QUEUE_SIZE || (size & (size - 1)) !== 0) {
      throw new QueueLayoutError(`queue size ${size} is not a power of two up to ${MAX_QUEUE_SIZE}`);
    }
    checkAligned('descriptor table', descriptorTable, 16);
    checkAligned('available ring', availableRing, 2);
    checkAligned('used ring', usedRing, 4);
    this.memory = memory;
    if (position !== undefined) {
      this.nextAvail = position.avail & INDEX_MASK;
      this.knownAvail = this.nextAvail;
      this.nextUsed = position.used & INDEX_MASK;
      this.publishedUsed = this.nextUsed;
    }
    this.size = size;
    this.mask = size - 1;
    this.eventIdx = features.eventIdx;
    this.indirect = features.indirect;
    try {
      const descriptorChunk = memory.chunkOf(descriptorTable, size * DESCRIPTOR_SIZE);
      this.descriptors = descriptorChunk.words32;
      this.descriptorBase = (descriptorTable - descriptorChunk.guestAddress) / 4;
      const availChunk = memory.chunkOf(availableRing, 6 + 2 * size);
      this.avail = availChunk.words16;
      this.availBase = (availableRing - availChunk.guestAddress) / 2;
      const usedChunk = memory.chunkOf(usedRing, 6 + 8 * size);
      this.used16 = usedChunk.words16;
      this.used16Base = (usedRing - usedChunk.guestAddress) / 2;
      this.used32 = usedChunk.words32;
      this.used32Base = (usedRing - usedChunk.guestAddress) / 4;
    } catch (error) {
      throw new QueueLayoutError('a ring is not in one piece of guest RAM', { cause: error });
    }
  }

  /** How many chains the driver has made available that were not popped yet; BROKEN rings report more than `size`. */
  pending(): number {
    // Acquire: pairs with the driver's release of avail.idx, so the ring entries and descriptors before it are visible.
    this.knownAvail = Atomics.load(this.avail, this.availBase + AVAIL_IDX);
    return (this.knownAvail - this.nextAvail) & INDEX_MASK;
  }

  /** Takes the next available chain into `chain`. */
  pop(chain: DescriptorChain): PopResult {
    if (this.nextAvail === this.knownAvail && this.pending() === 0) return EMPTY;
    // On every pop, since `pending` may have been called from outside and moved knownAvail anywhere.
    if (((this.knownAvail - this.nextAvail) & INDEX_MASK) > this.size) return BROKEN;
    const head = this.avail[this.availBase + AVAIL_RING + (this.nextAvail & this.mask)];
    if (head >= this.size) return BROKEN;
    this.nextAvail = (this.nextAvail + 1) & INDEX_MASK;
    chain.head = head;
    chain.count = 0;
    chain.readableCount = 0;
    chain.readableBytes = 0;
    chain.writableBytes = 0;
    if (!this.walk(chain, this.descriptors, this.descriptorBase, this.size, head, true)) return BAD_CHAIN;
    return chain.readableBytes + chain.writableBytes > MAX_CHAIN_BYTES ? BAD_CHAIN : CHAIN;
  }

  /** Puts the chains popped last back, unused: the next `pop` takes them again. */
  unpop(count = 1): void {
    this.nextAvail = (this.nextAvail - count) & INDEX_MASK;
  }

  /** Where the device is in the queue. Chains that it holds must be used or put back first, entries published. */
  get position(): QueuePosition {
    return { avail: this.nextAvail, used: this.nextUsed };
  }

  /** Stages a used entry: `written` bytes were written into the chain that starts at `head`. */
  addUsed(head: number, written: number): void {
    const word = this.used32Base + USED_RING_WORDS32 + (this.nextUsed & this.mask) * 2;
    this.used32[word] = head;
    this.used32[word + 1] = written;
    this.nextUsed = (this.nextUsed + 1) & INDEX_MASK;
  }

  /** Whether entries are staged that were not published yet. */
  get staged(): boolean {
    return this.nextUsed !== this.publishedUsed;
  }

  /** Publishes the staged entries, if any, and returns whether the driver wants an interrupt for them. */
  publish(): boolean {
    const previous = this.publishedUsed;
    if (previous === this.nextUsed) return false;
    this.publishedUsed = this.nextUsed;
    // Release: pairs with the driver's acquire of used.idx. Being sequentially consistent it also orders this store
    // before the load below; the driver writes used_event (or flags), then re-reads used.idx, so one side sees the other.
    Atomics.store(this.used16, this.used16Base + USED_IDX, this.nextUsed);
    if (!this.eventIdx) {
      return (Atomics.load(this.avail, this.availBase) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
    }
    const usedEvent = Atomics.load(this.avail, this.availBase + AVAIL_RING + this.size);
    // 2.7.7.2: interrupt if the index passed used_event since the last publication.
    return ((this.nextUsed - usedEvent - 1) & INDEX_MASK) < ((this.nextUsed - previous) & INDEX_MASK);
  }

  /** Tells the driver not to notify: the device is looking at the queue anyway. */
  suppressNotifications(): void {
    // With EVENT_IDX nothing needs to be written: the stale avail_event is never passed again before it is renewed.
    if (!this.eventIdx) Atomics.store(this.used16, this.used16Base, VIRTQ_USED_F_NO_NOTIFY);
  }

  /**
   * Asks the driver to notify when it makes the next chain available, and returns whether one is there already: then
   * there may be no notification for it, and the caller goes on processing.
   */
  armNotifications(): boolean {
    if (this.eventIdx) {
      const word = this.used16Base + USED_AVAIL_EVENT_WORDS16 + 4 * this.size;
      // Full barrier: the driver stores avail.idx, then loads avail_event; this side does the reverse.
      Atomics.store(this.used16, word, this.nextAvail);
    } else {
      Atomics.store(this.used16, this.used16Base, 0);
    }
    return this.pending() !== 0;
  }

  /**
   * Asks the driver to notify when it makes a chain available beyond the `known` ones that it had made so far, of which
   * some may not be popped yet; returns whether it has done so already.
   */
  armForMoreThan(known: number): boolean {
    if (this.eventIdx) {
      Atomics.store(this.used16, this.used16Base + USED_AVAIL_EVENT_WORDS16 + 4 * this.size, known);
    } else {
      Atomics.store(this.used16, this.used16Base, 0);
    }
    return this.available !== known;
  }

  /** The driver's available index: free-running, modulo 2^16. */
  get available(): number {
    this.pending();
    return this.knownAvail;
  }

  private walk(
    chain: DescriptorChain,
    table: Uint32Array,
    base: number,
    tableSize: number,
    index: number,
    indirectAllowed: boolean,
  ): boolean {
    // A chain visits a descriptor at most once, so more steps than descriptors is a loop.
    for (let steps = 0; steps < tableSize; steps++) {
      const word = base + index * DESCRIPTOR_WORDS;
      const addressLow = table[word];
      const addressHigh = table[word + 1];
      const length = table[word + 2];
      const flagsAndNext = table[word + 3];
      if ((flagsAndNext & VIRTQ_DESC_F_INDIRECT) !== 0) {
        // 2.7.5.3.1: not nested, not combined with NEXT.
        if (!indirectAllowed || !this.indirect || (flagsAndNext & VIRTQ_DESC_F_NEXT) !== 0) return false;
        return this.walkIndirect(chain, addressLow, addressHigh, length);
      }
      const writable = (flagsAndNext & VIRTQ_DESC_F_WRITE) !== 0;
      if (!this.addSegments(chain, addressLow, addressHigh, length, writable)) return false;
      if ((flagsAndNext & VIRTQ_DESC_F_NEXT) === 0) return true;
      index = flagsAndNext >>> 16;
      if (index >= tableSize) return false;
    }
    return false;
  }

  private walkIndirect(chain: DescriptorChain, addressLow: number, addressHigh: number, length: number): boolean {
    const entries = length / DESCRIPTOR_SIZE;
    if (length === 0 || !Number.isInteger(entries) || entries > MAX_CHAIN_SEGMENTS) return false;
    if ((addressLow & 3) !== 0) return false;
    const chunkIndex = this.memory.chunkIndex(addressLow, addressHigh);
    if (chunkIndex === NO_CHUNK) return false;
    const chunk = this.memory.chunks[chunkIndex];
    const offset = chunkIndex === 0 ? addressLow : addressLow + addressHigh * TWO_POW_32 - chunk.guestAddress;
    if (offset + length > chunk.size) return false;
    return this.walk(chain, chunk.words32, offset >>> 2, entries, 0, false);
  }

  private addSegments(
    chain: DescriptorChain,
    addressLow: number,
    addressHigh: number,
    length: number,
    writable: boolean,
  ): boolean {
    // 2.7.4.2: device-readable parts come before device-writable ones.
    if (!writable && chain.count > chain.readableCount) return false;
    while (length > 0) {
      if (chain.count === MAX_CHAIN_SEGMENTS) return false;
      const chunkIndex = this.memory.chunkIndex(addressLow, addressHigh);
      if (chunkIndex === NO_CHUNK) return false;
      const chunk = this.memory.chunks[chunkIndex];
      const offset = chunkIndex === 0 ? addressLow : addressLow + addressHigh * TWO_POW_32 - chunk.guestAddress;
      const piece = Math.min(length, chunk.size - offset);
      const segment = chain.count++;
      chain.chunks[segment] = chunkIndex;
      chain.offsets[segment] = offset;
      chain.lengths[segment] = piece;
      if (writable) {
        chain.writableBytes += piece;
      } else {
        chain.readableCount++;
        chain.readableBytes += piece;
      }
      length -= piece;
      if (length > 0) {
        const next = addressLow + addressHigh * TWO_POW_32 + piece;
        addressLow = next % TWO_POW_32;
        addressHigh = (next - addressLow) / TWO_POW_32;
      }
    }
    return true;
  }
}
