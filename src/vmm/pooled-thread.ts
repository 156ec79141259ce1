// A worker thread that serves one VM after the other, as the pool holds it. Main thread; its other end is
// `worker-service.ts`.
//
// It takes some 45 ms to load, which is why it is worth keeping. An idle one waits in its own event loop, does not keep the
// process alive, and ends by itself when nobody has taken it within the time that it was given. So that it never ends just
// when a VM takes it, both sides take a shared word first.

import { Worker, type MessagePort } from 'node:worker_threads';
import { LoadingMark } from './loading-mark.js';
import { forget, loadBeforeEnd } from './process-end.js';
import {
  LEASE_ENDING,
  LEASE_FREE,
  LEASE_TAKEN,
  type FromService,
  type ServiceData,
  type ToService,
} from './worker-lease.js';

/** Whoever uses the thread. */
export interface Borrower {
  onMessage(message: unknown): void;
  onFailure(error: Error): void;
  /** What was started is over and its resources are released, or the thread has ended. */
  onDone(): void;
}

export class PooledThread {
  readonly worker: Worker;
  /** Resolves when it has ended. */
  readonly ended: Promise<void>;
  /** Resolves when its modules are there, or it has ended instead. */
  private readonly loaded: Promise<void>;
  private readonly lease: Int32Array;
  private borrower: Borrower | undefined;
  private failure: Error | undefined;
  private over = false;

  /** Starts the thread, which loads its modules while the caller goes on. `preload` is for its entry to understand. */
  constructor(name: string, entry: URL, preload: readonly string[]) {
    this.lease = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    const mark = new LoadingMark();
    const workerData: ServiceData = { lease: this.lease, loading: mark.buffer, preload };
    // No inherited flags: those of a test runner or an inspector are not for this thread.
    this.worker = new Worker(entry, { name, execArgv: [], stdin: false, workerData });
    loadBeforeEnd(mark);
    this.worker.unref();
    let settle: (() => void) | undefined;
    this.loaded = new Promise((resolve) => {
      settle = resolve;
    });
    const setLoaded = (): void => {
      forget(mark);
      settle?.();
    };
    this.worker.on('message', (message: FromService | { readonly type: 'of the VM' }) => {
      if (message.type === 'loaded') setLoaded();
      else if (message.type === 'done') this.borrower?.onDone();
      else this.borrower?.onMessage(message);
    });
    this.worker.on('error', (error) => {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    });
    this.ended = new Promise((resolve) => {
      this.worker.once('exit', (code) => {
        this.over = true;
        if (code !== 0) this.fail(new Error(`worker ${name} ended with code ${code}`));
        else if (this.borrower !== undefined) this.fail(new Error(`worker ${name} ended by itself`));
        setLoaded();
        this.borrower?.onDone();
        resolve();
      });
    });
  }

  /** Takes an idle thread, unless it has ended or is about to. */
  claim(): boolean {
    return Atomics.compareExchange(this.lease, 0, LEASE_FREE, LEASE_TAKEN) === LEASE_FREE && this.usable;
  }

  /** Whether it can serve: one that has failed once is not trusted again. */
  get usable(): boolean {
    return !this.over && this.failure === undefined;
  }

  /** For whoever has claimed it. */
  lend(borrower: Borrower): void {
    this.borrower = borrower;
    const { failure } = this;
    if (failure !== undefined) borrower.onFailure(failure);
  }

  /** The borrower is through with it: it does not keep the process alive any more. */
  takeBack(): void {
    this.borrower = undefined;
    this.worker.unref();
  }

  /** Lets an idle one wait for the next VM, for `limitMs` at most; 0: for ever. */
  rest(limitMs: number): void {
    Atomics.store(this.lease, 0, LEASE_FREE);
    this.tell({ type: 'rest', limitMs });
  }

  /** Resolves when an idle one can begin to work at once; the process waits for it meanwhile. */
  async untilLoaded(): Promise<void> {
    this.worker.ref();
    await this.loaded;
    // A VM may have taken it.
    if (this.borrower === undefined) this.worker.unref();
  }

  /** Lets an idle one wait for ever. */
  stay(): void {
    this.tell({ type: 'rest', limitMs: 0 });
  }

  /**
   * Ends one that has been claimed; the process waits for it. By a message, for terminating a worker that is still loading leaks the descriptors of its event loop.
   */
  end(): Promise<void> {
    Atomics.store(this.lease, 0, LEASE_ENDING);
    this.tell({ type: 'end' });
    this.worker.ref();
    return this.ended;
  }

  tell(message: ToService, transfer: readonly MessagePort[] = []): void {
    this.worker.postMessage(message, transfer);
  }

  private fail(error: Error): void {
    if (this.failure !== undefined) return;
    this.failure = error;
    this.borrower?.onFailure(error);
  }
}
