// A log that a guest cannot fill the host's disk with: ten lines a second at most, and how many were left out.

const BURST = 10;
const REFILL_MS = 1000;

export class LimitedLog {
  private readonly log: (message: string) => void;
  private readonly now: () => number;
  private lines = BURST;
  private refilledAt: number;
  private suppressed = 0;

  constructor(log: (message: string) => void, now: () => number) {
    this.log = log;
    this.now = now;
    this.refilledAt = now();
  }

  /** Logs `what`, with a number worth having if there is one. */
  note(what: string, detail?: number | string): void {
    const now = this.now();
    if (now - this.refilledAt >= REFILL_MS) {
      this.refilledAt = now;
      this.lines = BURST;
      if (this.suppressed > 0) this.log(`${this.suppressed} more of these were not logged`);
      this.suppressed = 0;
    }
    if (this.lines === 0) {
      this.suppressed++;
      return;
    }
    this.lines--;
    this.log(detail === undefined ? what : `${what} (${detail})`);
  }
}
