// 16550A serial port, host side: takes what the guest sent, hands it what was typed. Main thread, and only one of these
// per port: it is the single consumer of the tx ring and the single producer of the rx ring.

import { acquire, release } from '../../platform/shared-lock.js';
import { SerialCore } from './serial-core.js';
import { WORD, type SerialShared } from './serial-shared.js';

/** The main thread's end of a serial port. */
export class SerialHost {
  private readonly core: SerialCore;
  private readonly words: Int32Array;
  private readonly raiseInterrupt: () => void;

  /** `raiseInterrupt` makes one edge on the port's interrupt line. */
  constructor(shared: SerialShared, raiseInterrupt: () => void) {
    this.core = new SerialCore(shared);
    this.words = this.core.words;
    this.raiseInterrupt = raiseInterrupt;
  }

  /** Bytes that the guest sent and nobody took yet. */
  get pending(): number {
    return this.core.tx.length - this.core.txRoom();
  }

  /** Bytes that the guest wrote into a full ring, against LSR.THRE, modulo 2^32. */
  get lost(): number {
    return Atomics.load(this.words, WORD.TX_LOST) >>> 0;
  }

  /**
   * Offers what the guest sent, in order, until all is taken or `into` takes less than it was offered. Returns whether
   * the ring was emptied. `bytes` is a view of the ring, valid during the call only; `into` returns how many it took.
   */
  drain(into: (bytes: Uint8Array) => number): boolean {
    const { core, words } = this;
    for (;;) {
      const tail = Atomics.load(words, WORD.TX_TAIL);
      // Pairs with the store in SerialPort.putIntoRing: bytes below this index are written.
      const count = (Atomics.load(words, WORD.TX_HEAD) - tail) | 0;
      if (count === 0) return true;
      const start = tail & core.txMask;
      const offered = Math.min(count, core.tx.length - start);
      const taken = into(core.tx.subarray(start, start + offered));
      if (!(Number.isInteger(taken) && taken >= 0 && taken <= offered)) {
        throw new RangeError(`serial output consumer took ${taken} of ${offered} bytes`);
      }
      // Hands the places back; only after `into` has read them.
      Atomics.store(words, WORD.TX_TAIL, (tail + taken) | 0);
      this.unstallTransmitter();
      if (taken < offered) return false;
    }
  }

  /**
   * Call before sleeping: asks for one `wakeConsumer` at the next byte. Returns false, and asks for nothing, when there
   * is something to drain already. While not armed, output costs the guest's thread no system call.
   */
  arm(): boolean {
    const { words } = this;
    // Flag first, then the index; the producer stores the index first and then looks at the flag.
    Atomics.store(words, WORD.CONSUMER_ARMED, 1);
    if (this.pending === 0) return true;
    Atomics.store(words, WORD.CONSUMER_ARMED, 0);
    return false;
  }

  /**
   * Gives input to the guest; returns how many of `bytes` were accepted. If not all were, `wakeConsumer` is called
   * once when the guest has read half of what is waiting.
   */
  push(bytes: Uint8Array): number {
    const { core, words } = this;
    let accepted = this.putIntoRing(bytes);
    if (accepted < bytes.length) {
      // Flag first, then another try; the guest's side moves RX_TAIL first and then looks at the flag.
      Atomics.store(words, WORD.RX_BLOCKED, 1);
      accepted += this.putIntoRing(bytes.subarray(accepted));
      if (accepted === bytes.length) Atomics.store(words, WORD.RX_BLOCKED, 0);
    }
    if (accepted === 0) return 0;
    acquire(words, WORD.LOCK);
    const raise = core.updateInterrupt(false);
    release(words, WORD.LOCK);
    if (raise) this.raiseInterrupt();
    return accepted;
  }

  private putIntoRing(bytes: Uint8Array): number {
    const { core, words } = this;
    const head = Atomics.load(words, WORD.RX_HEAD);
    // Pairs with the store in SerialPort.receive: places below RX_TAIL are read and free.
    const count = Math.min(bytes.length, core.rx.length - core.rxCount());
    const start = head & core.rxMask;
    const beforeWrap = Math.min(count, core.rx.length - start);
    core.rx.set(bytes.subarray(0, beforeWrap), start);
    core.rx.set(bytes.subarray(beforeWrap, count), 0);
    // Publishes the bytes to the guest's side.
    Atomics.store(words, WORD.RX_HEAD, (head + count) | 0);
    return count;
  }

  private unstallTransmitter(): void {
    const { core, words } = this;
    // Follows the store of TX_TAIL; see SerialPort.announceTransmitter for the other half.
    if (Atomics.load(words, WORD.TX_STALLED) === 0) return;
    let raise = false;
    acquire(words, WORD.LOCK);
    if (Atomics.load(words, WORD.TX_STALLED) === 1 && core.transmitterReady()) {
      Atomics.store(words, WORD.TX_STALLED, 0);
      words[WORD.THRE_PENDING] = 1;
      raise = core.updateInterrupt(false);
    }
    release(words, WORD.LOCK);
    if (raise) this.raiseInterrupt();
  }
}
