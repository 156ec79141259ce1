// The virtio-vsock device: virtio 1.2, section 5.10. The face of src/vsock towards an I/O worker and its transport.

import {
  featureWords,
  VIRTIO_F_VERSION_1_BIT,
  VIRTIO_ID_VSOCK,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
  type Activation,
  type VirtioDevice,
} from '../devices/virtio/device.js';
import type { MmioDeviceIdentity } from '../devices/virtio/mmio.js';
import type { EventLoop } from '../platform/event-loop.js';
import type { Fd } from '../platform/units.js';

export type VsockLogLevel = 'error' | 'warn' | 'info' | 'debug';

export interface VsockDeviceOptions {
  readonly guestCid: number;
  /** A listening, non-blocking Unix stream socket for host-initiated connections; owned by the device from here on. */
  readonly listener?: Fd | undefined;
  /** The path prefix of guest-initiated connections: port P goes to `<socketPath>_P`. */
  readonly socketPath: string;
  readonly loop: EventLoop;
  /** Past this many connections the guest gets RST and host clients are closed. */
  readonly maxConnections?: number | undefined;
  /** Bytes that a guest may have under way to one host peer that does not read. */
  readonly bufAlloc?: number | undefined;
  readonly log: (level: VsockLogLevel, message: string) => void;
}

const RX_QUEUE_SIZE = 256;
const TX_QUEUE_SIZE = 256;
const EVENT_QUEUE_SIZE = 8;

/** What the transport says of a vsock device whose guest has `guestCid`. */
export function vsockIdentity(guestCid: number): MmioDeviceIdentity {
  // struct virtio_vsock_config { le64 guest_cid; } (5.10.4)
  const config = new Uint8Array(8);
  new DataView(config.buffer).setBigUint64(0, BigInt(guestCid), true);
  return {
    deviceId: VIRTIO_ID_VSOCK,
    features: featureWords([VIRTIO_F_VERSION_1_BIT, VIRTIO_RING_F_INDIRECT_DESC_BIT, VIRTIO_RING_F_EVENT_IDX_BIT]),
    queueSizes: [RX_QUEUE_SIZE, TX_QUEUE_SIZE, EVENT_QUEUE_SIZE],
    config,
  };
}

export class VsockDevice implements VirtioDevice {
  constructor(_options: VsockDeviceOptions) {}

  activate(_activation: Activation): void {}

  reset(): void {}

  queueNotified(_index: number): void {}

  close(): void {}
}
