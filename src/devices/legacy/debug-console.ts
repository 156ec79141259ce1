// The debug console: one port that takes bytes and never makes the guest wait. Runs in whichever vCPU worker took the
// exit, on a shared ring under a lock; its output is the main thread's (DebugConsoleHost).
//
// Specification: none but custom. Bochs has the port at 0xe9, where reading gives 0xe9 back, so that a guest can tell
// whether anybody listens; QEMU (isa-debugcon) and Cloud Hypervisor do the same.
//
// Left out: input. Having no status register it cannot ask the guest to wait: what the ring has no room for is lost,
// and counted.

import { acquire, release } from '../../platform/shared-lock.js';
import { createSharedRing, SharedRing } from '../../platform/shared-ring.js';

export const DEBUG_CONSOLE_PORT = 0xe9;
/** What reading the port gives, wherever it is. */
export const DEBUG_CONSOLE_READBACK = 0xe9;

const DEFAULT_RING_SIZE = 256 * 1024;
const LOCK = 0;

/** What the threads of one VM share of the port: plain data. */
export interface DebugConsoleShared {
  /** One word: the lock of the vCPU threads, which together are the ring's one producer. */
  readonly words: SharedArrayBuffer;
  readonly tx: SharedArrayBuffer;
}

/** Ring size: a power of two, at least 32. */
export function createDebugConsoleShared(ringSize = DEFAULT_RING_SIZE): DebugConsoleShared {
  return { words: new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT), tx: createSharedRing(ringSize) };
}

/** The port as one vCPU thread sees it. All of them may use it at once. */
export class DebugConsole {
  private readonly words: Int32Array;
  private readonly tx: SharedRing;
  private readonly wakeConsumer: () => void;
  private readonly oneByte = new Uint8Array(1);

  /** `wakeConsumer` tells the main thread to look at its DebugConsoleHost; it is called without the lock. */
  constructor(shared: DebugConsoleShared, wakeConsumer: () => void) {
    this.words = new Int32Array(shared.words);
    this.tx = new SharedRing(shared.tx);
    this.wakeConsumer = wakeConsumer;
  }

  /** `in`. */
  read(): number {
    return DEBUG_CONSOLE_READBACK;
  }

  /** `out` of one byte; there is one port, so the offset says nothing. */
  write(_offset: number, value: number): void {
    this.oneByte[0] = value;
    this.writeString(this.oneByte);
  }

  /** `rep outsb`: one exit with many bytes. */
  writeString(bytes: Uint8Array): void {
    const { words, tx } = this;
    acquire(words, LOCK);
    const count = tx.put(bytes);
    release(words, LOCK);
    if (count < bytes.length) tx.countLost(bytes.length - count);
    if (tx.consumerToWake()) this.wakeConsumer();
  }
}

/** The main thread's end of a debug console. */
export class DebugConsoleHost {
  private readonly tx: SharedRing;

  constructor(shared: DebugConsoleShared) {
    this.tx = new SharedRing(shared.tx);
  }

  /** Bytes that the guest wrote and nobody took yet. */
  get pending(): number {
    return this.tx.length;
  }

  /** Bytes that found no room, modulo 2^32. */
  get lost(): number {
    return this.tx.lost;
  }

  /** See SharedRing.drain. */
  drain(into: (bytes: Uint8Array) => number): boolean {
    return this.tx.drain(into);
  }

  /** Call before sleeping: asks for one `wakeConsumer` at the next byte; false when there is something to drain. */
  arm(): boolean {
    return this.tx.consumerWaits();
  }
}
