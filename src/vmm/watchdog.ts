// Watches a guest's watchdog timer and says when its countdown has ended. Main thread.
//
// The guest tells of starts and of new periods through an eventfd, not of kicks: those only move the end away, which is
// seen when the timer that was set for the earlier end fires.
//
// A pause comes in two steps. From `defer` on no end is looked for, while the vCPUs are on their way out of the guest and
// may still feed the timer; from `pause` on they are out, and the countdown stands still. An end that comes in between is
// found by `resume`: it is not lost, and it does not meet a machine that is half paused.

import {
  createWatchdogShared,
  WatchdogHost,
  type WatchdogShared,
  type WatchdogSnapshot,
} from '../devices/legacy/watchdog.js';
import { createEventFd, drainEventFd } from '../platform/eventfd.js';
import { FdWatcher } from '../platform/fd-watcher.js';
import { close } from '../platform/libc.js';
import type { Fd } from '../platform/units.js';

/** setTimeout's limit is 2^31 - 1; a longer wait is looked at now and then. */
const LONGEST_WAIT_MS = 2 ** 30;

/** What a vCPU worker needs of a watchdog: plain data. */
export interface WatchdogHandles {
  readonly shared: WatchdogShared;
  readonly changedEvent: Fd;
}

export class WatchdogMonitor {
  readonly handles: WatchdogHandles;
  private readonly host: WatchdogHost;
  private readonly watcher: FdWatcher;
  private readonly expired: () => void;
  private timer: NodeJS.Timeout | undefined;
  private deferred = false;

  /** `expired` is called each time a countdown has ended; the guest's timer is stopped then. Throws SysError. */
  constructor(expired: () => void) {
    const shared = createWatchdogShared();
    this.expired = expired;
    this.host = new WatchdogHost(shared);
    this.handles = { shared, changedEvent: createEventFd() };
    this.watcher = new FdWatcher(this.handles.changedEvent, { readable: true }, () => {
      drainEventFd(this.handles.changedEvent);
      this.look();
    });
  }

  /** For a reset of the machine: the timer is stopped; what the guest reads of the last reset's reason stays. */
  reset(): void {
    this.host.reset();
    this.look();
  }

  save(): WatchdogSnapshot {
    return this.host.save();
  }

  /** As of a paused machine: the countdown goes on with `resume`. */
  restore(snapshot: WatchdogSnapshot): void {
    this.deferred = true;
    this.host.restore(snapshot);
    this.host.pause();
  }

  /** Until `resume`, nothing expires; a countdown that has ended by now still does, before this returns. */
  defer(): void {
    // Pauses that follow one another closely would else put the end off for ever.
    this.look();
    this.deferred = true;
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  /** After `defer`, when no vCPU runs: the countdown stands still. */
  pause(): void {
    this.host.pause();
  }

  resume(): void {
    this.deferred = false;
    this.host.resume();
    this.arm();
  }

  close(): void {
    clearTimeout(this.timer);
    this.watcher.close();
    close(this.handles.changedEvent);
  }

  private readonly look = (): void => {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.deferred) return;
    if (this.host.takeExpiry()) {
      this.expired();
      return;
    }
    this.arm();
  };

  /** Looks again when the countdown will have ended. */
  private arm(): void {
    const { left } = this.host;
    if (left !== undefined) this.timer = setTimeout(this.look, Math.min(Math.ceil(left), LONGEST_WAIT_MS));
  }
}
