// Receive buffers that the driver has posted, held ready for one readv: virtio 1.2, section 5.10.6.2 ("rx").
//
// Runs in the I/O worker. Chains are popped once, checked by the queue, and taken apart here into where the header
// goes and where the payload goes. The payload areas of all held chains lie in one standing iovec array in chain
// order, so a read of the host socket fills many buffers with one call and needs no array of its own. Chains leave in
// order; those that a read did not reach stay for the next one, whichever connection that is.
//
// A header may share a descriptor with payload, have one to itself, or be spread over many: whatever the driver made.

import { DescriptorChain, MAX_CHAIN_SEGMENTS } from '../devices/virtio/chain.js';
import { BAD_CHAIN, BROKEN, CHAIN, EMPTY, type SplitQueue } from '../devices/virtio/queue.js';
import type { GuestMemory } from '../platform/guest-memory.js';
import { IOV_MAX, IovecArray } from '../platform/iovec.js';
import { HEADER_FLAGS_WORD, HEADER_LEN_WORD, HEADER_SIZE, HEADER_WORDS, type PacketHeader } from './packet.js';

/** Chains held at most: a few full readv calls of 4 KiB buffers. */
const MAX_HELD = 256;
/** A chain in pieces of one byte needs this many header pieces. */
const MAX_HEADER_PIECES = HEADER_SIZE;
const HEADER_PIECES = MAX_HELD + 4 * MAX_HEADER_PIECES;
/** Room for the payload of one chain of the worst kind beyond what a full set of ordinary chains takes. */
const IOVECS = 2 * MAX_CHAIN_SEGMENTS;

export class RxBuffers {
  /** The payload areas; `prepare` says which entries to read into. */
  readonly iov = new IovecArray(IOVECS);
  /** What `prepare` found: entries [firstEntry, firstEntry + entryCount) hold `preparedBytes`. */
  firstEntry = 0;
  entryCount = 0;
  preparedBytes = 0;
  /** The largest payload that the last `finish` put into one chain. */
  largestPacket = 0;

  private readonly memory: GuestMemory;
  private readonly queue: SplitQueue;
  private readonly chain: DescriptorChain;
  private readonly rejected: (head: number) => void;

  // Held chains are [first, end) of these.
  private first = 0;
  private end = 0;
  private readonly heads = new Uint16Array(MAX_HELD);
  private readonly capacities = new Uint32Array(MAX_HELD);
  private readonly iovFirst = new Uint16Array(MAX_HELD);
  private readonly iovCount = new Uint16Array(MAX_HELD);
  private readonly headerFirst = new Uint16Array(MAX_HELD);
  private readonly headerCount = new Uint8Array(MAX_HELD);

  // Pieces of headers, [0, headerEnd) in use.
  private headerEnd = 0;
  private readonly headerChunks = new Uint8Array(HEADER_PIECES);
  private readonly headerOffsets = new Uint32Array(HEADER_PIECES);
  private readonly headerLengths = new Uint8Array(HEADER_PIECES);

  // A length that `prepare` cut short, to be put back.
  private trimmedEntry = -1;
  private trimmedLength = 0;

  /** `rejected` hears of chains that no packet fits into; they have been given back. */
  constructor(memory: GuestMemory, queue: SplitQueue, rejected: (head: number) => void) {
    this.memory = memory;
    this.queue = queue;
    this.chain = new DescriptorChain(memory);
    this.rejected = rejected;
  }

  /** Chains at hand. */
  get held(): number {
    return this.end - this.first;
  }

