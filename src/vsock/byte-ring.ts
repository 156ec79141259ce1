// Bytes from the guest that the host side would not take yet: a bounded ring, borrowed from a small pool while in use.
//
// Runs in the I/O worker. A connection holds a ring only while its host peer is slow, so an idle connection costs none.

import type { IovecArray } from '../platform/iovec.js';
import { libc } from '../platform/libc.js';
import { NativeBuffer } from '../platform/native-buffer.js';

/** Rings kept for the next slow peer: enough that a few that stall in turns never allocate. */
const POOLED_RINGS = 8;

/** A ring of bytes with a fixed capacity. Positions are below the capacity; `length` tells full from empty. */
export class ByteRing {
  readonly capacity: number;
  private readonly memory: NativeBuffer;
  private start = 0;
  private used = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.memory = new NativeBuffer(capacity);
  }

  get length(): number {
    return this.used;
  }

  /** Appends `length` bytes at `address` of this process. The caller has made sure, by credit, that they fit. */
  push(address: number, length: number): void {
    if (length > this.capacity - this.used) throw new RangeError('the ring is smaller than the credit given');
    const end = (this.start + this.used) % this.capacity;
    const first = Math.min(length, this.capacity - end);
    libc.memcpy(this.memory.address + end, address, first);
    if (first < length) libc.memcpy(this.memory.address, address + first, length - first);
    this.used += length;
  }

  /** Adds the first `length` bytes of the content, all of it by default, as one or two entries of `iov`. */
  describe(iov: IovecArray, length = this.used): void {
    const first = Math.min(length, this.capacity - this.start);
    iov.add(this.memory.address + this.start, first);
    if (first < length) iov.add(this.memory.address, length - first);
  }

  /** Adds all of an empty ring as one entry of `iov`, to be read into; `filled` says how much that was. */
  describeEmpty(iov: IovecArray): void {
    iov.add(this.memory.address, this.capacity);
  }

  /** The first `length` bytes of a ring that was empty have been read into. */
  filled(length: number): void {
    this.used = length;
  }

  /** Moves as much as fits into entries [first, first + count) of `target`; returns how much that was. */
  moveTo(target: IovecArray, first: number, count: number): number {
    let moved = 0;
    for (let entry = first; entry < first + count && this.used > 0; entry++) {
      let address = target.addressAt(entry);
      for (let room = target.lengthAt(entry); room > 0 && this.used > 0;) {
        const length = Math.min(room, this.used, this.capacity - this.start);
        libc.memcpy(address, this.memory.address + this.start, length);
        this.drop(length);
        address += length;
        room -= length;
        moved += length;
      }
    }
    return moved;
  }

  /** Drops the first `length` bytes. */
  drop(length: number): void {
    this.start = (this.start + length) % this.capacity;
    this.used -= length;
    if (this.used === 0) this.start = 0;
  }

  /** Drops the last `length` bytes. */
  dropLast(length: number): void {
    this.used -= length;
  }
}

/** Rings of one capacity, made when needed. */
export class RingPool {
  readonly capacity: number;
  private readonly free: ByteRing[] = [];

  constructor(capacity: number) {
    this.capacity = capacity;
  }

  take(): ByteRing {
    return this.free.pop() ?? new ByteRing(this.capacity);
  }

  give(ring: ByteRing): void {
    ring.drop(ring.length);
    if (this.free.length < POOLED_RINGS) this.free.push(ring);
  }
}
