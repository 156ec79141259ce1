// Rate limits of a network device, each direction by itself. Time passes when a test says so.

import { expect, test } from '@jest/globals';
import type { RateLimiterSettings } from '../../../src/devices/rate-limiter.js';
import { frameOf, NetGuest } from './net-guest.js';

class LimitedGuest extends NetGuest {
  private readonly clock: { time: number };

  constructor(rateLimiter: RateLimiterSettings) {
    const clock = { time: 0 };
    super({ rateLimiter, now: () => clock.time });
    this.clock = clock;
  }

  /** Lets time pass; what became possible is done. */
  pass(milliseconds: number): this {
    this.clock.time += milliseconds;
    return this.turn();
  }

  sent(): number[] {
    return this.taps[0].receiveAll().map(({ length }) => length);
  }

  got(): number[] {
    return this.received().map(({ frame }) => frame.length);
  }
}

test('so many frames are sent in a time, the others wait in their queue', () => {
  using guest = new LimitedGuest({ ops: { size: 5, refillTime: 1000 } });
  for (let count = 0; count < 12; count++) guest.send(frameOf(100 + count));
  guest.turn();
  expect(guest.sent()).toEqual([100, 101, 102, 103, 104]);
  expect(guest.tx[0].collect()).toHaveLength(5);
  expect(guest.pass(199).sent()).toEqual([]);
  expect(guest.pass(1).sent()).toEqual([105]);
  expect(guest.pass(10_000).sent()).toEqual([106, 107, 108, 109, 110]);
  expect(guest.pass(200).sent()).toEqual([111]);
  expect(guest.counter('tx_frames')).toBe(12);
  expect(guest.counter('tx_dropped')).toBe(0);
});

test('so many bytes are sent in a time, after a burst that comes once', () => {
  using guest = new LimitedGuest({ bandwidth: { size: 1000, oneTimeBurst: 500, refillTime: 1000 } });
  for (let count = 0; count < 6; count++) guest.send(frameOf(500));
  guest.turn();
  expect(guest.sent()).toHaveLength(3);
  expect(guest.pass(500).sent()).toHaveLength(1);
  expect(guest.pass(5000).sent()).toHaveLength(2);
});

test('what is received is paid for afterwards: the rate is kept, and nothing is lost', () => {
  using guest = new LimitedGuest({ bandwidth: { size: 1000, refillTime: 1000 } });
  guest.postRx(20);
  for (let count = 0; count < 6; count++) guest.taps[0].send(frameOf(900));
  // The second frame leaves a debt of 800.
  expect(guest.turn().got()).toHaveLength(2);
  expect(guest.pass(799).got()).toHaveLength(0);
  expect(guest.pass(1).got()).toHaveLength(1);
  for (let second = 0; second < 3; second++) guest.pass(1000);
  expect(guest.got()).toHaveLength(3);
  expect(guest.counter('rx_dropped')).toBe(0);
});

test('one direction that waits does not hold up the other', () => {
  using guest = new LimitedGuest({ ops: { size: 2, refillTime: 1000 } });
  guest.postRx(4);
  for (let count = 0; count < 4; count++) guest.send(frameOf(60));
  guest.turn();
  guest.taps[0].send(frameOf(77));
  expect(guest.turn().got()).toEqual([77]);
  expect(guest.sent()).toHaveLength(2);
});

test('a reset while frames wait leaves no timer that minds', () => {
  using guest = new LimitedGuest({ ops: { size: 1, refillTime: 1000 } });
  for (let count = 0; count < 3; count++) guest.send(frameOf(60));
  guest.turn();
  guest.device.reset();
  guest.pass(5000);
  guest.activate();
  guest.send(frameOf(61));
  guest.turn();
  expect(guest.sent()).toEqual([60, 61]);
});
