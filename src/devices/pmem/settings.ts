// Persistent memory as it crosses from the main thread to its I/O worker: plain data, light to import.

import type { Fd, GuestAddress } from '../../platform/units.js';
import {
  featureWords,
  VIRTIO_F_VERSION_1_BIT,
  VIRTIO_ID_PMEM,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
} from '../virtio/device.js';
import type { MmioDeviceIdentity } from '../virtio/mmio.js';

export interface PmemSettings {
  readonly kind: 'pmem';
  /** The file that the guest's writes go to; it stays the main thread's. Undefined: they are discarded. */
  readonly fd: Fd | undefined;
  /** For messages only. */
  readonly path: string;
}

export const PMEM_COUNTERS = ['flushes', 'failedFlushes', 'faults'] as const;

/** Linux has one flush under way for each task that asks for one. */
const QUEUE_SIZE = 64;

/** Where the guest finds the memory: `size` bytes from `start` on. */
export function pmemIdentity(start: GuestAddress, size: number): MmioDeviceIdentity {
  // struct virtio_pmem_config { le64 start; le64 size; } (5.19.4)
  const config = new DataView(new ArrayBuffer(16));
  config.setBigUint64(0, BigInt(start), true);
  config.setBigUint64(8, BigInt(size), true);
  return {
    deviceId: VIRTIO_ID_PMEM,
    // Not offered: VIRTIO_PMEM_F_SHMEM_REGION, the memory's place as a shared memory region of the transport.
    features: featureWords([VIRTIO_F_VERSION_1_BIT, VIRTIO_RING_F_INDIRECT_DESC_BIT, VIRTIO_RING_F_EVENT_IDX_BIT]),
    queueSizes: [QUEUE_SIZE],
    config: new Uint8Array(config.buffer),
    lastingConfig: [
      { offset: 0, length: 8, name: 'as its address' },
      { offset: 8, length: 8, name: 'bytes' },
    ],
  };
}
