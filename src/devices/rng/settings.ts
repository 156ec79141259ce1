// The entropy device as it crosses from the main thread to its I/O worker: plain data, light to import.

import type { Fd } from '../../platform/units.js';
import {
  featureWords,
  VIRTIO_F_VERSION_1_BIT,
  VIRTIO_ID_RNG,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
} from '../virtio/device.js';
import type { MmioDeviceIdentity } from '../virtio/mmio.js';

export interface RngSettings {
  readonly kind: 'rng';
  /** The source, open for reading without blocking; it stays the main thread's. */
  readonly fd: Fd;
  /** For messages only. */
  readonly path: string;
}

export const RNG_COUNTERS = ['bytes', 'requests', 'waits', 'faults'] as const;

/** Linux has one request under way. */
const QUEUE_SIZE = 64;

export function rngIdentity(): MmioDeviceIdentity {
  return {
    deviceId: VIRTIO_ID_RNG,
    features: featureWords([VIRTIO_F_VERSION_1_BIT, VIRTIO_RING_F_INDIRECT_DESC_BIT, VIRTIO_RING_F_EVENT_IDX_BIT]),
    queueSizes: [QUEUE_SIZE],
    // 5.4.4: none.
    config: new Uint8Array(0),
  };
}
