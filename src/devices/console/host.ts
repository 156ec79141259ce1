// The main thread's end of a virtio console: takes what the guest printed, hands it what was typed. Only one of these per
// console: it is the single consumer of the tx ring and the single producer of the rx ring.

import { SharedRing } from '../../platform/shared-ring.js';
import type { TerminalSize } from '../../platform/terminal.js';
import { packSize, type ConsoleShared } from './settings.js';

export class ConsoleHost {
  private readonly tx: SharedRing;
  private readonly rx: SharedRing;
  private readonly size: Int32Array;
  private readonly wakeDevice: () => void;

  /** `wakeDevice` tells the I/O worker to look at its rings. */
  constructor(shared: ConsoleShared, wakeDevice: () => void) {
    this.tx = new SharedRing(shared.tx);
    this.rx = new SharedRing(shared.rx);
    this.size = new Int32Array(shared.size);
    this.wakeDevice = wakeDevice;
  }

  /** Bytes that the guest printed and nobody took yet. */
  get pending(): number {
    return this.tx.length;
  }

  /** Bytes of emergency writes that found no room, modulo 2^32; a driver's other output waits. */
  get lost(): number {
    return this.tx.lost;
  }

  /** See SharedRing.drain. */
  drain(into: (bytes: Uint8Array) => number): boolean {
    const emptied = this.tx.drain(into);
    if (this.tx.producerToWake()) this.wakeDevice();
    return emptied;
  }

  /** Call before sleeping: asks for one wake-up at the next byte; false when there is something to drain already. */
  arm(): boolean {
    return this.tx.consumerWaits();
  }

  /**
   * Gives input to the guest; returns how many of `bytes` were accepted. If not all were, a wake-up comes when half of the
   * ring is free.
   */
  push(bytes: Uint8Array): number {
    const { rx } = this;
    let accepted = rx.put(bytes);
    while (accepted < bytes.length && !rx.producerWaits()) accepted += rx.put(bytes.subarray(accepted));
    if (rx.consumerToWake()) this.wakeDevice();
    return accepted;
  }

  /** Tells the guest how large the terminal is now. */
  resize(size: TerminalSize): void {
    Atomics.store(this.size, 0, packSize(size));
    this.wakeDevice();
  }
}
