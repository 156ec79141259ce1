// What the transport says of a vsock device: virtio 1.2, section 5.10. Light to import, for the main thread.

import {
  featureWords,
  VIRTIO_F_VERSION_1_BIT,
  VIRTIO_ID_VSOCK,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
} from '../devices/virtio/device.js';
import type { MmioDeviceIdentity } from '../devices/virtio/mmio.js';

/** Feature bits of the device (5.10.3). */
export const VIRTIO_VSOCK_F_STREAM_BIT = 0;
export const VIRTIO_VSOCK_F_SEQPACKET_BIT = 1;

/**
 * 1 MiB of 4 KiB buffers: it stays in a processor's second-level cache on its way from the worker to the guest. With
 * 1,024, a hundred streams at once are a quarter slower (docs/performance.md).
 */
const RX_QUEUE_SIZE = 256;
const TX_QUEUE_SIZE = 256;
/** What Linux posts. */
const EVENT_QUEUE_SIZE = 8;

/** What the transport says of a vsock device whose guest has `guestCid`. */
export function vsockIdentity(guestCid: number): MmioDeviceIdentity {
  return {
    deviceId: VIRTIO_ID_VSOCK,
    features: featureWords([
      VIRTIO_VSOCK_F_STREAM_BIT,
      VIRTIO_VSOCK_F_SEQPACKET_BIT,
      VIRTIO_F_VERSION_1_BIT,
      VIRTIO_RING_F_INDIRECT_DESC_BIT,
      VIRTIO_RING_F_EVENT_IDX_BIT,
    ]),
    queueSizes: [RX_QUEUE_SIZE, TX_QUEUE_SIZE, EVENT_QUEUE_SIZE],
    config: vsockConfigSpace(guestCid),
  };
}

/** struct virtio_vsock_config { le64 guest_cid; } (5.10.4) */
export function vsockConfigSpace(guestCid: number): Uint8Array {
  const config = new Uint8Array(8);
  new DataView(config.buffer).setBigUint64(0, BigInt(guestCid), true);
  return config;
}
