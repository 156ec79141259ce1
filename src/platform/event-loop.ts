// The event loop of an I/O worker: descriptors through epoll, coarse timers, work left over, and a bounded busy-poll.
//
// One instance per I/O worker thread, driven by `turn()` in an endless loop (or by a test, turn by turn). It blocks
// through FFI, so the thread runs no promises and no Node timers. Handlers run to completion, one after the other; an
// exception in one is a bug of ours and leaves `turn` (the worker dies and the VM is stopped).
//
// Left out: priorities, and timers finer than a millisecond (epoll_wait's own resolution).

import { Epoll } from './epoll.js';
import type { Fd } from './units.js';

/** Called with the epoll events of a watched descriptor. */
export interface FdHandler {
  ready(events: number): void;
}

/** Called once when a timer set with `setTimer` expires. */
export interface TimerTask {
  timerExpired(): void;
}

/** Called once in the turn after `defer`. */
export interface DeferredTask {
  run(): void;
}

/**
 * Something that can find work without a descriptor telling it: a virtqueue whose driver was asked not to notify.
 */
export interface Poller {
  /** Looks for work, without a system call where there is none, and does it. Returns whether there was any. */
  poll(): boolean;
  /**
   * The loop is about to sleep: asks to be notified from here on, and returns whether there is work already; then the
   * loop does not sleep, and calls `poll` in its next turn.
   */
  armBeforeSleep(): boolean;
}

/** A timer that was set; good for `cancelTimer`. */
export interface Timer {
  readonly deadline: number;
}

export interface EventLoopOptions {
  /**
   * The longest time to look for work before sleeping, in microseconds; 0 never does. The window in use adapts as
   * KVM's halt polling does: it grows when sleeps turn out short, and goes to nothing when they turn out long.
   */
  readonly busyPollMicroseconds?: number;
}

// A token is the descriptor in the low bits and the generation of its watch above: an event that was collected for a
// watch that ended meanwhile carries an old generation, even when the number is in use again.
const FD_BITS = 20;
const FD_MASK = (1 << FD_BITS) - 1;
const GENERATION_MASK = 0xfff;

/** Descriptors above this do not fit a token; it is Linux's own default ceiling (fs.nr_open). */
export const MAX_WATCHED_FD = FD_MASK;

const MICROSECONDS_PER_MS = 1000;
/** The window a poll starts with after a first short sleep, and its growth from then on. */
const POLL_START_MS = 0.01;
const POLL_GROWTH = 2;
/** Polls of memory between two looks at the descriptors: those cost a system call. */
const POLLS_PER_EPOLL = 32;

const NOT_IN_HEAP = -1;

class HeapTimer implements Timer {
  readonly deadline: number;
  readonly task: TimerTask;
  /** Where the timer is in the heap, or NOT_IN_HEAP. */
  position = NOT_IN_HEAP;

  constructor(deadline: number, task: TimerTask) {
    this.deadline = deadline;
    this.task = task;
  }
}

/** A binary heap of timers by deadline; each knows its place, so that cancelling costs O(log n). */
class TimerHeap {
  private readonly heap: HeapTimer[] = [];

  /** The earliest timer, if any. */
  get first(): HeapTimer | undefined {
    return this.heap[0];
  }

  add(timer: HeapTimer): void {
    this.heap.push(timer);
    this.rise(this.heap.length - 1, timer);
  }

  remove(timer: HeapTimer): void {
    const { position } = timer;
    if (position === NOT_IN_HEAP) return;
    timer.position = NOT_IN_HEAP;
    const last = this.heap.pop();
    if (last === undefined || last === timer) return;
    if (!this.rise(position, last)) this.sink(position, last);
  }

  /** Moves `timer` from `position` towards the top; returns whether it moved. */
  private rise(position: number, timer: HeapTimer): boolean {
    const start = position;
    while (position > 0) {
      const parentPosition = (position - 1) >>> 1;
      const parent = this.heap[parentPosition];
      if (parent.deadline <= timer.deadline) break;
      this.put(position, parent);
      position = parentPosition;
    }
    this.put(position, timer);
    return position !== start;
  }