  /** Takes what the driver has posted, as far as there is room. False when the ring is broken. */
  refill(): boolean {
    if (this.first === this.end) this.clear();
    else if (!this.hasRoom()) this.compact();
    // No more than the ring holds: a driver that posts as fast as its chains are refused must not keep the worker here.
    for (let taken = 0; taken < this.queue.size && this.hasRoom(); taken++) {
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

  /**
   * Chooses payload areas for one read: as many as `budget` bytes allow, where each chain costs `overhead` beside its
   * payload. Returns whether there is any room at all; `finish` must follow.
   */
  prepare(budget: number, overhead: number): boolean {
    const firstEntry = this.iovFirst[this.first];
    let bytes = 0;
    let entries = 0;
    let trim = 0;
    for (let index = this.first; index < this.end; index++) {
      const room = budget - overhead;
      if (room <= 0) break;
      const count = this.iovCount[index];
      if (entries + count > IOV_MAX) break;
      entries += count;
      const capacity = this.capacities[index];
      if (capacity >= room) {
        bytes += room;
        trim = capacity - room;
        break;
      }
      bytes += capacity;
      budget = room - capacity;
    }
    this.firstEntry = firstEntry;
    this.preparedBytes = bytes;
    if (trim > 0) entries = this.trim(firstEntry + entries - 1, trim) - firstEntry + 1;
    this.entryCount = entries;
    return bytes > 0;
  }

  /**
   * After a read of `bytes` bytes (none after a failure): writes a copy of `header`, with its own length, into each
   * chain that got some, and stages them as used; the last one carries `lastFlags`. Returns how many chains that were.
   */
  finish(bytes: number, header: PacketHeader, lastFlags = 0): number {
    if (this.trimmedEntry >= 0) {
      this.iov.setLength(this.trimmedEntry, this.trimmedLength);
      this.trimmedEntry = -1;
    }
    let packets = 0;
    this.largestPacket = 0;
    while (bytes > 0) {
      const index = this.first++;
      const length = Math.min(bytes, this.capacities[index]);
      header.words[HEADER_LEN_WORD] = length;
      if (length === bytes) header.words[HEADER_FLAGS_WORD] = lastFlags;
      this.writeHeader(index, header);
      this.queue.addUsed(this.heads[index], HEADER_SIZE + length);
      if (length > this.largestPacket) this.largestPacket = length;
      bytes -= length;
      packets++;
    }
    return packets;
  }

  /** Sends a packet without payload in the next chain. */
  sendHeader(header: PacketHeader): void {
    const index = this.first++;
    this.writeHeader(index, header);
    this.queue.addUsed(this.heads[index], HEADER_SIZE);
  }

  /** Gives every chain at hand back to the queue, unused: `refill` takes them again. */
  putBack(): void {
    this.queue.unpop(this.held);
    this.clear();
  }

  /** Room for one more chain, even of the worst kind. */
  private hasRoom(): boolean {
    return (
      this.end < MAX_HELD &&
      this.headerEnd + MAX_HEADER_PIECES <= HEADER_PIECES &&
      this.iov.count + MAX_CHAIN_SEGMENTS <= IOVECS
    );
  }

  private clear(): void {
    this.first = 0;
    this.end = 0;
    this.headerEnd = 0;
    this.iov.clear();
  }

  /** Moves the held chains to the front of all arrays. */
  private compact(): void {
    const { first, end } = this;
    const iovShift = this.iovFirst[first];
    const headerShift = this.headerFirst[first];
    this.iov.dropFirst(iovShift);
    this.heads.copyWithin(0, first, end);
    this.capacities.copyWithin(0, first, end);
    this.iovCount.copyWithin(0, first, end);
    this.headerCount.copyWithin(0, first, end);
    for (let index = first; index < end; index++) {
      this.iovFirst[index - first] = this.iovFirst[index] - iovShift;
      this.headerFirst[index - first] = this.headerFirst[index] - headerShift;
    }
    this.headerChunks.copyWithin(0, headerShift, this.headerEnd);
    this.headerOffsets.copyWithin(0, headerShift, this.headerEnd);
    this.headerLengths.copyWithin(0, headerShift, this.headerEnd);
    this.headerEnd -= headerShift;
    this.first = 0;
    this.end = end - first;
  }

  private reject(): void {
    this.queue.addUsed(this.chain.head, 0);
    this.rejected(this.chain.head);
  }

  private hold(): void {
    const { chain } = this;
    // Receive buffers are for the device to write, and one without room for a byte of payload would only be in the way.
    if (chain.readableCount > 0 || chain.writableBytes <= HEADER_SIZE) {
      this.reject();
      return;
    }
    const index = this.end++;
    this.heads[index] = chain.head;
    this.capacities[index] = chain.writableBytes - HEADER_SIZE;
    this.headerFirst[index] = this.headerEnd;
    this.iovFirst[index] = this.iov.count;
    let headerLeft = HEADER_SIZE;
    for (let segment = 0; segment < chain.count; segment++) {
      const length = chain.lengths[segment];
      const headerPart = length < headerLeft ? length : headerLeft;
      if (headerPart > 0) {
        const piece = this.headerEnd++;
        this.headerChunks[piece] = chain.chunks[segment];
        this.headerOffsets[piece] = chain.offsets[segment];
        this.headerLengths[piece] = headerPart;
        headerLeft -= headerPart;
      }
      if (length > headerPart) this.iov.add(chain.hostAddress(segment, headerPart), length - headerPart);
    }
    this.headerCount[index] = this.headerEnd - this.headerFirst[index];
    this.iovCount[index] = this.iov.count - this.iovFirst[index];
  }

  /** Takes `excess` bytes off the entries that end with `lastEntry`; returns the last entry that is left. */
  private trim(lastEntry: number, excess: number): number {
    let entry = lastEntry;
    while (this.iov.lengthAt(entry) <= excess) excess -= this.iov.lengthAt(entry--);
    if (excess > 0) {
      this.trimmedEntry = entry;
      this.trimmedLength = this.iov.lengthAt(entry);
      this.iov.setLength(entry, this.trimmedLength - excess);
    }
    return entry;
  }

  private writeHeader(index: number, header: PacketHeader): void {
    const piece = this.headerFirst[index];
    const offset = this.headerOffsets[piece];
    if (this.headerCount[index] === 1 && (offset & 3) === 0) {
      const target = this.memory.chunks[this.headerChunks[piece]].words32;
      const word = offset >>> 2;
      for (let i = 0; i < HEADER_WORDS; i++) target[word + i] = header.words[i];
      return;
    }
    let done = 0;
    for (let part = piece; part < piece + this.headerCount[index]; part++) {
      const target = this.memory.chunks[this.headerChunks[part]].bytes;
      const start = this.headerOffsets[part];
      const length = this.headerLengths[part];
      for (let i = 0; i < length; i++) target[start + i] = header.bytes[done + i];
      done += length;
    }
  }
}
