// What happens to a VM, for whoever watches it. Main thread.
//
// A listener is called at once, in the order of what happens. One that throws harms neither the VM nor other listeners:
// its error is thrown again outside, as Node does with an exception that nobody catches.

import { EventEmitter } from 'node:events';
import type { ConnectionInfo } from '../vsock/connection-info.js';
import type { EndReason } from '../vsock/endpoint.js';
import type { VmExit } from './exit.js';

/** What each event says beside its type; `unknown`: nothing. The events of a VM come in the order in which things happen. */
export interface VmEventDetails {
  /** The kernel is in memory, and the vCPUs are started. */
  booting: unknown;
  /** The first instruction is about to run. */
  booted: unknown;
  /** The guest has reset itself, or its watchdog has. What follows is `rebooting`, or the end. */
  reset: unknown;
  /** The same devices, cleared memory, the kernel loaded again: `booting` and `booted` come in between. */
  rebooting: unknown;
  /** The guest runs again. */
  rebooted: unknown;
  /** `pause` has begun. */
  pausing: unknown;
  /** No vCPU runs and no device moves a byte. */
  paused: unknown;
  /** `resume` has begun. */
  resuming: unknown;
  /** The guest goes on. */
  resumed: unknown;
  /** A snapshot is being written into the folder. */
  snapshotting: {
    /** The folder. */
    readonly directory: string;
  };
  /** The snapshot is whole. */
  snapshotted: {
    /** The folder. */
    readonly directory: string;
  };
  /** `Vm.restore` has begun. Comes before there is a VM to show: `onEvent` hears it. */
  restoring: {
    /** The snapshot's folder. */
    readonly directory: string;
  };
  /** The VM is back and paused. Only `onEvent` hears it. */
  restored: {
    /** The snapshot's folder. */
    readonly directory: string;
  };
  /** The guest said through pvpanic that its kernel panicked. */
  panicked: unknown;
  /** The guest said through pvpanic that its kernel panicked and a crash kernel takes over. */
  'crash-loaded': unknown;
  /** The guest's watchdog has run out, which resets the machine. */
  'watchdog-expired': unknown;
  /** Everything is released; `exited` is about to settle. The last event. */
  shutdown: {
    /** How it ended. */
    readonly exit: VmExit;
  };
  /** A vsock connection is established. These three cost something only while somebody listens to one of them. */
  'vsock-connected': {
    /** As it is at its beginning. */
    readonly connection: ConnectionInfo;
  };
  /** A vsock connection has ended. */
  'vsock-disconnected': {
    /** As it was at its end. */
    readonly connection: ConnectionInfo;
    /** Why it ended. */
    readonly reason: EndReason;
  };
  /** Connections came and went faster than they could be told of. */
  'vsock-missed': {
    /** How many events are missing here. */
    readonly count: number;
  };
}

/** The name of an event. */
export type VmEventType = keyof VmEventDetails;
/** An event of one type, as its listeners get it. */
export type VmEventOf<T extends VmEventType> = {
  /** Which event it is. */
  readonly type: T;
} & (unknown extends VmEventDetails[T] ? unknown : VmEventDetails[T]);
/** Any event; `type` tells which. */
export type VmEvent = { [T in VmEventType]: VmEventOf<T> }[VmEventType];

const VSOCK_TYPES: ReadonlySet<unknown> = new Set<VmEventType>([
  'vsock-connected',
  'vsock-disconnected',
  'vsock-missed',
]);

/** Whether it is about a single vsock connection: of those there may be a great many. */
export function isVsockEvent(event: VmEvent): boolean {
  return VSOCK_TYPES.has(event.type);
}

/**
 * The events of one VM, by their types, on the main thread. A listener that throws does no harm to the VM: its error is
 * thrown again outside, as an uncaught exception.
 *
 * @example
 * ```ts
 * import { Vm } from 'tsvmm';
 *
 * const vm = await Vm.create({ pvpanic: true });
 * vm.events.on('panicked', () => console.error('the guest panicked'));
 * vm.events.once('shutdown', ({ exit }) => console.log(exit.reason));
 * ```
 */
export class VmEvents extends EventEmitter<{ [T in VmEventType]: [event: VmEventOf<T>] }> {
  private readonly counts = new Map<VmEventType, number>();
  private vsockWatched = false;

  /** How often an event of this type has happened. */
  countOf(type: VmEventType): number {
    return this.counts.get(type) ?? 0;
  }

  /** @internal The VM tells its listeners. */
  tell(event: VmEvent): void {
    this.counts.set(event.type, this.countOf(event.type) + 1);
    for (const listener of this.rawListeners(event.type)) protect(() => (listener as VmEventListener)(event));
  }

  /** @internal `watch` is called with whether anybody listens to vsock events, now and when that changes. */
  onVsockInterest(watch: (on: boolean) => void): void {
    const look = (): void => {
      const watched = [...VSOCK_TYPES].some((type) => this.listenerCount(type as VmEventType) > 0);
      if (watched === this.vsockWatched) return;
      this.vsockWatched = watched;
      watch(watched);
    };
    // Node tells of a listener before it is there, and types these two events for no map but its own.
    const own = this as EventEmitter;
    own.on('newListener', (type: unknown) => {
      if (VSOCK_TYPES.has(type)) queueMicrotask(look);
    });
    own.on('removeListener', (type: unknown) => {
      if (VSOCK_TYPES.has(type)) look();
    });
    watch(this.vsockWatched);
    look();
  }
}

export type VmEventListener = (event: VmEvent) => void;

/** Calls `action`; what it throws is nobody's here. */
export function protect(action: () => void): void {
  try {
    action();
  } catch (error) {
    process.nextTick(() => {
      throw error;
    });
  }
}
