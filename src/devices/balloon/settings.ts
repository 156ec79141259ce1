// The balloon as it crosses from the main thread to its I/O worker: plain data, light to import.

import { PAGE_SIZE } from '../../platform/units.js';
import {
  featureWords,
  VIRTIO_F_VERSION_1_BIT,
  VIRTIO_ID_BALLOON,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
} from '../virtio/device.js';
import type { MmioDeviceIdentity } from '../virtio/mmio.js';

export interface BalloonSettings {
  readonly kind: 'balloon';
  /** Bytes that the guest is to give up at the start. */
  readonly size: number;
}

export interface BalloonOptions {
  readonly size: number;
  readonly deflateOnOom: boolean;
  readonly freePageReporting: boolean;
}

// Feature bits (5.5.3). Not offered: FREE_PAGE_HINT (3), which is for migration.
export const VIRTIO_BALLOON_F_MUST_TELL_HOST_BIT = 0;
export const VIRTIO_BALLOON_F_STATS_VQ_BIT = 1;
export const VIRTIO_BALLOON_F_DEFLATE_ON_OOM_BIT = 2;
export const VIRTIO_BALLOON_F_PAGE_POISON_BIT = 4;
export const VIRTIO_BALLOON_F_PAGE_REPORTING_BIT = 5;

// struct virtio_balloon_config { le32 num_pages; le32 actual; le32 free_page_hint_cmd_id; le32 poison_val; } (5.5.4)
export const CONFIG_NUM_PAGES = 0;
export const CONFIG_ACTUAL = 4;
export const CONFIG_POISON_VAL = 12;
const CONFIG_SIZE = 16;

/** Pages of the balloon are 4096 bytes whatever the guest's are (5.5.6). */
export const VIRTIO_BALLOON_PFN_SHIFT = 12;

export const INFLATE_QUEUE = 0;
export const DEFLATE_QUEUE = 1;

/** Linux has one request under way in each queue, of up to 256 page numbers, or 32 reported ranges. */
const QUEUE_SIZE = 64;
/** Inflate, deflate, statistics, free page hints, reports. */
const QUEUE_COUNT = 5;

/**
 * What the balloon counts. From `targetBytes` on it is no counting: what the host asks for and the guest has given up at
 * present, and the guest's last statistics (5.5.6.3), 0 where it never said.
 */
export const BALLOON_COUNTERS = [
  'inflatedPages',
  'deflatedPages',
  'reportedBytes',
  'returnedBytes',
  'ignoredPages',
  'failedReturns',
  'faults',
  'targetBytes',
  'actualBytes',
  'statisticsUpdates',
  'swapInBytes',
  'swapOutBytes',
  'majorFaults',
  'minorFaults',
  'freeBytes',
  'totalBytes',
  'availableBytes',
  'cacheBytes',
  'hugePageAllocations',
  'hugePageFailures',
] as const;

export function balloonIdentity({ size, deflateOnOom, freePageReporting }: BalloonOptions): MmioDeviceIdentity {
  const config = new Uint8Array(CONFIG_SIZE);
  new DataView(config.buffer).setUint32(CONFIG_NUM_PAGES, size / PAGE_SIZE, true);
  return {
    deviceId: VIRTIO_ID_BALLOON,
    features: featureWords([
      VIRTIO_BALLOON_F_MUST_TELL_HOST_BIT,
      VIRTIO_BALLOON_F_STATS_VQ_BIT,
      ...(deflateOnOom ? [VIRTIO_BALLOON_F_DEFLATE_ON_OOM_BIT] : []),
      // A driver that fills free pages with a pattern only reports them when it can say so.
      ...(freePageReporting ? [VIRTIO_BALLOON_F_PAGE_POISON_BIT, VIRTIO_BALLOON_F_PAGE_REPORTING_BIT] : []),
      VIRTIO_F_VERSION_1_BIT,
      VIRTIO_RING_F_INDIRECT_DESC_BIT,
      VIRTIO_RING_F_EVENT_IDX_BIT,
    ]),
    queueSizes: Array.from({ length: QUEUE_COUNT }, () => QUEUE_SIZE),
    config,
    writableConfig: [
      { offset: CONFIG_ACTUAL, length: 4 },
      ...(freePageReporting ? [{ offset: CONFIG_POISON_VAL, length: 4 }] : []),
    ],
  };
}
