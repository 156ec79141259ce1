// Watches descriptors on Node's own event loop (libuv), for the main thread, which must not block in epoll_wait.

import koffi from 'koffi';
import type { Fd } from './units.js';

type PollHandle = ReturnType<typeof koffi.node.poll>;

/** What a watched descriptor is ready for. */
export interface FdReadiness {
  readonly readable: boolean;
  readonly writable: boolean;
}

/** Calls back whenever a descriptor is ready (level-triggered). `close` stops it; the descriptor stays the caller's. */
export class FdWatcher {
  private readonly handle: PollHandle;

  constructor(fd: Fd, interest: Partial<FdReadiness>, onReady: (readiness: FdReadiness) => void) {
    this.handle = koffi.node.poll(
      fd,
      { readable: interest.readable ?? false, writable: interest.writable ?? false },
      onReady,
    );
  }

  /** Lets the process end although this watcher is open. */
  unref(): void {
    this.handle.unref();
  }

  close(): void {
    this.handle.close();
  }
}
