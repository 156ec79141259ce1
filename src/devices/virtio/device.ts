// The seam between a virtio transport and a device: what an I/O worker calls on a device, and what a device may use.

import type { EventLoop } from '../../platform/event-loop.js';
import type { GuestMemory } from '../../platform/guest-memory.js';
import type { SplitQueue } from './queue.js';

// Device status bits (virtio 1.2, 2.1).
export const STATUS_ACKNOWLEDGE = 1;
export const STATUS_DRIVER = 2;
export const STATUS_DRIVER_OK = 4;
export const STATUS_FEATURES_OK = 8;
export const STATUS_DEVICE_NEEDS_RESET = 0x40;
export const STATUS_FAILED = 0x80;

// Feature bits, as indices (2.2, 6). Device-specific ones (0 to 23) live with their device.
export const VIRTIO_RING_F_INDIRECT_DESC_BIT = 28;
export const VIRTIO_RING_F_EVENT_IDX_BIT = 29;
export const VIRTIO_F_VERSION_1_BIT = 32;

// Device types (5).
export const VIRTIO_ID_NET = 1;
export const VIRTIO_ID_BLOCK = 2;
export const VIRTIO_ID_CONSOLE = 3;
export const VIRTIO_ID_RNG = 4;
export const VIRTIO_ID_BALLOON = 5;
export const VIRTIO_ID_VSOCK = 19;
export const VIRTIO_ID_PMEM = 27;

/** A 64-bit feature word as two unsigned halves. */
export interface FeatureWords {
  readonly low: number;
  readonly high: number;
}

/** The features with the given bit indices (0 to 63). */
export function featureWords(bits: readonly number[]): FeatureWords {
  let low = 0;
  let high = 0;
  for (const bit of bits) {
    if (bit < 32) low |= 1 << bit;
    else high |= 1 << (bit - 32);
  }
  return { low: low >>> 0, high: high >>> 0 };
}

/** Whether bit `bit` (0 to 63) is set. */
export function hasFeature(features: FeatureWords, bit: number): boolean {
  return ((bit < 32 ? features.low >>> bit : features.high >>> (bit - 32)) & 1) !== 0;
}

/** How a device interrupts its driver. */
export interface DeviceInterrupt {
  /** Used buffers were published (ISR bit 0). */
  usedBuffers(): void;
  /** The configuration space changed (ISR bit 1). */
  configurationChanged(): void;
  /** The driver broke the protocol: sets DEVICE_NEEDS_RESET and says so. */
  needsReset(): void;
}

/** Everything a device gets when its driver sets DRIVER_OK, and loses at reset. */
export interface Activation {
  readonly memory: GuestMemory;
  /** One per queue; `undefined` for a queue that the driver left unused. */
  readonly queues: readonly (SplitQueue | undefined)[];
  /** What the driver accepted. */
  readonly features: FeatureWords;
  readonly interrupt: DeviceInterrupt;
}

export type DeviceLogLevel = 'error' | 'warn' | 'info' | 'debug';

/** What an I/O worker gives a device when it makes it. */
export interface DeviceContext {
  readonly loop: EventLoop;
  readonly log: (level: DeviceLogLevel, message: string) => void;
  /** Replaces bytes of the configuration space and interrupts the driver for it (ISR bit 1) if there is one. */
  readonly updateConfig: (offset: number, bytes: Uint8Array) => void;
  /** The device's counters, in the order of the names that its kind declares; this worker is their one writer. */
  readonly counters: Float64Array;
}

/** What the main thread can ask of a device while it runs. */
export type DeviceCommand =
  /** The balloon's size in bytes from now on. */
  | { readonly type: 'resize-balloon'; readonly size: number }
  /** The guest is asked for new statistics; the counters have them when it has answered. */
  | { readonly type: 'refresh-balloon-statistics' };

/** What a device keeps over a snapshot beside its queues and its configuration space. */
export type DeviceState = Readonly<Record<string, number | string | boolean>>;

/** A device as its I/O worker drives it. Every method runs on that worker and returns soon. */
export interface VirtioDevice {
  /** The driver is ready. All queues are looked at once, since a kick may have come before. */
  activate(activation: Activation): void;
  /** Back to the state before `activate`: no queue is touched afterwards. Called in any state. */
  reset(): void;
  /** The driver made buffers available in queue `index`. */
  queueNotified(index: number): void;
  /** The driver wrote to a writable field of the configuration space; `config` is the live space. */
  configWritten?(config: Uint8Array): void;
  command?(command: DeviceCommand): void;
  /**
   * The machine is being paused: puts back (`SplitQueue.unpop`) or completes every chain it holds, so that the queues'
   * positions say all there is to know of them. It goes on by itself at the next notification, timer or descriptor.
   */
  quiesce?(): void;
  /** After `quiesce`: what else a saved device has to keep. Plain JSON. Throws Error when it cannot be saved. */
  save?(): DeviceState;
  /** After `activate`: goes on from `state` in a restored machine. Throws Error for a state that cannot be. */
  restore?(state: DeviceState): void;
  /** Releases everything the device owns. */
  close(): void;
}
