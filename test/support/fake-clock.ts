// A clock that goes on when a test says so, with the timers of an event loop.

import type { Timer, TimerTask } from '../../src/platform/event-loop.js';

interface FakeTimer extends Timer {
  readonly task: TimerTask;
}

export class FakeClock {
  private time = 1000;
  private timers: FakeTimer[] = [];

  now(): number {
    return this.time;
  }

  setTimer(milliseconds: number, task: TimerTask): Timer {
    const timer = { deadline: this.time + milliseconds, task };
    this.timers.push(timer);
    return timer;
  }

  cancelTimer(timer: Timer | undefined): void {
    this.timers = this.timers.filter((set) => set !== timer);
  }

  /** How many timers are set. */
  get pending(): number {
    return this.timers.length;
  }

  /** Lets `milliseconds` pass; timers expire in order, each at its time. */
  advance(milliseconds: number): void {
    const end = this.time + milliseconds;
    for (;;) {
      const [next] = this.timers.filter(({ deadline }) => deadline <= end).sort((a, b) => a.deadline - b.deadline);
      if ((next as FakeTimer | undefined) === undefined) break;
      this.time = Math.max(this.time, next.deadline);
      this.cancelTimer(next);
      next.task.timerExpired();
    }
    this.time = end;
  }
}
