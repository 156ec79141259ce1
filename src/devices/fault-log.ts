// Says that a guest or the host misbehaved, at a bounded rate: a guest must not be able to fill the host's disk.

import type { DeviceContext } from './virtio/device.js';

const BURST = 10;
const REFILL_MS = 1000;

export class FaultLog {
  private readonly log: (message: string) => void;
  private readonly now: () => number;
  private tokens = BURST;
  private refilledAt: number;
  private suppressed = 0;

  constructor(log: (message: string) => void, now: () => number) {
    this.log = log;
    this.now = now;
    this.refilledAt = now();
  }

  /** That of a device: warnings in its name, by the clock of its worker's loop. */
  static ofDevice({ log, loop }: Pick<DeviceContext, 'log' | 'loop'>): FaultLog {
    return new FaultLog(
      (message) => {
        log('warn', message);
      },
      () => loop.now(),
    );
  }

  /** Logs `what` unless there was too much lately. `detail` is a number or a name worth having, if any. */
  note(what: string, detail?: number | string): void {
    const now = this.now();
    if (now - this.refilledAt >= REFILL_MS) {
      this.refilledAt = now;
      this.tokens = BURST;
      if (this.suppressed > 0) this.log(`${this.suppressed} more of these were not logged`);
      this.suppressed = 0;
    }
    if (this.tokens === 0) {
      this.suppressed++;
      return;
    }
    this.tokens--;
    this.log(detail === undefined ? what : `${what} (${detail})`);
  }
}
