// A watchdog timer: a countdown that the guest has to restart in time, or the machine is reset. Its registers run in
// whichever vCPU worker took the exit, on shared state under a lock; the main thread watches the countdown
// (WatchdogHost).
//
// Specification: Microsoft, "Hardware Watchdog Timers Design Specification" (the WDAT table of ACPI). That table
// describes actions as accesses to registers, so the registers are ours to choose. They are 32 bits wide, in port
// space:
//
//   +0x00  control    RW  bit 0: running. Writing 1 starts the countdown, 0 stops it.
//   +0x04  kick       W   any value restarts the countdown
//   +0x08  period     RW  in units of 100 ms; writing restarts the countdown. 0 is ignored.
//   +0x0c  countdown  R   what is left of it, in units of 100 ms; the period while it is stopped
//   +0x10  status     RW  bit 0: the last reset was the watchdog's. Writing 1 clears it; it survives resets.
//
// Left out: a stop in other machine states than running, and resets by other means than the machine's own (the WDAT's
// "shutdown" action). While the VM is paused the countdown stands still; time during which the monitor itself is stopped
// counts.

import { acquire, release } from '../../platform/shared-lock.js';

export const WATCHDOG_BASE_PORT = 0x610;
/** One port per byte of the registers. */
export const WATCHDOG_PORT_COUNT = 20;

/** Offsets of the registers from the base port. */
export const WATCHDOG_REG = {
  CONTROL: 0x00,
  KICK: 0x04,
  PERIOD: 0x08,
  COUNTDOWN: 0x0c,
  STATUS: 0x10,
} as const;
export const WATCHDOG_CONTROL_RUNNING = 1;
export const WATCHDOG_STATUS_EXPIRED = 1;
/** Milliseconds that one count of the period stands for. */
export const WATCHDOG_UNIT_MS = 100;

const REGISTER_SIZE = 4;
/** 30 s: Linux's own default for a watchdog. */
const DEFAULT_PERIOD = 300;
const FLOATING_BUS = 0xffff_ffff;

/** Word indices in the shared state. */
const WORD = {
  LOCK: 0,
  RUNNING: 1,
  PERIOD: 2,
  STATUS: 3,
  COUNT: 4,
} as const;
const WORD_BYTES = WORD.COUNT * Int32Array.BYTES_PER_ELEMENT;

/** What the threads of one VM share of the timer: plain data. */
export interface WatchdogShared {
  /** The words, then a Float64: when the countdown ends, in milliseconds of the monotonic clock. */
  readonly state: SharedArrayBuffer;
}

/** A timer while no vCPU runs: plain JSON. */
export interface WatchdogSnapshot {
  /** Milliseconds until it would have expired; null while it is stopped. */
  readonly left: number | null;
  readonly period: number;
  readonly status: number;
}

export function createWatchdogShared(): WatchdogShared {
  const state = new SharedArrayBuffer(WORD_BYTES + Float64Array.BYTES_PER_ELEMENT);
  new Int32Array(state)[WORD.PERIOD] = DEFAULT_PERIOD;
  return { state };
}

/** The clock that all threads of a process share (performance.now counts from each thread's own start). */
export function monotonicMilliseconds(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6;
}

/** One thread's views of the state. */
class WatchdogState {
  readonly words: Int32Array;
  private readonly deadlines: Float64Array;
  private readonly now: () => number;

  constructor(shared: WatchdogShared, now: () => number) {
    this.words = new Int32Array(shared.state, 0, WORD.COUNT);
    this.deadlines = new Float64Array(shared.state, WORD_BYTES);
    this.now = now;
  }

  get running(): boolean {
    return this.words[WORD.RUNNING] !== 0;
  }

  /** Milliseconds until the countdown ends; 0 when it has. */
  get left(): number {
    return Math.max(0, this.deadlines[0] - this.now());
  }

  restart(): void {
    this.expireIn((this.words[WORD.PERIOD] >>> 0) * WATCHDOG_UNIT_MS);
  }

  expireIn(milliseconds: number): void {
    this.deadlines[0] = this.now() + milliseconds;
  }

  locked<T>(action: () => T): T {
    acquire(this.words, WORD.LOCK);
    try {
      return action();
    } finally {
      release(this.words, WORD.LOCK);
    }
  }
}

/** The registers as one vCPU thread sees them. All of them may use them at once. */
export class Watchdog {
  private readonly state: WatchdogState;
  private readonly changed: () => void;

  /** `changed` tells the main thread that the countdown may end earlier than it thinks; called without the lock. */
  constructor(shared: WatchdogShared, changed: () => void, now: () => number = monotonicMilliseconds) {
    this.state = new WatchdogState(shared, now);
    this.changed = changed;
  }

  /** `in` of one byte of a register. */
  read(offset: number): number {
    return (this.readRegister(offset & ~3) >>> ((offset & 3) * 8)) & 0xff;
  }

