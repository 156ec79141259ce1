// Token buckets on a clock of the test.

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { RateLimiter, rateLimiterSettings, type RateLimiterSettings } from '../../src/devices/rate-limiter.js';
import { FakeClock } from '../support/fake-clock.js';

function limiterOf(settings: RateLimiterSettings) {
  const clock = new FakeClock();
  let resumed = 0;
  const limiter = new RateLimiter(settings, clock, () => resumed++);
  return { clock, limiter, resumed: () => resumed };
}

/** How many operations of `bytes` pass before the limiter blocks. */
function passing(limiter: RateLimiter, bytes: number): number {
  let count = 0;
  while (limiter.consume(bytes)) count++;
  return count;
}

describe('rate limiter', () => {
  test('a full bucket lets its size pass at once, then blocks until one more fits', () => {
    const { clock, limiter, resumed } = limiterOf({ ops: { size: 10, refillTime: 1000 } });
    expect(passing(limiter, 4096)).toBe(10);
    expect(limiter.blocked).toBe(true);
    clock.advance(99);
    expect(resumed()).toBe(0);
    clock.advance(1);
    expect(resumed()).toBe(1);
    expect(passing(limiter, 4096)).toBe(1);
  });

  test('each time that it blocks is told once', () => {
    const clock = new FakeClock();
    let stalls = 0;
    const settings = { ops: { size: 1, refillTime: 100 } };
    const limiter = new RateLimiter(
      settings,
      clock,
      () => undefined,
      () => stalls++,
    );
    passing(limiter, 1);
    passing(limiter, 1);
    expect(stalls).toBe(1);
    clock.advance(100);
    passing(limiter, 1);
    expect(stalls).toBe(2);
  });

  test('while it is blocked nothing passes, however small', () => {
    const { limiter } = limiterOf({ bandwidth: { size: 1000, refillTime: 1000 } });
    expect(limiter.consume(800)).toBe(true);
    expect(limiter.consume(500)).toBe(false);
    expect(limiter.consume(1)).toBe(false);
  });

  test('bytes are counted apart from operations, and the longer wait counts', () => {
    const { clock, limiter, resumed } = limiterOf({
      ops: { size: 2, refillTime: 100 },
      bandwidth: { size: 1000, refillTime: 1000 },
    });
    expect(passing(limiter, 500)).toBe(2);
    clock.advance(499);
    expect(resumed()).toBe(0);
    clock.advance(1);
    expect(resumed()).toBe(1);
    expect(passing(limiter, 500)).toBe(1);
  });

  test('an operation that is refused for one bucket takes nothing from the other', () => {
    const { clock, limiter } = limiterOf({
      ops: { size: 3, refillTime: 1e9 },
      bandwidth: { size: 1000, refillTime: 1000 },
    });
    for (let round = 0; round < 3; round++) {
      expect(limiter.consume(1000)).toBe(true);
      expect(limiter.consume(1000)).toBe(false);
      clock.advance(1000);
    }
    expect(limiter.consume(0)).toBe(false);
  });

  test('the burst comes once, is used first, and the bucket is full when it is gone', () => {
    const { clock, limiter } = limiterOf({ ops: { size: 10, oneTimeBurst: 25, refillTime: 1000 } });
    for (let count = 0; count < 25; count++) expect(limiter.consume(1)).toBe(true);
    clock.advance(60_000);
    expect(passing(limiter, 1)).toBe(10);
    clock.advance(60_000);
    expect(passing(limiter, 1)).toBe(10);
  });

  test('one operation may take the rest of the burst and the bucket', () => {
    const { limiter } = limiterOf({ bandwidth: { size: 1000, oneTimeBurst: 500, refillTime: 1000 } });
    expect(limiter.consume(200)).toBe(true);
    expect(limiter.consume(1300)).toBe(true);
    expect(limiter.consume(1)).toBe(false);
  });

  test('an operation larger than the bucket passes, and is paid for afterwards', () => {
    const { clock, limiter, resumed } = limiterOf({ bandwidth: { size: 1000, refillTime: 1000 } });
    expect(limiter.consume(5000)).toBe(true);
    expect(limiter.consume(1000)).toBe(false);
    clock.advance(4999);
    expect(resumed()).toBe(0);
    clock.advance(1);
    expect(resumed()).toBe(1);
    expect(limiter.consume(1000)).toBe(true);
  });

  test('the bucket never holds more than its size', () => {
    const { clock, limiter } = limiterOf({ ops: { size: 5, refillTime: 10 } });
    clock.advance(1_000_000);
    expect(passing(limiter, 1)).toBe(5);
  });

  test('what was charged afterwards blocks while it is owed', () => {
    const { clock, limiter, resumed } = limiterOf({ bandwidth: { size: 1000, refillTime: 1000 } });
    limiter.charge(3, 900);
    expect(limiter.blocked).toBe(false);
    limiter.charge(1, 1500);
    expect(limiter.blocked).toBe(true);
    clock.advance(1400);
    expect(resumed()).toBe(1);
    expect(limiter.blocked).toBe(false);
  });

  test('closing cancels the timer', () => {
    const { clock, limiter, resumed } = limiterOf({ ops: { size: 1, refillTime: 10 } });
    expect(passing(limiter, 1)).toBe(1);
    limiter.close();
    expect(clock.pending).toBe(0);
    clock.advance(1000);
    expect(resumed()).toBe(0);
  });

  test('a bucket of nothing, or one that never refills, is refused', () => {
    for (const [size, refillTime] of [
      [0, 10],
      [10, 0],
      [-1, 10],
      [NaN, 10],
    ]) {
      expect(() => limiterOf({ ops: { size, refillTime } })).toThrow(RangeError);
    }
  });

  test('over any time no more passes than the burst, the bucket and the rate allow, and nearly all of that', () => {
    const sizes = fc.integer({ min: 1, max: 100_000 });
    fc.assert(
      fc.property(
        sizes,
        fc.integer({ min: 1, max: 1000 }),
        fc.integer({ min: 0, max: 5000 }),
        fc.array(sizes, { minLength: 1, maxLength: 20 }),
        (size, refillTime, oneTimeBurst, operations) => {
          const { clock, limiter } = limiterOf({ bandwidth: { size, refillTime, oneTimeBurst } });
          const elapsed = 20 * refillTime;
          let passed = 0;
          let last = 0;
          let index = 0;
          for (let tick = 0; tick < 200; tick++) {
            while (limiter.consume(operations[index % operations.length])) {
              last = operations[index % operations.length];
              passed += last;
              index++;
            }
            clock.advance(elapsed / 200);
          }
          const allowed = oneTimeBurst + size + (size / refillTime) * elapsed;
          // The last operation may be larger than the bucket and not paid for yet.
          expect(passed - last).toBeLessThanOrEqual(allowed + 1);
          const largest = Math.max(...operations);
          expect(passed).toBeGreaterThan(allowed - size - largest - (size / refillTime) * elapsed * 0.2);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('settings are those of the configuration, or none where it limits nothing', () => {
    expect(rateLimiterSettings(undefined)).toBeUndefined();
    expect(rateLimiterSettings({})).toBeUndefined();
    expect(rateLimiterSettings({ ops: { size: 5, refill_time: 7 } })).toEqual({
      ops: { size: 5, oneTimeBurst: 0, refillTime: 7 },
    });
  });
});
