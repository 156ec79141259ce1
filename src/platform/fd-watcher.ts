// Watches descriptors on Node's own event loop (libuv), for the main thread, which must not block in epoll_wait.

import koffi from 'koffi';
import type { Fd } from './units.js';

type PollHandle = ReturnType<typeof koffi.node.poll>;

/** What a descriptor is to be ready for. */
export interface FdReadiness {
  readonly readable: boolean;
  readonly writable: boolean;
}

/** Calls back whenever a descriptor is ready (level-triggered). `close` stops it; the descriptor stays the caller's. */
export class FdWatcher {
  private readonly handle: PollHandle;
  private closed = false;

  constructor(fd: Fd, interest: Partial<FdReadiness>, onReady: () => void) {
    const options = { readable: interest.readable ?? false, writable: interest.writable ?? false };
    // koffi calls back outside Node's own bookkeeping: an exception would be lost and promises would not go on. The
    // check phase comes next in the same turn of the loop and has both.
    let scheduled = false;
    this.handle = koffi.node.poll(fd, options, () => {
      if (scheduled) return;
      scheduled = true;
      setImmediate(() => {
        scheduled = false;
        if (!this.closed) onReady();
      });
    });
  }

  /** Lets the process end although this watcher is open. */
  unref(): void {
    this.handle.unref();
  }

  close(): void {
    this.closed = true;
    this.handle.close();
  }
}
