// Says that the guest misbehaved, and counts it.

import { FaultLog } from '../devices/fault-log.js';
import { GUEST_FAULTS, type VsockCounters } from './counters.js';

export class GuestFaultLog extends FaultLog {
  private readonly counters: VsockCounters;

  constructor(log: (message: string) => void, now: () => number, counters: VsockCounters) {
    super(log, now);
    this.counters = counters;
  }

  /** Counts a fault, and logs it unless there were too many lately. `detail` is a number worth having, if any. */
  report(what: string, detail?: number): void {
    this.counters.add(GUEST_FAULTS, 1);
    this.note(what, detail);
  }
}
