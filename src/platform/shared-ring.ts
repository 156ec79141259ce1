// A ring of bytes between two threads: one puts bytes in, the other takes them out, and neither waits for the other.
//
// One SharedArrayBuffer: a header of words, then the bytes. Indices run free, wrap on 32-bit arithmetic and are masked
// on access. An index is published (Atomics.store) after the bytes that it covers were written or read, so the other
// side's Atomics.load of it makes those accesses safe. Each side has one user at a time: where several threads share a
// side, a lock of theirs is around every call.
//
// Waking is the caller's, since only it knows what ends the other thread's sleep. What is here is the bookkeeping, so
// that a thread that is awake costs the other no system call: a side that is about to sleep sets its flag and then
// looks at the index once more; the other side moves the index and then looks at the flag. Whatever the interleaving,
// one of the two sees the other's store.

import { addressOf, libc } from './libc.js';
import type { HostAddress } from './units.js';

/** Header words, for tests. What the two sides write is in two cache lines. */
export const RING_WORD = {
  HEAD: 0,
  PRODUCER_WAITS: 1,
  LOST: 2,
  TAIL: 16,
  CONSUMER_WAITS: 17,
} as const;
const { HEAD, PRODUCER_WAITS, LOST, TAIL, CONSUMER_WAITS } = RING_WORD;
const HEADER_BYTES = 128;

/** The least a ring may hold. */
export const MIN_RING_SIZE = 32;

/** Makes an empty ring of `size` bytes: a power of two, at least MIN_RING_SIZE. Plain shared memory, to be sent on. */
export function createSharedRing(size: number): SharedArrayBuffer {
  if (!Number.isInteger(Math.log2(size)) || size < MIN_RING_SIZE) {
    throw new RangeError(`ring size ${size} is no power of two, or below ${MIN_RING_SIZE}`);
  }
  return new SharedArrayBuffer(HEADER_BYTES + size);
}

/** One thread's view of a ring. */
export class SharedRing {
  /** Bytes that fit. */
  readonly capacity: number;
  private readonly words: Int32Array;
  private readonly bytes: Uint8Array;
  private readonly mask: number;
  private readonly address: HostAddress;

  constructor(memory: SharedArrayBuffer) {
    this.words = new Int32Array(memory, 0, HEADER_BYTES / 4);
    this.bytes = new Uint8Array(memory, HEADER_BYTES);
    this.capacity = this.bytes.length;
    this.mask = this.capacity - 1;
    this.address = addressOf(this.bytes);
  }

  /** Bytes to take: at least so many for the consumer, at most so many for the producer. */
  get length(): number {
    return (Atomics.load(this.words, HEAD) - Atomics.load(this.words, TAIL)) | 0;
  }

  /** Free bytes: at least so many for the producer, at most so many for the consumer. */
  get room(): number {
    return this.capacity - this.length;
  }

  /** Bytes that `countLost` has counted, modulo 2^32. */
  get lost(): number {
    return Atomics.load(this.words, LOST) >>> 0;
  }

  /** Producer: appends as many of `bytes` as fit and returns how many those were. */
  put(bytes: Uint8Array): number {
    const head = Atomics.load(this.words, HEAD);
    const count = Math.min(bytes.length, this.room);
    const start = head & this.mask;
    if (count === 1) {
      this.bytes[start] = bytes[0];
    } else {
      const beforeWrap = Math.min(count, this.capacity - start);
      this.bytes.set(bytes.subarray(0, beforeWrap), start);
      if (beforeWrap < count) this.bytes.set(bytes.subarray(beforeWrap, count), 0);
    }
    Atomics.store(this.words, HEAD, (head + count) | 0);
    return count;
  }

