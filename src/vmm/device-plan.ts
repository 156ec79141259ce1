// Which I/O threads a configuration needs, and for which kinds of device: known before anything is opened, so that the
// threads load their code meanwhile. Imports nothing that runs.

import type { VmConfig } from '../config/vm-config.js';
import type { DeviceKind } from './device-kinds.js';

/** One I/O thread: the kinds of device that it will drive. */
export type IoThreadPlan = readonly DeviceKind[];

const DEFAULT_IO_THREADS = 1;

/** The thread of the vsock device, which is its own, first; then those that all other devices share. */
export function planIoThreads(config: VmConfig): IoThreadPlan[] {
  const shared = sharedDeviceKinds(config);
  const count = Math.min(config.io_threads ?? DEFAULT_IO_THREADS, shared.length);
  const kinds = [...new Set(shared)];
  const own: IoThreadPlan[] = config.vsock === undefined ? [] : [['vsock']];
  return [...own, ...Array.from({ length: count }, () => kinds)];
}

/** The kind of each device but vsock: one line for each kind, as in devices.ts. */
function sharedDeviceKinds({ disks = [] }: VmConfig): DeviceKind[] {
  return [...disks.map(() => 'block' as const)];
}
