// The part of the serial port that both of its sides need: room in the rings, and the interrupt output.

import { SharedRing } from '../../platform/shared-ring.js';
import {
  IER_ELSI,
  IER_ERBFI,
  IER_ETBEI,
  IIR_LINE_STATUS,
  IIR_NO_INTERRUPT,
  IIR_RECEIVED_DATA,
  IIR_THR_EMPTY,
  MCR_LOOP,
} from './serial-registers.js';
import { FIFO_DEPTH, WORD, type SerialShared } from './serial-shared.js';

/** One thread's views of a serial port's shared state. */
export class SerialCore {
  readonly words: Int32Array;
  readonly tx: SharedRing;
  readonly rx: SharedRing;

  constructor(shared: SerialShared) {
    this.words = new Int32Array(shared.words);
    this.tx = new SharedRing(shared.tx);
    this.rx = new SharedRing(shared.rx);
  }

  looped(): boolean {
    return (this.words[WORD.MCR] & MCR_LOOP) !== 0;
  }

  /**
   * LSR.THRE. A driver that sees it may write a whole FIFO without asking again, so there must be room for one. Under
   * loopback nothing waits: bytes go to the receiver at once.
   */
  transmitterReady(): boolean {
    return this.looped() || this.tx.room >= FIFO_DEPTH;
  }

  /** LSR.DR. Under loopback the line is disconnected and only looped bytes are received. */
  dataReady(): boolean {
    return this.looped() ? this.words[WORD.LOOP_HEAD] !== this.words[WORD.LOOP_TAIL] : this.rx.length !== 0;
  }

  /** The enabled interrupt source of highest priority, as IIR encodes it (PC16550D, table IV). Under the lock. */
  interruptSource(): number {
    const { words } = this;
    const ier = words[WORD.IER];
    if ((ier & IER_ELSI) !== 0 && words[WORD.LSR_ERRORS] !== 0) return IIR_LINE_STATUS;
    if ((ier & IER_ERBFI) !== 0 && this.dataReady()) return IIR_RECEIVED_DATA;
    if ((ier & IER_ETBEI) !== 0 && words[WORD.THRE_PENDING] !== 0) return IIR_THR_EMPTY;
    return IIR_NO_INTERRUPT;
  }

  /**
   * Recomputes the interrupt output; returns whether the line needs a new edge. Under the lock; the edge itself is for
   * after the release, since it is a system call.
   *
   * The line is edge-triggered. `acknowledged` says that the driver just dealt with one source: if another is still
   * pending, the output never fell, and without an edge of its own that source would wait for ever.
   */
  updateInterrupt(acknowledged: boolean): boolean {
    const { words } = this;
    const before = words[WORD.INTERRUPT_LEVEL];
    const level = this.interruptSource() === IIR_NO_INTERRUPT ? 0 : 1;
    words[WORD.INTERRUPT_LEVEL] = level;
    return level === 1 && (before === 0 || acknowledged);
  }
}