  /** `out` of one byte: registers are written whole (`writeWide`), so this changes nothing. */
  write(_offset: number, _value: number): void {
    // Half a period would be a wrong one.
  }

  /** `in` of 2 or 4 bytes. */
  readWide(offset: number, size: number): number {
    if (size === REGISTER_SIZE && offset % REGISTER_SIZE === 0) return this.readRegister(offset);
    let value = 0;
    for (let byte = 0; byte < size; byte++) value |= this.read(offset + byte) << (8 * byte);
    return value >>> 0;
  }

  /** `out` of 2 or 4 bytes; what is not a whole register changes nothing. */
  writeWide(offset: number, size: number, value: number): void {
    if (size !== REGISTER_SIZE || offset % REGISTER_SIZE !== 0) return;
    if (this.state.locked(() => this.writeRegister(offset, value))) this.changed();
  }

  private readRegister(offset: number): number {
    const { state } = this;
    return state.locked(() => {
      const period = state.words[WORD.PERIOD] >>> 0;
      switch (offset) {
        case WATCHDOG_REG.CONTROL:
          return state.running ? WATCHDOG_CONTROL_RUNNING : 0;
        case WATCHDOG_REG.KICK:
          return 0;
        case WATCHDOG_REG.PERIOD:
          return period;
        case WATCHDOG_REG.COUNTDOWN:
          return state.running ? Math.ceil(state.left / WATCHDOG_UNIT_MS) : period;
        case WATCHDOG_REG.STATUS:
          return state.words[WORD.STATUS];
        default:
          return FLOATING_BUS;
      }
    });
  }

  /** Returns whether the main thread has to know. */
  private writeRegister(offset: number, value: number): boolean {
    const { state } = this;
    const { words } = state;
    switch (offset) {
      case WATCHDOG_REG.CONTROL: {
        const start = (value & WATCHDOG_CONTROL_RUNNING) !== 0;
        // A driver that takes over from firmware says "run" again: that starts the countdown anew, too.
        words[WORD.RUNNING] = start ? 1 : 0;
        if (start) state.restart();
        return start;
      }
      case WATCHDOG_REG.KICK:
        state.restart();
        return false;
      case WATCHDOG_REG.PERIOD:
        if (value === 0) return false;
        words[WORD.PERIOD] = value;
        state.restart();
        return state.running;
      case WATCHDOG_REG.STATUS:
        if ((value & WATCHDOG_STATUS_EXPIRED) !== 0) words[WORD.STATUS] = 0;
        return false;
      default: // The countdown is read-only, the rest does not exist.
        return false;
    }
  }
}

/** The main thread's end. */
export class WatchdogHost {
  private readonly state: WatchdogState;
  /** While paused: what is left of the countdown. */
  private held: number | undefined;

  constructor(shared: WatchdogShared, now: () => number = monotonicMilliseconds) {
    this.state = new WatchdogState(shared, now);
  }

  /** Milliseconds until the countdown ends as it stands; 0 when it has ended, undefined while it is stopped. */
  get left(): number | undefined {
    const { state } = this;
    return state.locked(() => (state.running ? (this.held ?? state.left) : undefined));
  }

  /** The countdown stands still until `resume`. While no vCPU runs. */
  pause(): void {
    this.held ??= this.left;
  }

  /** The countdown goes on from where it stood. Before a vCPU runs. */
  resume(): void {
    const { state, held } = this;
    this.held = undefined;
    if (held === undefined) return;
    state.locked(() => {
      state.expireIn(held);
    });
  }

  /** Sets the status bit if the countdown has ended, and stops it; returns whether it had. */
  takeExpiry(): boolean {
    const { state } = this;
    return state.locked(() => {
      if (!state.running || (this.held ?? state.left) > 0) return false;
      state.words[WORD.RUNNING] = 0;
      state.words[WORD.STATUS] = WATCHDOG_STATUS_EXPIRED;
      return true;
    });
  }

  /** The timer as it is, for `restore`. While no vCPU runs. */
  save(): WatchdogSnapshot {
    const { state } = this;
    return state.locked(() => ({
      left: state.running ? (this.held ?? state.left) : null,
      period: state.words[WORD.PERIOD],
      status: state.words[WORD.STATUS],
    }));
  }

  /** Puts a saved timer back; the countdown goes on from what was left of it. While no vCPU runs. */
  restore({ left, period, status }: WatchdogSnapshot): void {
    const { state } = this;
    this.held = undefined;
    state.locked(() => {
      state.words[WORD.PERIOD] = period;
      state.words[WORD.STATUS] = status;
      state.words[WORD.RUNNING] = left === null ? 0 : 1;
      if (left !== null) state.expireIn(left);
    });
  }

  /** What a reset of the machine does: stopped, with the first period; the status stays. While no vCPU runs. */
  reset(): void {
    const { state } = this;
    this.held = undefined;
    state.locked(() => {
      state.words[WORD.RUNNING] = 0;
      state.words[WORD.PERIOD] = DEFAULT_PERIOD;
    });
  }
}
