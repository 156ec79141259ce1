// What is fixed about a virtio-net device before its guest starts: virtio 1.2, section 5.1.3 and 5.1.4. Plain data, made on
// the main thread; this file loads none of the device's code.

import { MAC_BYTES } from '../../platform/net-address.js';
import { TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_UFO } from '../../platform/tap.js';
import type { Fd } from '../../platform/units.js';
import type { RateLimiterSettings } from '../rate-limiter.js';
import {
  featureWords,
  VIRTIO_F_VERSION_1_BIT,
  VIRTIO_ID_NET,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
} from '../virtio/device.js';
import type { MmioDeviceIdentity } from '../virtio/mmio.js';

// Feature bits (5.1.3), as indices. GUEST_: what the driver can receive; HOST_ and CSUM: what it may send.
export const VIRTIO_NET_F_CSUM_BIT = 0;
export const VIRTIO_NET_F_GUEST_CSUM_BIT = 1;
export const VIRTIO_NET_F_CTRL_GUEST_OFFLOADS_BIT = 2;
export const VIRTIO_NET_F_MTU_BIT = 3;
export const VIRTIO_NET_F_MAC_BIT = 5;
export const VIRTIO_NET_F_GUEST_TSO4_BIT = 7;
export const VIRTIO_NET_F_GUEST_TSO6_BIT = 8;
export const VIRTIO_NET_F_GUEST_ECN_BIT = 9;
export const VIRTIO_NET_F_GUEST_UFO_BIT = 10;
export const VIRTIO_NET_F_HOST_TSO4_BIT = 11;
export const VIRTIO_NET_F_HOST_TSO6_BIT = 12;
export const VIRTIO_NET_F_HOST_ECN_BIT = 13;
export const VIRTIO_NET_F_HOST_UFO_BIT = 14;
export const VIRTIO_NET_F_MRG_RXBUF_BIT = 15;
export const VIRTIO_NET_F_STATUS_BIT = 16;
export const VIRTIO_NET_F_CTRL_VQ_BIT = 17;
export const VIRTIO_NET_F_MQ_BIT = 22;

/** Counters of a device, in the order of their array. Bytes are those of frames, without the virtio-net header. */
export const NET_COUNTERS = [
  'rx_bytes',
  'rx_frames',
  'tx_bytes',
  'tx_frames',
  'rx_dropped',
  'tx_dropped',
  'rx_rate_limit_stalls',
  'tx_rate_limit_stalls',
] as const;
export const RX_BYTES = 0;
export const RX_FRAMES = 1;
export const TX_BYTES = 2;
export const TX_FRAMES = 3;
export const RX_DROPPED = 4;
export const TX_DROPPED = 5;
export const RX_RATE_LIMIT_STALLS = 6;
export const TX_RATE_LIMIT_STALLS = 7;

export const DEFAULT_QUEUE_SIZE = 256;
/** Commands come one at a time. */
const CONTROL_QUEUE_SIZE = 64;

/** Everything about one device that crosses to its I/O worker. */
export interface NetSettings {
  readonly kind: 'net';
  /** The tap's queues, one for each pair of virtqueues; they stay the caller's. */
  readonly queues: readonly Fd[];
  /** Bounds either direction by itself. Absent: nothing is bounded. */
  readonly rateLimiter: RateLimiterSettings | undefined;
}

export interface NetIdentityOptions {
  readonly mac: Uint8Array;
  readonly mtu: number;
  /** Pairs of a receive and a transmit queue. */
  readonly pairs: number;
  readonly queueSize: number;
  /** What the tap does and the configuration allows: a mask of TUN_F_…. */
  readonly offloads: number;
}

/** Each offload of a tap with the features for the guest's receiving and sending side of it. */
export const OFFLOAD_FEATURES = [
  { offload: TUN_F_CSUM, guest: VIRTIO_NET_F_GUEST_CSUM_BIT, host: VIRTIO_NET_F_CSUM_BIT },
  { offload: TUN_F_TSO4, guest: VIRTIO_NET_F_GUEST_TSO4_BIT, host: VIRTIO_NET_F_HOST_TSO4_BIT },
  { offload: TUN_F_TSO6, guest: VIRTIO_NET_F_GUEST_TSO6_BIT, host: VIRTIO_NET_F_HOST_TSO6_BIT },
  { offload: TUN_F_TSO_ECN, guest: VIRTIO_NET_F_GUEST_ECN_BIT, host: VIRTIO_NET_F_HOST_ECN_BIT },
  { offload: TUN_F_UFO, guest: VIRTIO_NET_F_GUEST_UFO_BIT, host: VIRTIO_NET_F_HOST_UFO_BIT },
] as const;

/** What the transport says of the device. */
export function netIdentity(options: NetIdentityOptions): MmioDeviceIdentity {
  const { pairs, queueSize, offloads } = options;
  const offered = OFFLOAD_FEATURES.filter(({ offload }) => (offloads & offload) !== 0);
  return {
    deviceId: VIRTIO_ID_NET,
    features: featureWords([
      VIRTIO_F_VERSION_1_BIT,
      VIRTIO_RING_F_INDIRECT_DESC_BIT,
      VIRTIO_RING_F_EVENT_IDX_BIT,
      VIRTIO_NET_F_MAC_BIT,
      VIRTIO_NET_F_MTU_BIT,
      VIRTIO_NET_F_STATUS_BIT,
      VIRTIO_NET_F_MRG_RXBUF_BIT,
      VIRTIO_NET_F_CTRL_VQ_BIT,
      VIRTIO_NET_F_CTRL_GUEST_OFFLOADS_BIT,
      ...(pairs > 1 ? [VIRTIO_NET_F_MQ_BIT] : []),
      ...offered.flatMap(({ guest, host }) => [guest, host]),
    ]),
    queueSizes: [...new Array<number>(2 * pairs).fill(queueSize), CONTROL_QUEUE_SIZE],
    config: configSpace(options),
  };
}

// struct virtio_net_config { u8 mac[6]; le16 status; le16 max_virtqueue_pairs; le16 mtu; ... } (5.1.4); the rest belongs to
// features that are not offered.
const CONFIG_SIZE = 12;
export const CONFIG_STATUS = MAC_BYTES;
const CONFIG_MAX_PAIRS = 8;
const CONFIG_MTU = 10;

export const VIRTIO_NET_S_LINK_UP = 1;

function configSpace({ mac, pairs, mtu }: NetIdentityOptions): Uint8Array {
  const config = new Uint8Array(CONFIG_SIZE);
  const view = new DataView(config.buffer);
  config.set(mac);
  view.setUint16(CONFIG_STATUS, VIRTIO_NET_S_LINK_UP, true);
  view.setUint16(CONFIG_MAX_PAIRS, pairs, true);
  view.setUint16(CONFIG_MTU, mtu, true);
  return config;
}
