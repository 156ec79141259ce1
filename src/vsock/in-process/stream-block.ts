// What the main thread and the I/O worker share of one stream: two byte rings, their indices, and what each side has
// said about its end.
//
//   toGuest ring: producer the main thread (VsockStream), consumer the I/O worker (RingEndpoint).
//   toHost ring:  producer the I/O worker, consumer the main thread.
//
// Indices run free, wrap on 32-bit arithmetic and are masked on access. An index is published (Atomics.store) after the
// bytes it covers were written or read, so the partner's Atomics.load of it makes its own access safe.
//
// A "waits" word is a side's wish to be told (bell.ts): it is set before the last look at the ring, and the partner
// takes it after it has moved its index, so that one of the two always sees the other. The partner may take a wish that
// was renewed while it looked at the one before, for what the waiting side has seen by then: so whoever is told looks,
// and if it still waits, wishes anew.

import { KIB } from '../../platform/units.js';

/**
 * Bytes of each ring. Measured on two cores that three threads share: 256 KiB carry a fifth less, since the threads wait
 * for each other more often, and 1 MiB carries hardly more.
 */
export const RING_BYTES = 512 * KIB;
const RING_MASK = RING_BYTES - 1;

/** Word indices. Words that one side writes all the time have a cache line of their own. */
export const WORD = {
  // Written by the main thread.
  TO_GUEST_HEAD: 0,
  TO_HOST_TAIL: 1,
  HOST_FLAGS: 2,
  // Written by the I/O worker.
  TO_GUEST_TAIL: 16,
  TO_HOST_HEAD: 17,
  GUEST_FLAGS: 18,
  /** The host port of the connection, once it is accepted. */
  HOST_PORT: 19,
  // Set by the side that waits, taken by the other.
  TO_GUEST_READER_WAITS: 32,
  TO_GUEST_WRITER_WAITS: 33,
  TO_HOST_READER_WAITS: 34,
  TO_HOST_WRITER_WAITS: 35,
} as const;

const HEADER_BYTES = 256;

/** HOST_FLAGS: nothing more comes behind TO_GUEST_HEAD. */
export const HOST_ENDED_MASK = 1;
/** The caller has let go in order, after HOST_ENDED: what is in the ring still goes to the guest. */
export const HOST_CLOSED_MASK = 2;
/** The caller has broken off: what is in the ring is void. */
export const HOST_BROKEN_MASK = 4;

/** GUEST_FLAGS: the connection is established. */
export const GUEST_ACCEPTED_MASK = 1;
/** Nothing more comes behind TO_HOST_HEAD. */
export const GUEST_ENDED_MASK = 2;
/** The guest reads no more. */
export const GUEST_DEAF_MASK = 4;
/** The worker has let go of the block; why is in the bits from GONE_SHIFT on. The last thing it says. */
export const GUEST_GONE_MASK = 8;
export const GONE_SHIFT = 8;

export const GONE_FINISHED = 0;
export const GONE_REFUSED = 1;
export const GONE_TIMED_OUT = 2;
export const GONE_RESET = 3;
export const GONE_DRIVER_NOT_READY = 4;
export const GONE_LIMIT = 5;
export type GoneReason =
  | typeof GONE_FINISHED
  | typeof GONE_REFUSED
  | typeof GONE_TIMED_OUT
  | typeof GONE_RESET
  | typeof GONE_DRIVER_NOT_READY
  | typeof GONE_LIMIT;

/** One thread's views of a stream's shared memory, which is zeroes at first; the kernel gives pages as they are used. */
export class StreamBlock {
  readonly memory: SharedArrayBuffer;
  readonly words: Int32Array;
  readonly toGuest: Uint8Array;
  readonly toHost: Uint8Array;

  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(HEADER_BYTES + 2 * RING_BYTES)) {
    this.memory = memory;
    this.words = new Int32Array(memory, 0, HEADER_BYTES / 4);
    this.toGuest = new Uint8Array(memory, HEADER_BYTES, RING_BYTES);
    this.toHost = new Uint8Array(memory, HEADER_BYTES + RING_BYTES, RING_BYTES);
  }

  /** Back to the beginning, for another stream. Neither side uses the block at that time. */
  reset(): void {
    this.words.fill(0);
    // The worker has not looked yet: the first bytes are to be told.
    Atomics.store(this.words, WORD.TO_GUEST_READER_WAITS, 1);
  }

  /** Bytes in a ring whose indices are words `head` and `tail`. */
  used(head: number, tail: number): number {
    return (Atomics.load(this.words, head) - Atomics.load(this.words, tail)) | 0;
  }

  /** Where index `index` of a ring is in its bytes. */
  position(index: number): number {
    return index & RING_MASK;
  }

  /** Takes the wish in word `waits`; whether there was one. */
  takeWish(waits: number): boolean {
    return Atomics.load(this.words, waits) === 1 && Atomics.exchange(this.words, waits, 0) === 1;
  }
}
