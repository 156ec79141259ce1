// The state of one serial port as all threads share it: registers and two byte rings.
//
//   tx ring: guest to host. Producer: the vCPU thread that holds the device lock. Consumer: the main thread alone.
//   rx ring: host to guest. Producer: the main thread alone. Consumer: the vCPU thread that holds the device lock.

import { createSharedRing } from '../../platform/shared-ring.js';

/** What the threads of one VM share of a serial port: plain data for `workerData` or `postMessage`. */
export interface SerialShared {
  readonly words: SharedArrayBuffer;
  /** Rings: see platform/shared-ring. */
  readonly tx: SharedArrayBuffer;
  readonly rx: SharedArrayBuffer;
}

/** Room for a burst of boot messages while the main thread is busy: at 40 bytes a line, some six thousand lines. */
export const DEFAULT_TX_RING_SIZE = 256 * 1024;
/** A large paste; what does not fit stays with the caller. */
export const DEFAULT_RX_RING_SIZE = 64 * 1024;

/** Word indices in `SerialShared.words`. */
export const WORD = {
  /** The device lock (platform/shared-lock). It guards every word that is not said to be atomic. */
  LOCK: 0,
  IER: 1,
  FCR: 2,
  LCR: 3,
  MCR: 4,
  SCR: 5,
  /** Divisor latch, DLM << 8 | DLL. */
  DIVISOR: 6,
  /** 1: the transmitter-empty interrupt condition holds and was not acknowledged. */
  THRE_PENDING: 7,
  /** LSR error bits not yet read. */
  LSR_ERRORS: 8,
  /** The level of the interrupt output as last computed: 0 or 1. */
  INTERRUPT_LEVEL: 9,
  /** The loopback FIFO (MCR.LOOP): free-running indices into LOOP_BYTES. */
  LOOP_HEAD: 10,
  LOOP_TAIL: 11,
  /** Atomic. 1: LSR.THRE was withdrawn because the tx ring is full; the consumer must give it back. */
  TX_STALLED: 12,
  /** 16 words, one loopback byte each. */
  LOOP_BYTES: 16,
} as const;

/** Depth of the 16550A's FIFOs. */
export const FIFO_DEPTH = 16;

const WORD_COUNT = WORD.LOOP_BYTES + FIFO_DEPTH;

/** Makes the shared state of a serial port in its reset state. Ring sizes must be powers of two, at least 32. */
export function createSerialShared(
  sizes: { readonly txRingSize?: number; readonly rxRingSize?: number } = {},
): SerialShared {
  const { txRingSize = DEFAULT_TX_RING_SIZE, rxRingSize = DEFAULT_RX_RING_SIZE } = sizes;
  return {
    words: new SharedArrayBuffer(WORD_COUNT * Int32Array.BYTES_PER_ELEMENT),
    tx: createSharedRing(txRingSize),
    rx: createSharedRing(rxRingSize),
  };
}

/** Brings the registers into their reset state; what is in the rings stays there. No vCPU thread may run. */
export function resetSerialRegisters(shared: SerialShared): void {
  new Int32Array(shared.words).fill(0);
}

/** The registers, for `restoreSerialRegisters`. No vCPU thread may run. */
export function saveSerialRegisters(shared: SerialShared): number[] {
  return Array.from(new Int32Array(shared.words)).slice(WORD.LOCK + 1);
}

/** Puts saved registers back; the rings are new, so there is room in them. No vCPU thread may run. */
export function restoreSerialRegisters(shared: SerialShared, saved: readonly number[]): void {
  const words = new Int32Array(shared.words);
  words.set(saved.slice(0, WORD_COUNT - 1), WORD.LOCK + 1);
  // Nobody is going to empty a ring that is empty: the transmitter is ready now.
  if (words[WORD.TX_STALLED] !== 0) words[WORD.THRE_PENDING] = 1;
  words[WORD.TX_STALLED] = 0;
}
