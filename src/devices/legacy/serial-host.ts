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
    return this.core.tx.length;
  }

  /** Bytes that the guest wrote into a full ring, against LSR.THRE, modulo 2^32. */
  get lost(): number {
    return this.core.tx.lost;
  }

  /**
   * Offers what the guest sent, in order, until all is taken or `into` takes less than it was offered. Returns whether
   * the ring was emptied. `bytes` is a view of the ring, valid during the call only; `into` returns how many it took.
   */
  drain(into: (bytes: Uint8Array) => number): boolean {
    return this.core.tx.drain(into, this.unstallTransmitter);
  }

  /**
   * Call before sleeping: asks for one `wakeConsumer` at the next byte. Returns false, and asks for nothing, when there
   * is something to drain already. While not armed, output costs the guest's thread no system call.
   */
  arm(): boolean {
    return this.core.tx.consumerWaits();
  }

  /**
   * Gives input to the guest; returns how many of `bytes` were accepted. If not all were, `wakeConsumer` is called
   * once when the guest has read half of what is waiting.
   */
  push(bytes: Uint8Array): number {
    const { core, words } = this;
    const { rx } = core;
    let accepted = rx.put(bytes);
    while (accepted < bytes.length && !rx.producerWaits()) accepted += rx.put(bytes.subarray(accepted));
    if (accepted === 0) return 0;
    acquire(words, WORD.LOCK);
    const raise = core.updateInterrupt(false);
    release(words, WORD.LOCK);
    if (raise) this.raiseInterrupt();
    return accepted;
  }

  private readonly unstallTransmitter = (): void => {
    const { core, words } = this;
    // Follows the freeing of bytes; see SerialPort.announceTransmitter for the other half.
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
  };
}