  /** Producer: the same for `length` bytes at `address` of this process, without a view of them. */
  putFrom(address: number, length: number): number {
    const head = Atomics.load(this.words, HEAD);
    const count = Math.min(length, this.room);
    const start = head & this.mask;
    const beforeWrap = Math.min(count, this.capacity - start);
    libc.memcpy(this.address + start, address, beforeWrap);
    if (beforeWrap < count) libc.memcpy(this.address, address + beforeWrap, count - beforeWrap);
    Atomics.store(this.words, HEAD, (head + count) | 0);
    return count;
  }

  /** Producer: notes that `count` bytes could not be put. */
  countLost(count: number): void {
    Atomics.add(this.words, LOST, count);
  }

  /** Consumer: takes one byte; -1 when there is none. */
  takeByte(): number {
    const tail = Atomics.load(this.words, TAIL);
    if (Atomics.load(this.words, HEAD) === tail) return -1;
    const byte = this.bytes[tail & this.mask];
    Atomics.store(this.words, TAIL, (tail + 1) | 0);
    return byte;
  }

  /** Consumer: moves up to `length` bytes to `address` of this process; returns how many those were. */
  takeTo(address: number, length: number): number {
    const tail = Atomics.load(this.words, TAIL);
    const count = Math.min(length, this.length);
    const start = tail & this.mask;
    const beforeWrap = Math.min(count, this.capacity - start);
    libc.memcpy(address, this.address + start, beforeWrap);
    if (beforeWrap < count) libc.memcpy(address + beforeWrap, this.address, count - beforeWrap);
    Atomics.store(this.words, TAIL, (tail + count) | 0);
    return count;
  }

  /**
   * Consumer: offers the bytes in order, until all are taken or `into` takes fewer than it was offered, and calls
   * `freed` each time some were. Returns whether the ring was emptied. `bytes` is a view of the ring, valid during the
   * call only; `into` returns how many it took.
   */
  drain(into: (bytes: Uint8Array) => number, freed?: () => void): boolean {
    for (;;) {
      const tail = Atomics.load(this.words, TAIL);
      const count = this.length;
      if (count === 0) return true;
      const start = tail & this.mask;
      const offered = Math.min(count, this.capacity - start);
      const taken = into(this.bytes.subarray(start, start + offered));
      if (!(Number.isInteger(taken) && taken >= 0 && taken <= offered)) {
        throw new RangeError(`a ring's consumer took ${taken} of ${offered} bytes`);
      }
      Atomics.store(this.words, TAIL, (tail + taken) | 0);
      freed?.();
      if (taken < offered) return false;
    }
  }

  /**
   * Consumer, before it sleeps: asks for one wake-up at the next byte. Returns false, and asks for nothing, when there is
   * something to take already.
   */
  consumerWaits(): boolean {
    Atomics.store(this.words, CONSUMER_WAITS, 1);
    if (this.length === 0) return true;
    Atomics.store(this.words, CONSUMER_WAITS, 0);
    return false;
  }

  /** Producer, after it has put bytes: whether the consumer sleeps and is to be woken. True once per sleep. */
  consumerToWake(): boolean {
    return (
      Atomics.load(this.words, CONSUMER_WAITS) === 1 &&
      this.length !== 0 &&
      Atomics.exchange(this.words, CONSUMER_WAITS, 0) === 1
    );
  }

  /**
   * Producer, when something did not fit: asks for one wake-up when half of the ring is free. Returns false, and asks for
   * nothing, when there is room already.
   */
  producerWaits(): boolean {
    Atomics.store(this.words, PRODUCER_WAITS, 1);
    // Full, with the flag up: the consumer passes the half later than now, and then looks at the flag.
    if (this.room === 0) return true;
    Atomics.store(this.words, PRODUCER_WAITS, 0);
    return false;
  }

  /** Consumer, after it has taken bytes: whether the producer waits and is to be woken. True once per wait. */
  producerToWake(): boolean {
    return (
      Atomics.load(this.words, PRODUCER_WAITS) === 1 &&
      this.length <= this.capacity / 2 &&
      Atomics.exchange(this.words, PRODUCER_WAITS, 0) === 1
    );
  }
}
