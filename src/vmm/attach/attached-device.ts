// What a device is on the main thread: made from its section of the configuration before the guest starts. One file here
// for each kind opens what the device needs of the host and says what crosses to the I/O worker.

import type { MmioDeviceIdentity } from '../../devices/virtio/mmio.js';
import type { MemoryMap } from '../../platform/guest-memory.js';
import type { DeviceSettings } from '../device-kinds.js';
import type { ReleaseStack } from '../release-stack.js';
import type { LogLevel } from '../worker-protocol.js';

export interface AttachedDevice<S extends DeviceSettings = DeviceSettings> {
  /** Names the device in logs and counters; unique in its VM. */
  readonly id: string;
  readonly identity: MmioDeviceIdentity;
  readonly settings: S;
  /** Names of the device's counters: what its element of `DeviceContext.counters` means, in order. */
  readonly counterNames: readonly string[];
  /** The longest time for the device's thread to look for work before it sleeps. Absent: it does not. */
  readonly busyPollMicroseconds?: number;
  /** What the device shows in guest-physical memory, above RAM: memory slots, and buffers that any device may be given. */
  readonly memory?: MemoryMap;
}

/** What making a device may use. */
export interface AttachContext {
  /** Owns everything that was opened: it is released when the VM has ended, and not at a guest's reboot. */
  readonly resources: ReleaseStack;
  readonly log: (level: LogLevel, message: string) => void;
}