  private sink(position: number, timer: HeapTimer): void {
    const { length } = this.heap;
    for (;;) {
      let childPosition = 2 * position + 1;
      if (childPosition >= length) break;
      if (childPosition + 1 < length && this.heap[childPosition + 1].deadline < this.heap[childPosition].deadline) {
        childPosition++;
      }
      const child = this.heap[childPosition];
      if (timer.deadline <= child.deadline) break;
      this.put(position, child);
      position = childPosition;
    }
    this.put(position, timer);
  }

  private put(position: number, timer: HeapTimer): void {
    this.heap[position] = timer;
    timer.position = position;
  }
}

export class EventLoop {
  private readonly epoll = new Epoll();
  /** By descriptor. */
  private readonly handlers: (FdHandler | undefined)[] = [];
  private readonly generations: number[] = [];
  private readonly timers = new TimerHeap();
  private readonly pollers: Poller[] = [];
  private deferred: DeferredTask[] = [];
  private running: DeferredTask[] = [];
  private readonly busyPollMs: number;
  private pollWindowMs = 0;
  private watchedCount = 0;

  /** Throws SysError. */
  constructor(options: EventLoopOptions = {}) {
    this.busyPollMs = (options.busyPollMicroseconds ?? 0) / MICROSECONDS_PER_MS;
  }

  /** How many descriptors are watched. */
  get watched(): number {
    return this.watchedCount;
  }

  /** Watches `fd` for `events` (EPOLL…), level-triggered unless EPOLLET is among them. Throws SysError. */
  watch(fd: Fd, events: number, handler: FdHandler): void {
    if (fd > MAX_WATCHED_FD)
      throw new RangeError(`descriptor ${fd} is beyond the ${MAX_WATCHED_FD} that can be watched`);
    while (this.handlers.length <= fd) {
      this.handlers.push(undefined);
      this.generations.push(0);
    }
    if (this.handlers[fd] !== undefined) throw new Error(`descriptor ${fd} is watched already`);
    const generation = (this.generations[fd] + 1) & GENERATION_MASK;
    this.epoll.add(fd, events, this.token(fd, generation));
    this.generations[fd] = generation;
    this.handlers[fd] = handler;
    this.watchedCount++;
  }

  /** Changes the events of a watched descriptor. Throws SysError. */
  rewatch(fd: Fd, events: number): void {
    this.epoll.modify(fd, events, this.token(fd, this.generations[fd]));
  }

  /**
   * Stops watching `fd`, if it is watched, before it is closed. Events already collected for it are dropped. Throws
   * SysError.
   */
  unwatch(fd: Fd): void {
    if (this.handlers[fd] === undefined) return;
    this.handlers[fd] = undefined;
    this.generations[fd] = (this.generations[fd] + 1) & GENERATION_MASK;
    this.watchedCount--;
    this.epoll.remove(fd);
  }

  /** Runs `task` once, `milliseconds` from now or a little later. */
  setTimer(milliseconds: number, task: TimerTask): Timer {
    const timer = new HeapTimer(this.now() + milliseconds, task);
    this.timers.add(timer);
    return timer;
  }

  /** Takes a timer back; one that has expired or was cancelled is left alone. */
  cancelTimer(timer: Timer | undefined): void {
    if (timer instanceof HeapTimer) this.timers.remove(timer);
  }

  addPoller(poller: Poller): void {
    this.pollers.push(poller);
  }

  removePoller(poller: Poller): void {
    const index = this.pollers.indexOf(poller);
    if (index >= 0) this.pollers.splice(index, 1);
  }

  /** Runs `task` in the next turn, which will not sleep: for work that stopped at its share. Once per call. */
  defer(task: DeferredTask): void {
    this.deferred.push(task);
  }

  /** A monotonic clock in milliseconds, with fractions. Only differences mean anything. */
  now(): number {
    return performance.now();
  }

