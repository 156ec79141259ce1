// A pool of clones of one snapshot: VMs that are up before they are asked for. Each is used once, so that no user finds
// what another has left behind; a new one takes its place.
//
// Copy this file into a program of your own, where the import is from 'tsvmm'. It knows nothing of what the VMs are for.

import { Vm, type SnapshotOverrides } from '../src/index.js';

export interface PoolOptions {
  /** Folder of the snapshot. */
  readonly snapshot: string;
  /** Clones that wait ready for the next users. */
  readonly min: number;
  /** Clones at most, those in use included: what bounds the memory. */
  readonly max: number;
  /** Users that may wait for a clone; one more is refused. */
  readonly maxQueue: number;
  /** What a clone has of its own, such as a vsock socket or a disk; clones that share those refuse to start. */
  readonly overrides?: (serial: number) => SnapshotOverrides;
  /** What is to be done before a clone counts as ready, such as a first round trip to it. */
  readonly prepare?: (vm: Vm) => Promise<void>;
}

export interface PoolCounts {
  /** Waiting for a user, in use, and being made, at present. */
  readonly ready: number;
  readonly busy: number;
  readonly making: number;
  /** Users that wait. */
  readonly queued: number;
  /** Since the beginning: clones made, and those that ended by themselves before anybody used them. */
  readonly made: number;
  readonly crashed: number;
}

/** Why there is no clone for a user. */
export class PoolError extends Error {
  override readonly name = 'PoolError';
  readonly code: 'QUEUE_FULL' | 'CLOSED';

  constructor(code: PoolError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

interface Waiter {
  take(vm: Vm): void;
  fail(error: unknown): void;
}

export class ClonePool {
  private readonly options: PoolOptions;
  private readonly ready = new Set<Vm>();
  private readonly busy = new Set<Vm>();
  /** Those that are being made or taken down. */
  private readonly changing = new Set<Promise<void>>();
  private readonly queue: Waiter[] = [];
  private making = 0;
  private made = 0;
  private crashed = 0;
  /** How many have crashed unused since a user was last served: with too many the snapshot is to blame. */
  private crashedInRow = 0;
  private closed = false;
  /** Called when the last clone has been given back. */
  private readonly onDrained: (() => void)[] = [];

  /** Throws RangeError for bounds that contradict each other. The first clones are made at once, in the background. */
  constructor(options: PoolOptions) {
    const { min, max, maxQueue } = options;
    if (!(min >= 0 && max >= 1 && min <= max && maxQueue >= 0)) {
      throw new RangeError(`a pool of ${min} to ${max} clones, with ${maxQueue} users waiting, cannot be`);
    }
    this.options = options;
    this.fill();
  }

  get counts(): PoolCounts {
    const { ready, busy, making, queue, made, crashed } = this;
    return { ready: ready.size, busy: busy.size, making, queued: queue.length, made, crashed };
  }

  /**
   * A clone of one's own, which runs; `release` it in any case. Waits while all are in use, in the order of the calls.
   * Rejects with PoolError, with the signal's reason, or with what kept a clone from being made.
   */
  async acquire(signal?: AbortSignal): Promise<Vm> {
    signal?.throwIfAborted();
    if (this.closed) throw new PoolError('CLOSED', 'the pool is closed');
    const vm = this.ready.values().next().value;
    if (vm !== undefined) {
      this.ready.delete(vm);
      this.serve(vm);
      this.fill();
      return vm;
    }
    const { maxQueue } = this.options;
    if (this.queue.length >= maxQueue + this.unpromised) {
      throw new PoolError('QUEUE_FULL', `all clones are in use, and ${maxQueue} users wait already`);
    }
    return this.wait(signal);
  }

  /** Gives a clone back, whatever has become of it: it is stopped. Settles when its memory is free. */
  async release(vm: Vm): Promise<void> {
    if (!this.busy.has(vm)) return;
    await vm.stop();
    this.busy.delete(vm);
    this.fill();
    if (this.busy.size === 0) for (const drained of this.onDrained.splice(0)) drained();
  }

  /** Runs `job` in a clone of its own. */
  async use<T>(job: (vm: Vm) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const vm = await this.acquire(signal);
    try {
      return await job(vm);
    } finally {
      await this.release(vm);
    }
  }

  /**
   * Turns new users and those that wait away, lets those that have a clone finish, and stops all others. With
   * `now` nobody is let finish. Settles when every clone is gone.
   */
  async close({ now = false }: { readonly now?: boolean } = {}): Promise<void> {
    this.closed = true;
    for (const waiter of this.queue.splice(0)) waiter.fail(new PoolError('CLOSED', 'the pool was closed'));
    const stopped = [...this.ready, ...(now ? this.busy : [])].map((vm) => vm.stop());
    this.ready.clear();
    await Promise.all(stopped);
    if (!now && this.busy.size > 0) {
      await new Promise<void>((resolve) => {
        this.onDrained.push(resolve);
      });
    }
    await Promise.all(this.changing);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close({ now: true });
  }

  /** Clones that nobody has been promised: users up to this number are served without waiting for another to finish. */
  private get unpromised(): number {
    return this.options.max - this.busy.size;
  }

  private wait(signal: AbortSignal | undefined): Promise<Vm> {
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        signal?.removeEventListener('abort', onAbort);
        const place = this.queue.indexOf(waiter);
        if (place >= 0) this.queue.splice(place, 1);
      };
      const waiter: Waiter = {
        take: (vm) => {
          leave();
          resolve(vm);
        },
        fail: (error) => {
          leave();
          reject(error instanceof Error ? error : new Error(String(error)));
        },
      };
      const onAbort = (): void => waiter.fail(signal?.reason);
      signal?.addEventListener('abort', onAbort);
      this.queue.push(waiter);
      this.fill();
    });
  }

  /** Makes as many clones as users wait for and `min` wants, within `max`. */
  private fill(): void {
    if (this.closed) return;
    const { min, max } = this.options;
    const ahead = this.crashedInRow > max ? 0 : min;
    const wanted = Math.max(ahead, this.queue.length);
    while (this.ready.size + this.making < wanted && this.ready.size + this.making + this.busy.size < max) {
      this.making++;
      const change = this.make().finally(() => this.changing.delete(change));
      this.changing.add(change);
    }
  }

  private async make(): Promise<void> {
    let vm: Vm | undefined;
    try {
      const { snapshot, overrides, prepare } = this.options;
      const serial = this.made++;
      vm = await Vm.restore(snapshot, { overrides: overrides?.(serial) ?? {} });
      await vm.resume();
      await prepare?.(vm);
      this.making--;
    } catch (error) {
      await vm?.stop();
      this.making--;
      // Whoever waits is told why, and the next user is a new attempt. Without users there is no hurry to fail again.
      this.queue.at(0)?.fail(error);
      if (this.queue.length > 0) this.fill();
      return;
    }
    if (this.closed) await vm.stop();
    else this.offer(vm);
  }

  /** To the user that has waited longest, or to wait for one. */
  private offer(vm: Vm): void {
    const first = this.queue.at(0);
    if (first !== undefined) {
      this.serve(vm);
      first.take(vm);
      return;
    }
    this.ready.add(vm);
    void vm.exited.then(() => {
      // Nobody had it: it ended by itself.
      if (!this.ready.delete(vm)) return;
      this.crashed++;
      this.crashedInRow++;
      this.fill();
    });
  }

  private serve(vm: Vm): void {
    this.crashedInRow = 0;
    this.busy.add(vm);
  }
}
