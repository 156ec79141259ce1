// What the main thread and its workers tell each other: plain data only, since it crosses threads.

import type { BootState } from '../boot/state.js';
import type { SerialShared } from '../devices/legacy/serial-shared.js';
import type { MemoryMap } from '../platform/guest-memory.js';
import type { Fd } from '../platform/units.js';
import type { InProcessHandles } from '../vsock/in-process/host.js';
import type { PeerSocket } from '../vsock/sibling.js';
import type { CpuidEntry } from './kvm/system.js';
import type { VcpuOutcome } from './vcpu-loop.js';

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

/** The one message a vCPU worker gets: everything it needs to run to the end. */
export interface VcpuStart {
  readonly index: number;
  readonly vmFd: Fd;
  readonly mmapSize: number;
  readonly cpuid: readonly CpuidEntry[];
  readonly boot: BootState;
  readonly control: SharedArrayBuffer;
  readonly devices: readonly MmioDeviceHandles[];
  readonly serial: SerialHandles | undefined;
}

/** From a vCPU worker. After `outcome` it ends by itself. */
export type VcpuMessage =
  /** About to enter the guest. Milliseconds since the epoch: when the worker's modules were loaded, and now. */
  | { readonly type: 'running'; readonly modulesLoaded: number; readonly entering: number }
  | { readonly type: 'outcome'; readonly outcome: VcpuOutcome }
  | { readonly type: 'failed'; readonly message: string; readonly stack: string | undefined };

/** The vsock device for an I/O worker. */
export interface VsockHandles extends MmioDeviceHandles {
  readonly irqEvent: Fd;
  readonly guestCid: number;
  readonly socketPath: string | undefined;
  readonly listener: Fd | undefined;
  readonly seqpacketListener: Fd | undefined;
  /** `inProcess.port` is transferred with the message. */
  readonly inProcess: InProcessHandles;
  readonly peers: readonly PeerSocket[] | undefined;
  readonly maxConnections: number | undefined;
  readonly bufAlloc: number | undefined;
  readonly connectTimeoutMs: number | undefined;
  readonly busyPollMicroseconds: number | undefined;
  /** Whether to log each connection that ends. */
  readonly logConnections: boolean;
  /** See VsockCounters. */
  readonly counters: SharedArrayBuffer;
}

/** The one message an I/O worker gets. */
export interface IoStart {
  readonly control: SharedArrayBuffer;
  /** Signalled after the control block's stop word was set. */
  readonly stopEvent: Fd;
  readonly memory: MemoryMap;
  readonly vsock: VsockHandles;
}

/** From an I/O worker. After `stopped` it ends by itself. */
export type IoMessage =
  | { readonly type: 'running' }
  | { readonly type: 'log'; readonly level: LogLevel; readonly component: string; readonly message: string }
  | { readonly type: 'stopped' }
  | { readonly type: 'failed'; readonly message: string; readonly stack: string | undefined };
