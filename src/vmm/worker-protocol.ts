// What the main thread and its workers tell each other: plain data only, since it crosses threads.

import type { MessagePort } from 'node:worker_threads';
import type { BootState } from '../boot/state.js';
import type { EventDeviceShared } from '../devices/legacy/event-device.js';
import type { DebugConsoleShared } from '../devices/legacy/debug-console.js';
import type { I8042Shared } from '../devices/legacy/i8042.js';
import type { GuestPanicEvent } from '../devices/legacy/pvpanic.js';
import type { SerialShared } from '../devices/legacy/serial-shared.js';
import type { DeviceCommand } from '../devices/virtio/device.js';
import type { MemoryMap } from '../platform/guest-memory.js';
import type { Fd } from '../platform/units.js';
import type { DeviceSettings } from './device-kinds.js';
import type { CpuidEntry } from './kvm/system.js';
import type { BackendState } from './mmio-backend.js';
import type { VcpuSnapshot } from './snapshot/vcpu.js';
import type { VcpuOutcome } from './vcpu-loop.js';
import type { WatchdogHandles } from './watchdog.js';

/** How grave a line of the log is. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug';

/** A virtio-mmio device as vCPU threads need it, in the order of their pages. */
export interface MmioDeviceHandles {
  readonly page: SharedArrayBuffer;
  /** Wakes the I/O worker for an activation or a reset. */
  readonly requestEvent: Fd;
  /** Wakes the I/O worker for a queue; KVM signals them too. */
  readonly queueEvents: readonly Fd[];
}

export interface SerialHandles {
  readonly shared: SerialShared;
  readonly irqEvent: Fd;
  readonly wakeEvent: Fd;
}

export interface EventDeviceHandles {
  readonly shared: EventDeviceShared;
  readonly irqEvent: Fd;
}

export interface DebugConsoleHandles {
  readonly shared: DebugConsoleShared;
  readonly wakeEvent: Fd;
  readonly port: number;
}

/** The devices on the port bus, as all vCPU threads share them. */
export interface PortHandles {
  readonly serial: SerialHandles | undefined;
  readonly i8042: I8042Shared;
  readonly events: EventDeviceHandles;
  readonly debugConsole: DebugConsoleHandles | undefined;
  readonly watchdog: WatchdogHandles | undefined;
  /** Whether there is a port where the guest tells that it panicked. */
  readonly pvpanic: boolean;
}

/** Where a vCPU begins. */
export type VcpuBegin =
  /** At the guest's first instruction: the boot processor. */
  | { readonly kind: 'boot'; readonly boot: BootState }
  /** Out of reset, waiting to be woken by the boot processor. */
  | { readonly kind: 'wait' }
  /** Where a saved one was, `elapsedNs` ago. */
  | { readonly kind: 'restore'; readonly state: VcpuSnapshot; readonly elapsedNs: bigint };

/** The one message a vCPU worker gets: everything it needs to run to the end. */
export interface VcpuStart {
  readonly index: number;
  /** vCPUs of the machine: the boot processor, 0, waits until all are there. */
  readonly vcpuCount: number;
  /** Host processors that the thread may run on; all if undefined. */
  readonly affinity: readonly number[] | undefined;
  readonly vmFd: Fd;
  readonly mmapSize: number;
  readonly cpuid: readonly CpuidEntry[];
  readonly begin: VcpuBegin;
  readonly control: SharedArrayBuffer;
  readonly devices: readonly MmioDeviceHandles[];
  readonly ports: PortHandles;
}

/** What a guest says of itself through a port. */
export type GuestEvent = GuestPanicEvent;

/** From a vCPU worker. After `failed` it ends by itself. */
export type VcpuMessage =
  /** About to enter the guest. Milliseconds since the epoch: when the worker's modules were loaded, and now. */
  | { readonly type: 'running'; readonly modulesLoaded: number; readonly entering: number }
  | { readonly type: 'event'; readonly event: GuestEvent }
  /** Outside the guest by the order of that name, until it is told to run again. */
  | { readonly type: 'parked'; readonly order: number }
  | { readonly type: 'state'; readonly state: VcpuSnapshot }
  | { readonly type: 'outcome'; readonly outcome: VcpuOutcome }
  | { readonly type: 'failed'; readonly message: string; readonly stack: string | undefined };

/** One device of an I/O worker. */
export interface DeviceStart {
  readonly id: string;
  readonly handles: MmioDeviceHandles & { readonly irqEvent: Fd };
  readonly settings: DeviceSettings;
  /** A Float64Array as long as the kind has counters. */
  readonly counters: SharedArrayBuffer;
  /** What a saved device was doing, if it goes on from there. */
  readonly restored?: BackendState;
}

/** The one message an I/O worker gets. */
export interface IoStart {
  readonly control: SharedArrayBuffer;
  /** Signalled after the control block's stop word was set. */
  readonly stopEvent: Fd;
  readonly memory: MemoryMap;
  /** The longest time to look for work before sleeping. */
  readonly busyPollMicroseconds: number;
  /** Whether to wait for `resume` before anything is done. */
  readonly paused: boolean;
  readonly devices: readonly DeviceStart[];
  /** Brings IoCommands while the worker runs; transferred with the message. */
  readonly commands: MessagePort;
  /** Signalled after a command was posted. */
  readonly commandEvent: Fd;
}

/** For an I/O worker while it runs. */
export type IoCommand =
  /** `device` is the device's place in `IoStart.devices`. */
  | { readonly type: 'device'; readonly device: number; readonly command: DeviceCommand }
  /** To touch no ring and no host resource until `resume`; answered with `paused`. */
  | { readonly type: 'pause' }
  /** Only when paused; answered with `state`. */
  | { readonly type: 'save' }
  | { readonly type: 'resume' };

/** From an I/O worker. After `failed` it ends by itself. */
export type IoMessage =
  | { readonly type: 'running' }
  | { readonly type: 'log'; readonly level: LogLevel; readonly component: string; readonly message: string }
  | { readonly type: 'paused' }
  /** In the order of `IoStart.devices`. */
  | { readonly type: 'state'; readonly devices: readonly BackendState[] }
  /** Instead of `state`: a device cannot be saved, and why. */
  | { readonly type: 'not-saved'; readonly reason: string }
  | { readonly type: 'failed'; readonly message: string; readonly stack: string | undefined };
