// Which I/O threads a configuration needs, and for which kinds of device: known before anything is opened, so that the
// threads load their code meanwhile. Imports nothing that takes time to load.

import { DEFAULT_RNG_SOURCE, type RngConfig, type VmConfig } from '../config/vm-config.js';
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

/** The source of entropy: every distribution's kernel wants one, and waits for its own if there is none. */
export function rngOf({ rng, payload }: VmConfig): RngConfig | undefined {
  return rng ?? (payload.kernel === undefined ? undefined : { src: DEFAULT_RNG_SOURCE });
}

/** The kind of each device but vsock: one line for each kind, as in devices.ts. */
function sharedDeviceKinds(config: VmConfig): DeviceKind[] {
  const { disks = [], net = [], pmem = [], balloon, console } = config;
  return [
    ...disks.map(() => 'block' as const),
    ...net.map(() => 'net' as const),
    ...pmem.map(() => 'pmem' as const),
    ...(rngOf(config) === undefined ? [] : (['rng'] as const)),
    ...(balloon === undefined ? [] : (['balloon'] as const)),
    ...(console.mode === 'Off' ? [] : (['console'] as const)),
  ];
}
