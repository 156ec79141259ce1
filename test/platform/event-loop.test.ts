import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { EPOLLET, EPOLLIN } from '../../src/platform/epoll.js';
import { EventLoop, type FdHandler, type Timer } from '../../src/platform/event-loop.js';
import { createEventFd, drainEventFd, signalEventFd } from '../../src/platform/eventfd.js';
import { close } from '../../src/platform/libc.js';
import type { Fd } from '../../src/platform/units.js';

let loop: EventLoop;
let fds: Fd[];

function eventFd(): Fd {
  const fd = createEventFd();
  fds.push(fd);
  return fd;
}

function handler(ready: (events: number) => void): FdHandler {
  return { ready };
}

beforeEach(() => {
  loop = new EventLoop();
  fds = [];
});

afterEach(() => {
  loop.close();
  for (const fd of fds) close(fd);
});

describe('descriptors', () => {
  test('a ready descriptor calls its handler with its events', () => {
    const fd = eventFd();
    const seen: number[] = [];
    loop.watch(
      fd,
      EPOLLIN,
      handler((events) => seen.push(events)),
    );
    loop.turn(0);
    signalEventFd(fd);
    loop.turn(0);
    expect(seen).toEqual([EPOLLIN]);
  });

  test('level-triggered events repeat until drained, edge-triggered ones do not', () => {
    const level = eventFd();
    const edge = eventFd();
    const seen: string[] = [];
    loop.watch(
      level,
      EPOLLIN,
      handler(() => seen.push('level')),
    );
    loop.watch(
      edge,
      EPOLLIN | EPOLLET,
      handler(() => seen.push('edge')),
    );
    signalEventFd(level);
    signalEventFd(edge);
    loop.turn(0);
    loop.turn(0);
    drainEventFd(level);
    loop.turn(0);
    expect(seen.sort()).toEqual(['edge', 'level', 'level']);
  });

  test('an event collected for a watch that ended in the same batch is dropped', () => {
    const [a, b] = [eventFd(), eventFd()];
    const seen: string[] = [];
    const takeTheOtherAway = (name: string, other: Fd): FdHandler =>
      handler(() => {
        seen.push(name);
        loop.unwatch(other);
      });
    loop.watch(a, EPOLLIN, takeTheOtherAway('a', b));
    loop.watch(b, EPOLLIN, takeTheOtherAway('b', a));
    signalEventFd(a);
    signalEventFd(b);
    loop.turn(0);
    expect(seen).toHaveLength(1);
  });

  test('a new watch on a reused descriptor number does not get the events of the old one', () => {
    const [a, b] = [eventFd(), eventFd()];
    const seen: string[] = [];
    const replaceTheOther = (name: string, other: Fd): FdHandler =>
      handler(() => {
        seen.push(name);
        loop.unwatch(other);
        loop.watch(
          other,
          EPOLLIN | EPOLLET,
          handler(() => seen.push('new')),
        );
        drainEventFd(other);
      });
    loop.watch(a, EPOLLIN, replaceTheOther('a', b));
    loop.watch(b, EPOLLIN, replaceTheOther('b', a));
    signalEventFd(a);
    signalEventFd(b);
    loop.turn(0);
    expect(seen).toHaveLength(1);
    expect(seen).not.toContain('new');
  });

  test('rewatch changes the events', () => {
    const fd = eventFd();
    let calls = 0;
    loop.watch(
      fd,
      EPOLLIN,
      handler(() => calls++),
    );
    signalEventFd(fd);
    loop.rewatch(fd, 0);
    loop.turn(0);
    expect(calls).toBe(0);
    loop.rewatch(fd, EPOLLIN);
    loop.turn(0);
    expect(calls).toBe(1);
  });

  test('watching twice is refused, unwatching twice is not', () => {
    const fd = eventFd();
    loop.watch(
      fd,
      EPOLLIN,
      handler(() => undefined),
    );
    expect(() => {
      loop.watch(
        fd,
        EPOLLIN,
        handler(() => undefined),
      );
    }).toThrow(/watched already/);
    loop.unwatch(fd);
    loop.unwatch(fd);
    expect(loop.watched).toBe(0);
  });
});

describe('timers', () => {
  test('expire in order of deadline, and a cancelled one never', () => {
    const seen: number[] = [];
    const timers: Timer[] = [];
    for (const delay of [5, 1, 3, 2, 4]) {
      timers.push(loop.setTimer(delay, { timerExpired: () => seen.push(delay) }));
    }
    loop.cancelTimer(timers[2]);
    while (seen.length < 4) loop.turn();
    expect(seen).toEqual([1, 2, 4, 5]);
  });

  test('a sleep ends with the next timer, without a descriptor', () => {
    let expired = false;
    const start = loop.now();
    loop.setTimer(10, { timerExpired: () => (expired = true) });
    while (!expired) loop.turn();
    expect(loop.now() - start).toBeGreaterThanOrEqual(10);
  });

  test('many timers, set and cancelled at random, expire exactly once each', () => {
    let expired = 0;
    const kept: Timer[] = [];
    for (let index = 0; index < 1000; index++) {
      kept.push(loop.setTimer((index * 7919) % 13, { timerExpired: () => expired++ }));
    }
    for (let index = 0; index < kept.length; index += 3) loop.cancelTimer(kept[index]);
    for (let index = 0; index < kept.length; index += 3) loop.cancelTimer(kept[index]);
    // The last of all comes when every other one is due.
    let over = false;
    loop.setTimer(20, { timerExpired: () => (over = true) });
    while (!over) loop.turn();
    expect(expired).toBe(666);
  });
});

describe('work without descriptors', () => {
  test('deferred work runs in the next turn, and that turn does not sleep', () => {
    const seen: string[] = [];
    loop.defer({
      run: () => {
        seen.push('first');
        loop.defer({ run: () => seen.push('second') });
      },
    });
    loop.turn();
    expect(seen).toEqual(['first']);
    loop.turn();
    expect(seen).toEqual(['first', 'second']);
  });

  test('a poller that finds work while arming keeps the loop awake, and is polled again', () => {
    let work = 1;
    let armed = 0;
    let done = 0;
    loop.addPoller({
      poll: () => {
        if (armed === 0 || work === 0) return false;
        work--;
        done++;
        return true;
      },
      armBeforeSleep: () => {
        armed++;
        return work > 0;
      },
    });
    loop.turn();
    loop.turn();
    expect(done).toBe(1);
    expect(armed).toBe(1);
  });

  test('a poller that is never out of work does not keep descriptors from their turn', () => {
    const fd = eventFd();
    let calls = 0;
    loop.watch(
      fd,
      EPOLLIN,
      handler(() => calls++),
    );
    loop.addPoller({ poll: () => true, armBeforeSleep: () => false });
    signalEventFd(fd);
    loop.turn();
    expect(calls).toBe(1);
  });

  test('busy polling gives up after its window and sleeps', () => {
    const polling = new EventLoop({ busyPollMicroseconds: 50 });
    let polls = 0;
    polling.addPoller({
      poll: () => {
        polls++;
        return false;
      },
      armBeforeSleep: () => false,
    });
    for (let turn = 0; turn < 20; turn++) polling.turn(1);
    polling.close();
    expect(polls).toBeGreaterThanOrEqual(20);
  });
});