  /**
   * One turn: work left over, expired timers, then descriptors, sleeping until one is ready when there is nothing
   * else to do. `maxSleepMs` bounds the sleep (-1: not at all bounded; 0: never sleeps, for tests). Throws SysError.
   */
  turn(maxSleepMs = -1): void {
    let timeout = this.runDeferred() ? 0 : this.timeUntilTimer(maxSleepMs);
    let count = timeout === 0 ? this.pollOnce() : this.pollBriefly(timeout);
    if (count < 0) {
      timeout = this.mustStayAwake() ? 0 : this.timeUntilTimer(maxSleepMs);
      count = timeout === 0 ? this.epoll.wait(0) : this.sleep(timeout);
    }
    this.deliver(count);
    this.expireTimers();
  }

  /** Forgets everything and closes the epoll instance; watched descriptors stay their owners'. */
  close(): void {
    this.handlers.length = 0;
    this.pollers.length = 0;
    this.deferred.length = 0;
    this.epoll.close();
  }

  private token(fd: number, generation: number): number {
    return ((generation << FD_BITS) | fd) >>> 0;
  }

  private deliver(count: number): void {
    for (let index = 0; index < count; index++) {
      const token = this.epoll.tokenAt(index);
      const fd = token & FD_MASK;
      if (this.generations[fd] !== token >>> FD_BITS) continue;
      this.handlers[fd]?.ready(this.epoll.eventsAt(index));
    }
  }

  /** Returns whether there was any. */
  private runDeferred(): boolean {
    if (this.deferred.length === 0) return false;
    const tasks = this.deferred;
    this.deferred = this.running;
    this.running = tasks;
    for (const task of tasks) task.run();
    tasks.length = 0;
    return true;
  }

  private expireTimers(): void {
    let first = this.timers.first;
    if (first === undefined) return;
    const now = this.now();
    while (first !== undefined && first.deadline <= now) {
      this.timers.remove(first);
      first.task.timerExpired();
      first = this.timers.first;
    }
  }

  /** Whole milliseconds until the next timer, rounded up so that waking finds it expired; at most `bound` (-1: none). */
  private timeUntilTimer(bound: number): number {
    const first = this.timers.first;
    if (first === undefined) return bound;
    const wait = Math.max(0, Math.ceil(first.deadline - this.now()));
    return bound < 0 ? wait : Math.min(wait, bound);
  }

  /** One look at pollers and descriptors; the number of events. */
  private pollOnce(): number {
    for (const poller of this.pollers) poller.poll();
    return this.epoll.wait(0);
  }

  /** Looks for work for the present window. Returns the number of events, or -1 when there was nothing at all to do. */
  private pollBriefly(timeout: number): number {
    // Descriptors get their look even when the pollers are never out of work.
    if (this.pollAll()) return this.epoll.wait(0);
    if (this.pollWindowMs === 0) return -1;
    const end = this.now() + (timeout < 0 ? this.pollWindowMs : Math.min(timeout, this.pollWindowMs));
    do {
      const count = this.epoll.wait(0);
      if (count > 0) return count;
      for (let look = 0; look < POLLS_PER_EPOLL; look++) {
        if (this.pollAll()) return this.epoll.wait(0);
      }
    } while (this.now() < end);
    return -1;
  }

  private pollAll(): boolean {
    let worked = false;
    for (const poller of this.pollers) if (poller.poll()) worked = true;
    return worked;
  }

  /** Whether a poller found work while it asked for notifications, or left some to be run. */
  private mustStayAwake(): boolean {
    let busy = false;
    for (const poller of this.pollers) if (poller.armBeforeSleep()) busy = true;
    return busy || this.deferred.length > 0;
  }

  private sleep(timeout: number): number {
    if (this.busyPollMs === 0) return this.epoll.wait(timeout);
    const start = this.now();
    const count = this.epoll.wait(timeout);
    const slept = this.now() - start;
    if (slept > this.busyPollMs) this.pollWindowMs = 0;
    else this.pollWindowMs = Math.min(this.busyPollMs, Math.max(POLL_START_MS, this.pollWindowMs * POLL_GROWTH));
    return count;
  }
}
