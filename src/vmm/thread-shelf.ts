// The idle worker threads of one kind. Main thread.

import type { PooledThread } from './pooled-thread.js';

/** So many idle threads are kept when nobody asked for more. */
const MAX_IDLE = 8;
/** And for so long: a program that makes one VM after the other finds them, one that is through with VMs is rid of them. */
const IDLE_LIMIT_MS = 10_000;
/** Threads in place of those taken are started when nobody has taken any for so long, and with this much time between two. */
const REFILL_DELAY_MS = 100;

export class Shelf {
  private readonly make: () => PooledThread;
  private idle: PooledThread[] = [];
  /** How many are to be there at any time. */
  private wanted = 0;
  private refill: NodeJS.Timeout | undefined;

  /** `make` starts a thread. */
  constructor(make: () => PooledThread) {
    this.make = make;
  }

  /** Starts threads until `count` are there. */
  fill(count: number): void {
    while (this.idle.length < count) this.idle.push(this.newThread());
  }

  /** The one that was used last, whose code is the warmest. */
  takeIdle(): PooledThread | undefined {
    for (let thread = this.idle.pop(); thread !== undefined; thread = this.idle.pop()) {
      if (!thread.claim()) continue;
      if (this.idle.length < this.wanted) this.refillLater();
      return thread;
    }
    return undefined;
  }

  /** One beyond those that are to be there. */
  takeSurplus(): PooledThread | undefined {
    return this.idle.length > this.wanted ? this.takeIdle() : undefined;
  }

  /** One that is not there yet, and loads while it is told what to do. */
  takeNew(): PooledThread {
    const thread = this.newThread();
    thread.claim();
    return thread;
  }

  /** Keeps a thread that is done for the next who takes one. */
  put(thread: PooledThread): void {
    if (!thread.usable) return;
    if (this.idle.length >= Math.max(this.wanted, MAX_IDLE)) {
      void thread.end();
      return;
    }
    thread.rest(this.idle.length < this.wanted ? 0 : IDLE_LIMIT_MS);
    this.idle.push(thread);
  }

  /** Has at least `count` threads idle from now on. Resolves when they are loaded. */
  async keep(count: number): Promise<void> {
    this.wanted = Math.max(this.wanted, count);
    for (const thread of this.idle) thread.stay();
    this.fill(this.wanted);
    await Promise.all(this.idle.map((thread) => thread.untilLoaded()));
  }

  /** Ends what is idle, and wants none any more. Resolves when they have ended. */
  async clear(): Promise<void> {
    clearTimeout(this.refill);
    this.wanted = 0;
    const { idle } = this;
    this.idle = [];
    await Promise.all(idle.map((thread) => (thread.claim() ? thread.end() : thread.ended)));
  }

  private newThread(): PooledThread {
    const thread = this.make();
    void thread.ended.then(() => {
      this.idle = this.idle.filter((other) => other !== thread);
    });
    return thread;
  }

  /** One after the other, so that the VMs that took threads have the processors for their start. */
  private refillLater(): void {
    clearTimeout(this.refill);
    this.refill = setTimeout(() => {
      if (this.idle.length >= this.wanted) return;
      this.fill(this.idle.length + 1);
      this.refillLater();
    }, REFILL_DELAY_MS).unref();
  }
}
