// Says that the guest misbehaved, at a bounded rate: a guest must not be able to fill the host's disk.

import { GUEST_FAULTS, type VsockCounters } from './counters.js';

const BURST = 10;
const REFILL_MS = 1000;

export class FaultLog {
  private readonly log: (message: string) => void;
  private readonly now: () => number;
  private readonly counters: VsockCounters;
  private tokens = BURST;
  private refilledAt: number;
  private suppressed = 0;

  constructor(log: (message: string) => void, now: () => number, counters: VsockCounters) {
    this.log = log;
    this.now = now;
    this.counters = counters;
    this.refilledAt = now();
  }

  /** Counts a fault, and logs it unless there were too many lately. `detail` is a number worth having, if any. */
  report(what: string, detail?: number): void {
    this.counters.add(GUEST_FAULTS, 1);
    this.note(what, detail);
  }

  /** Logs what is not the guest's fault, but may come as often. */
  note(what: string, detail?: number): void {
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
