// Token buckets that bound a device's operations and bytes, with the semantics of Firecracker and Cloud Hypervisor.
//
// Runs in the I/O worker of the device. A bucket holds `size` tokens and is refilled evenly, `size` of them in every
// `refillTime`; `oneTimeBurst` comes on top, once, is used first, and the refill begins when it is gone. An operation
// that finds too few tokens blocks the limiter until there are enough. One that needs more than the bucket can ever
// hold is let through as soon as nothing is owed, and paid for afterwards, so that the rate is kept all the same.
//
// Nothing is allocated per operation; being blocked costs one timer of the loop. Left out: changing limits while the
// device runs, and limiters that several devices share.

import type { EventLoop, Timer, TimerTask } from '../platform/event-loop.js';

export interface TokenBucketSettings {
  /** Tokens, above 0. */
  readonly size: number;
  /** Absent: none. */
  readonly oneTimeBurst?: number;
  /** Milliseconds for `size` tokens, above 0. */
  readonly refillTime: number;
}

export interface RateLimiterSettings {
  /** Tokens are bytes. Absent: unlimited. */
  readonly bandwidth?: TokenBucketSettings;
  /** Tokens are operations: requests, or frames. Absent: unlimited. */
  readonly ops?: TokenBucketSettings;
}

/** The parts of a configuration section that limit a device: Cloud Hypervisor's names. */
interface BucketConfig {
  readonly size: number;
  readonly one_time_burst?: number;
  readonly refill_time: number;
}

/** What crosses to the worker for a section of the configuration; `undefined` when it limits nothing. */
export function rateLimiterSettings(
  config: { readonly bandwidth?: BucketConfig; readonly ops?: BucketConfig } | undefined,
): RateLimiterSettings | undefined {
  if (config?.bandwidth === undefined && config?.ops === undefined) return undefined;
  return {
    ...(config.bandwidth === undefined ? {} : { bandwidth: bucketSettings(config.bandwidth) }),
    ...(config.ops === undefined ? {} : { ops: bucketSettings(config.ops) }),
  };
}

function bucketSettings({ size, one_time_burst = 0, refill_time }: BucketConfig): TokenBucketSettings {
  return { size, oneTimeBurst: one_time_burst, refillTime: refill_time };
}

/** What a limiter needs of the event loop. */
export type LimiterClock = Pick<EventLoop, 'now' | 'setTimer' | 'cancelTimer'>;

/** Refilling sums fractions; a bucket this close to what is wanted has it. */
const ROUNDING = 1e-6;

class TokenBucket {
  private readonly size: number;
  private readonly perMs: number;
  private burst: number;
  /** Below 0: what is owed for an operation that was larger than the bucket. */
  private budget: number;
  private refilledAt: number;

  constructor({ size, oneTimeBurst = 0, refillTime }: TokenBucketSettings, now: number) {
    if (!(size > 0) || !(refillTime > 0)) throw new RangeError(`a token bucket of ${size} in ${refillTime} ms`);
    this.size = size;
    this.perMs = size / refillTime;
    this.burst = oneTimeBurst;
    this.budget = size;
    this.refilledAt = now;
  }

  /** Milliseconds until `tokens` may be taken; 0: now. */
  wait(tokens: number, now: number): number {
    if (tokens <= this.burst) return 0;
    this.refill(now);
    const fromBudget = tokens - this.burst;
    // More than the bucket can hold would wait for ever; it waits until nothing is owed, and leaves a debt.
    const needed = fromBudget > this.size ? -this.budget : fromBudget - this.budget;
    return needed <= ROUNDING ? 0 : needed / this.perMs;
  }

  /** Milliseconds until what was taken is paid for; 0: nothing is owed. */
  owed(now: number): number {
    this.refill(now);
    return this.budget >= -ROUNDING ? 0 : -this.budget / this.perMs;
  }

  take(tokens: number): void {
    const fromBurst = Math.min(tokens, this.burst);
    this.burst -= fromBurst;
    this.budget -= tokens - fromBurst;
  }

  private refill(now: number): void {
    // Until the burst is gone the bucket is full: there is nothing to refill.
    this.budget = Math.min(this.size, this.budget + (now - this.refilledAt) * this.perMs);
    this.refilledAt = now;
  }
}

/** Both buckets of one direction of a device, and the timer that lets it go on. */
export class RateLimiter implements TimerTask {
  private readonly clock: LimiterClock;
  private readonly bandwidth: TokenBucket | undefined;
  private readonly ops: TokenBucket | undefined;
  private readonly resume: () => void;
  private readonly stalled: () => void;
  private timer: Timer | undefined;

  /**
   * `resume` is called, by a timer of the loop, when a limiter that was blocked is no longer; `stalled` each time that it
   * becomes so.
   */
  constructor(
    settings: RateLimiterSettings,
    clock: LimiterClock,
    resume: () => void,
    stalled: () => void = () => undefined,
  ) {
    this.clock = clock;
    this.resume = resume;
    this.stalled = stalled;
    const now = clock.now();
    this.bandwidth = settings.bandwidth === undefined ? undefined : new TokenBucket(settings.bandwidth, now);
    this.ops = settings.ops === undefined ? undefined : new TokenBucket(settings.ops, now);
  }

  /** Whether nothing may be done before `resume` is called. */
  get blocked(): boolean {
    return this.timer !== undefined;
  }

  /** Takes the tokens of one operation of `bytes`. False: nothing was taken, and the limiter is blocked. */
  consume(bytes: number): boolean {
    if (this.timer !== undefined) return false;
    const now = this.clock.now();
    const wait = Math.max(this.ops?.wait(1, now) ?? 0, this.bandwidth?.wait(bytes, now) ?? 0);
    if (wait > 0) {
      this.block(wait);
      return false;
    }
    this.ops?.take(1);
    this.bandwidth?.take(bytes);
    return true;
  }

  /**
   * Takes the tokens of operations that have happened already, for a device that learns their size too late to ask; the
   * limiter is blocked afterwards while it is owed some. Not to be called while it is blocked.
   */
  charge(operations: number, bytes: number): void {
    const now = this.clock.now();
    this.ops?.wait(operations, now);
    this.bandwidth?.wait(bytes, now);
    this.ops?.take(operations);
    this.bandwidth?.take(bytes);
    const owed = Math.max(this.ops?.owed(now) ?? 0, this.bandwidth?.owed(now) ?? 0);
    if (owed > 0) this.block(owed);
  }

  timerExpired(): void {
    this.timer = undefined;
    this.resume();
  }

  /** Cancels the timer: `resume` is not called any more. The tokens stay as they are. */
  close(): void {
    this.clock.cancelTimer(this.timer);
    this.timer = undefined;
  }

  private block(milliseconds: number): void {
    if (this.timer !== undefined) return;
    this.timer = this.clock.setTimer(milliseconds, this);
    this.stalled();
  }
}
