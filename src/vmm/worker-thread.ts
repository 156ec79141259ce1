// One worker thread as the main thread holds it while a VM uses it: told once, kicked out of what it waits in, and joined
// within a bounded time. Main thread.
//
// The thread itself outlives the VM (`pooled-thread.ts`); a WorkerThread is its use by one VM, and of no use afterwards.

import type { MessagePort } from 'node:worker_threads';
import type { PooledThread } from './pooled-thread.js';

/** Between two kicks of a worker that was asked to stop. */
const KICK_INTERVAL_MS = 5;
/** After this long a worker that does not end is a bug; the VM's end reports it. */
const JOIN_LIMIT_MS = 5000;

export interface WorkerHandlers<M> {
  onMessage(message: M): void;
  /** The thread ended although nobody had asked it to, or threw. */
  onFailure(error: Error): void;
}

/** A worker that gets one message `S` to work, and sends messages of type `M`. */
export class WorkerThread<S, M> {
  private readonly thread: PooledThread;
  private readonly giveBack: (thread: PooledThread) => void;
  private readonly done: Promise<void>;
  private handlers: WorkerHandlers<M> | undefined;
  private failure: Error | undefined;
  private started = false;
  private joining = false;
  private left = false;

  /** `giveBack` gets the thread when it has been joined and may serve another VM. */
  constructor(thread: PooledThread, giveBack: (thread: PooledThread) => void) {
    this.thread = thread;
    this.giveBack = giveBack;
    this.done = new Promise((resolve) => {
      thread.lend({
        onMessage: (message) => this.handlers?.onMessage(message as M),
        onFailure: (error) => {
          this.fail(error);
        },
        onDone: resolve,
      });
    });
  }

  /** Says who hears of the thread from here on, and keeps the process alive with it. */
  attach(handlers: WorkerHandlers<M>): this {
    this.handlers = handlers;
    this.thread.worker.ref();
    const { failure } = this;
    if (failure !== undefined) {
      queueMicrotask(() => {
        handlers.onFailure(failure);
      });
    }
    return this;
  }

  /** Hands over everything the thread needs, `transfer` for good; from here on it blocks outside JavaScript. */
  start(message: S, transfer: readonly MessagePort[] = []): void {
    this.started = true;
    this.thread.tell({ type: 'start', start: message }, transfer);
  }

  /** Leaves a message that the thread reads by itself, outside its event loop. */
  post(message: unknown): void {
    this.thread.worker.postMessage(message);
  }

  /**
   * Waits until the thread is done, calling `kick` again and again to take it out of a blocking call. Returns whether it
   * was in time; it is not this VM's any more then.
   */
  async join(kick: () => void): Promise<boolean> {
    this.joining = true;
    if (this.started && !(await this.isDone(kick))) return false;
    this.leave();
    return true;
  }

  /** Once, however often it is joined. */
  private leave(): void {
    if (this.left) return;
    this.left = true;
    this.thread.takeBack();
    this.giveBack(this.thread);
  }

  private async isDone(kick: () => void): Promise<boolean> {
    kick();
    const kicks = setInterval(kick, KICK_INTERVAL_MS);
    let limit: NodeJS.Timeout | undefined;
    const timeout = new Promise<false>((resolve) => {
      limit = setTimeout(() => {
        resolve(false);
      }, JOIN_LIMIT_MS);
    });
    try {
      return await Promise.race([this.done.then(() => true), timeout]);
    } finally {
      clearInterval(kicks);
      clearTimeout(limit);
    }
  }

  private fail(error: Error): void {
    if (this.failure !== undefined || this.joining) return;
    this.failure = error;
    this.handlers?.onFailure(error);
  }
}
