// 16550A serial port, guest side: its registers. Runs in whichever vCPU worker took the port I/O exit, on shared state
// under the device lock. Specification: National Semiconductor PC16550D data sheet.
//
// A byte written to THR is in the tx ring before the exit returns, so the transmitter is empty again at once, unless
// the ring is (almost) full: then LSR.THRE and TEMT read 0 and the guest waits, never the host thread. SerialHost is
// the other end.
//
// Left out: line speed and format (kept, without effect), receive trigger levels and time-outs (data is announced from
// the first byte), modem status changes and their interrupt, breaks, DMA, and the gating of the interrupt by MCR.OUT2.
// FCR's receiver reset does not reach the rx ring: what the guest has not read is taken to be still on the line.

import { acquire, release } from '../../platform/shared-lock.js';
import { SerialCore } from './serial-core.js';
import {
  FCR_FIFO_ENABLE,
  FCR_KEPT_MASK,
  FCR_RCVR_RESET,
  IER_ETBEI,
  IER_WRITABLE_MASK,
  IIR_FIFOS_ENABLED,
  IIR_THR_EMPTY,
  LCR_DLAB,
  LSR_DR,
  LSR_OE,
  LSR_TEMT,
  LSR_THRE,
  MCR_DTR,
  MCR_LOOP,
  MCR_OUT1,
  MCR_OUT2,
  MCR_RTS,
  MCR_WRITABLE_MASK,
  MSR_CTS,
  MSR_DCD,
  MSR_DSR,
  MSR_RI,
  REG,
} from './serial-registers.js';
import { FIFO_DEPTH, WORD, type SerialShared } from './serial-shared.js';

/** What a register that does not exist reads as. */
const FLOATING_BUS = 0xff;

/** The port as one vCPU thread sees it. All of them may use it at once. */
export class SerialPort {
  private readonly core: SerialCore;
  private readonly words: Int32Array;
  private readonly raiseInterrupt: () => void;
  private readonly wakeConsumer: () => void;
  private needsEdge = false;
  private readonly oneByte = new Uint8Array(1);

  /**
   * `raiseInterrupt` makes one edge on the interrupt line; `wakeConsumer` tells the main thread to look at its
   * SerialHost. Both are called without the lock.
   */
  constructor(shared: SerialShared, raiseInterrupt: () => void, wakeConsumer: () => void) {
    this.core = new SerialCore(shared);
    this.words = this.core.words;
    this.raiseInterrupt = raiseInterrupt;
    this.wakeConsumer = wakeConsumer;
  }

  /** `in` from register `offset`. */
  read(offset: number): number {
    acquire(this.words, WORD.LOCK);
    const value = this.readLocked(offset);
    release(this.words, WORD.LOCK);
    this.afterRelease();
    return value;
  }

  /** `out` of one byte to register `offset`. */
  write(offset: number, value: number): void {
    acquire(this.words, WORD.LOCK);
    this.writeLocked(offset, value & 0xff);
    release(this.words, WORD.LOCK);
    this.afterRelease();
  }

  /** `rep outsb` to register 0: one exit with many bytes. */
  writeString(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    acquire(this.words, WORD.LOCK);
    if ((this.words[WORD.LCR] & LCR_DLAB) !== 0) this.writeLocked(REG.RBR_THR_DLL, bytes[bytes.length - 1]);
    else this.transmit(bytes);
    release(this.words, WORD.LOCK);
    this.afterRelease();
  }

  private readLocked(offset: number): number {
    const { words } = this;
    const dlab = (words[WORD.LCR] & LCR_DLAB) !== 0;
    switch (offset) {
      case REG.RBR_THR_DLL:
        return dlab ? words[WORD.DIVISOR] & 0xff : this.receive();
      case REG.IER_DLM:
        return dlab ? words[WORD.DIVISOR] >>> 8 : words[WORD.IER];
      case REG.IIR_FCR:
        return this.identifyInterrupt();
      case REG.LCR:
        return words[WORD.LCR];
      case REG.MCR:
        return words[WORD.MCR];
      case REG.LSR:
        return this.lineStatus();
      case REG.MSR:
        return this.modemStatus();
      case REG.SCR:
        return words[WORD.SCR];
      default:
        return FLOATING_BUS;
    }
  }

  private writeLocked(offset: number, value: number): void {
    const { words } = this;
    const dlab = (words[WORD.LCR] & LCR_DLAB) !== 0;
    switch (offset) {
      case REG.RBR_THR_DLL:
        if (dlab) {
          words[WORD.DIVISOR] = (words[WORD.DIVISOR] & 0xff00) | value;
        } else {
          this.oneByte[0] = value;
          this.transmit(this.oneByte);
        }
        return;
      case REG.IER_DLM:
        if (dlab) words[WORD.DIVISOR] = (words[WORD.DIVISOR] & 0xff) | (value << 8);
        else this.enableInterrupts(value & IER_WRITABLE_MASK);
        return;
      case REG.IIR_FCR:
        this.controlFifos(value);
        return;
      case REG.LCR:
        words[WORD.LCR] = value;
        return;
      case REG.MCR:
        this.controlModem(value & MCR_WRITABLE_MASK);
        return;
      case REG.SCR:
        words[WORD.SCR] = value;
        return;
      default: // LSR and MSR are read-only (writing them is a factory test), the rest does not exist.
    }
  }

  private receive(): number {
    const { core, words } = this;
    if (!core.dataReady()) return 0;
    let byte: number;
    if (core.looped()) {
      const tail = words[WORD.LOOP_TAIL];
      byte = words[WORD.LOOP_BYTES + (tail & (FIFO_DEPTH - 1))];
      words[WORD.LOOP_TAIL] = (tail + 1) | 0;
    } else {
      byte = core.rx.takeByte();
    }
    // Reading the last byte is what acknowledges a received-data interrupt.
    this.updateInterrupt(!core.dataReady());
    return byte;
  }

