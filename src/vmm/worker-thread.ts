// One worker thread as the main thread holds it: started early, told once, and joined within a bounded time.

import { Worker, type MessagePort } from 'node:worker_threads';
import { LoadingMark } from './loading-mark.js';
import { forget, loadBeforeEnd } from './process-end.js';

/** Between two kicks of a worker that was asked to stop. */
const KICK_INTERVAL_MS = 5;
/** After this long a worker that does not end is a bug; the VM's end reports it. */
const JOIN_LIMIT_MS = 5000;

export interface WorkerHandlers<M> {
  onMessage(message: M): void;
  /** The thread ended although nobody had asked it to, or threw. */
  onFailure(error: Error): void;
}

/** A worker that gets one message, `S` to work or undefined to end, and sends messages of type `M`. */
export class WorkerThread<S, M> {
  private readonly worker: Worker;
  private readonly ended: Promise<void>;
  private handlers: WorkerHandlers<M> | undefined;
  private failure: Error | undefined;
  private started = false;
  private joining = false;

  /** Starts the thread; it loads its modules while the caller goes on. It does not keep the process alive yet. */
  constructor(name: string, entry: URL, data: Readonly<Record<string, unknown>> = {}) {
    const mark = new LoadingMark();
    const workerData = { ...data, loading: mark.buffer };
    // No inherited flags: those of a test runner or an inspector are not for this thread.
    this.worker = new Worker(entry, { name, execArgv: [], stdin: false, workerData });
    loadBeforeEnd(mark);
    this.worker.unref();
    this.worker.on('message', (message: M) => this.handlers?.onMessage(message));
    this.worker.on('error', (error) => {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    });
    this.ended = new Promise((resolve) => {
      this.worker.once('exit', (code) => {
        forget(mark);
        if (code !== 0) this.fail(new Error(`worker ${name} ended with code ${code}`));
        resolve();
      });
    });
  }

  /** Says who hears of the thread from here on, and keeps the process alive with it. */
  attach(handlers: WorkerHandlers<M>): this {
    this.handlers = handlers;
    this.worker.ref();
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
    this.worker.postMessage(message, transfer);
  }

  /** Leaves a message that the thread reads by itself, outside its event loop. */
  post(message: unknown): void {
    this.worker.postMessage(message);
  }

  /**
   * Waits for the thread's end, calling `kick` again and again to take it out of a blocking call. Returns whether it
   * ended in time.
   */
  async join(kick: () => void): Promise<boolean> {
    this.joining = true;
    // One that never started waits for its message and ends by itself without one. (Terminating a worker that is
    // still loading leaks the descriptors of its event loop.)
    if (!this.started) this.worker.postMessage(undefined);
    kick();
    const kicks = setInterval(kick, KICK_INTERVAL_MS);
    let limit: NodeJS.Timeout | undefined;
    const timeout = new Promise<false>((resolve) => {
      limit = setTimeout(() => {
        resolve(false);
      }, JOIN_LIMIT_MS);
    });
    try {
      return await Promise.race([this.ended.then(() => true), timeout]);
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