  private identifyInterrupt(): number {
    const { words } = this;
    const source = this.core.interruptSource();
    if (source === IIR_THR_EMPTY) {
      // Reading IIR acknowledges this source, and only when it is the one that was reported.
      words[WORD.THRE_PENDING] = 0;
      this.updateInterrupt(true);
    }
    return source | ((words[WORD.FCR] & FCR_FIFO_ENABLE) !== 0 ? IIR_FIFOS_ENABLED : 0);
  }

  private lineStatus(): number {
    const { core, words } = this;
    const errors = words[WORD.LSR_ERRORS];
    if (errors !== 0) {
      words[WORD.LSR_ERRORS] = 0;
      this.updateInterrupt(true);
    }
    return errors | (core.dataReady() ? LSR_DR : 0) | (core.transmitterReady() ? LSR_THRE | LSR_TEMT : 0);
  }

  private modemStatus(): number {
    if (!this.core.looped()) return MSR_CTS | MSR_DSR | MSR_DCD;
    // Loopback wires the four outputs of MCR to the four inputs; Linux's autoconfig() recognises a UART by it.
    const mcr = this.words[WORD.MCR];
    return (
      ((mcr & MCR_RTS) !== 0 ? MSR_CTS : 0) |
      ((mcr & MCR_DTR) !== 0 ? MSR_DSR : 0) |
      ((mcr & MCR_OUT1) !== 0 ? MSR_RI : 0) |
      ((mcr & MCR_OUT2) !== 0 ? MSR_DCD : 0)
    );
  }

  private enableInterrupts(ier: number): void {
    const { words } = this;
    const enablesThre = (ier & ~words[WORD.IER] & IER_ETBEI) !== 0;
    words[WORD.IER] = ier;
    // Enabling the source while the transmitter is empty is an event of its own: drivers start sending by it.
    if (enablesThre) this.announceTransmitter();
    this.updateInterrupt(false);
  }

  private controlModem(mcr: number): void {
    const { words } = this;
    const loopChanged = ((mcr ^ words[WORD.MCR]) & MCR_LOOP) !== 0;
    words[WORD.MCR] = mcr;
    if (!loopChanged) return;
    // Loopback swaps the receiver's source and frees the transmitter of a full ring.
    words[WORD.THRE_PENDING] = 0;
    this.announceTransmitter();
    this.updateInterrupt(false);
  }

  private controlFifos(value: number): void {
    const { words } = this;
    const enabled = (value & FCR_FIFO_ENABLE) !== 0;
    const toggled = ((value ^ words[WORD.FCR]) & FCR_FIFO_ENABLE) !== 0;
    words[WORD.FCR] = enabled ? value & FCR_KEPT_MASK : 0;
    if (toggled || (value & FCR_RCVR_RESET) !== 0) words[WORD.LOOP_TAIL] = words[WORD.LOOP_HEAD];
    this.updateInterrupt(false);
  }

  private transmit(bytes: Uint8Array): void {
    if (this.core.looped()) this.loopBack(bytes);
    else this.putIntoRing(bytes);
    this.words[WORD.THRE_PENDING] = 0;
    this.announceTransmitter();
    // Writing THR acknowledged its interrupt; the transmitter being empty again is the next one.
    this.updateInterrupt(true);
  }

  private loopBack(bytes: Uint8Array): void {
    const { words } = this;
    const depth = (words[WORD.FCR] & FCR_FIFO_ENABLE) !== 0 ? FIFO_DEPTH : 1;
    for (const byte of bytes) {
      const head = words[WORD.LOOP_HEAD];
      if (((head - words[WORD.LOOP_TAIL]) | 0) >= depth) {
        words[WORD.LSR_ERRORS] |= LSR_OE;
        return;
      }
      words[WORD.LOOP_BYTES + (head & (FIFO_DEPTH - 1))] = byte;
      words[WORD.LOOP_HEAD] = (head + 1) | 0;
    }
  }

  private putIntoRing(bytes: Uint8Array): void {
    const { tx } = this.core;
    const count = tx.put(bytes);
    // Written although LSR.THRE was 0.
    if (count < bytes.length) tx.countLost(bytes.length - count);
  }

  /** Sets the transmitter-empty condition if it holds, else asks the consumer to do so once it does. */
  private announceTransmitter(): void {
    const { core, words } = this;
    if (core.transmitterReady()) {
      words[WORD.THRE_PENDING] = 1;
      return;
    }
    // Stalled first, then one more look at the ring; the consumer frees bytes first, then looks at TX_STALLED.
    // Whatever the interleaving, one of the two sees the other's store and the interrupt is not lost.
    Atomics.store(words, WORD.TX_STALLED, 1);
    if (!core.transmitterReady()) return;
    Atomics.store(words, WORD.TX_STALLED, 0);
    words[WORD.THRE_PENDING] = 1;
  }

  private updateInterrupt(acknowledged: boolean): void {
    if (this.core.updateInterrupt(acknowledged)) this.needsEdge = true;
  }

  /** The system calls of an access, made after the lock is free. */
  private afterRelease(): void {
    const { tx, rx } = this.core;
    if (this.needsEdge) {
      this.needsEdge = false;
      this.raiseInterrupt();
    }
    const wanted = tx.consumerToWake();
    const unblocked = rx.producerToWake();
    if (wanted || unblocked) this.wakeConsumer();
  }
}
