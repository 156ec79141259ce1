// The block device as it crosses from the main thread to its I/O worker, and what its transport says of it: virtio 1.2,
// section 5.2. Plain data, light to import.
//
// Left out: geometry (nobody boots by cylinders), secure erase, zoned devices, lifetime information.

import type { Fd } from '../../platform/units.js';
import { MIB, TWO_POW_32 } from '../../platform/units.js';
import type { RateLimiterSettings } from '../rate-limiter.js';
import { MAX_CHAIN_SEGMENTS } from '../virtio/chain.js';
import {
  featureWords,
  VIRTIO_F_VERSION_1_BIT,
  VIRTIO_ID_BLOCK,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
} from '../virtio/device.js';
import type { MmioDeviceIdentity } from '../virtio/mmio.js';
import { SECTOR_SIZE } from './disk-image.js';

/**
 * A file or block device of the host, opened and locked by the main thread, which owns the descriptor. Every image is
 * made of at least one; see HostFile (host-file.ts) for reading and writing it.
 */
export interface HostFileSettings {
  readonly fd: Fd;
  /** For messages only. */
  readonly path: string;
  /** Bytes when it was opened. */
  readonly size: number;
  readonly readOnly: boolean;
  /**
   * What memory addresses, file offsets and lengths of every call must be multiples of: the O_DIRECT alignment, or 1
   * when the descriptor goes through the page cache.
   */
  readonly alignment: number;
  readonly isBlockDevice: boolean;
}

/** A raw image: the file's bytes are the disk's. */
export interface RawImageSettings {
  readonly format: 'raw';
  readonly file: HostFileSettings;
  /** Nobody said that the image is raw: a guest may not make it look like something else (raw-image.ts). */
  readonly guardHeader: boolean;
}

/** A qcow2 image and what is behind it. */
export interface Qcow2ImageSettings {
  readonly format: 'qcow2';
  readonly file: HostFileSettings;
  /** Where the guest reads what the image does not have; opened for reading only. */
  readonly backing: ImageSettings | undefined;
}

/** What an image is made from; see `openImage` (images.ts). */
export type ImageSettings = RawImageSettings | Qcow2ImageSettings;

/** What a guest is told about a disk's blocks; bytes. */
export interface DiskTopology {
  /** The smallest transfer without a penalty that the guest can avoid: 512 to 32 KiB, a power of two. */
  readonly logicalBlockSize: number;
  /** What is written at once underneath: a power of two times the logical block size. */
  readonly physicalBlockSize: number;
  /** 0: no preference. */
  readonly optimalIoSize: number;
  /** Discards should be multiples of this, and start at one. */
  readonly discardGranularity: number;
}

export interface BlockSettings {
  readonly kind: 'block';
  readonly image: ImageSettings;
  readonly readOnly: boolean;
  /** At most VIRTIO_BLK_ID_BYTES bytes of UTF-8. */
  readonly serial: string;
  readonly rateLimiter: RateLimiterSettings | undefined;
}

/** How long a serial can be (5.2.6). */
export const VIRTIO_BLK_ID_BYTES = 20;

/** What the device counts; times are those of calls on the image, in microseconds. */
export const BLOCK_COUNTERS = [
  'read_bytes',
  'write_bytes',
  'read_ops',
  'write_ops',
  'flush_ops',
  'discard_ops',
  'write_zeroes_ops',
  'failed_ops',
  'guest_faults',
  'host_calls',
  'read_us',
  'write_us',
  'flush_us',
  'rate_limit_stalls',
] as const;

// Feature bits, as indices (5.2.3).
export const VIRTIO_BLK_F_SIZE_MAX_BIT = 1;
export const VIRTIO_BLK_F_SEG_MAX_BIT = 2;
export const VIRTIO_BLK_F_RO_BIT = 5;
export const VIRTIO_BLK_F_BLK_SIZE_BIT = 6;
export const VIRTIO_BLK_F_FLUSH_BIT = 9;
export const VIRTIO_BLK_F_TOPOLOGY_BIT = 10;
export const VIRTIO_BLK_F_CONFIG_WCE_BIT = 11;
export const VIRTIO_BLK_F_MQ_BIT = 12;
export const VIRTIO_BLK_F_DISCARD_BIT = 13;
export const VIRTIO_BLK_F_WRITE_ZEROES_BIT = 14;

// struct virtio_blk_config (5.2.4), as far as the features above reach; offset, and width in bits.
const CONFIG_CAPACITY = 0; // le64
const CONFIG_SIZE_MAX = 8; // le32
const CONFIG_SEG_MAX = 12; // le32
const CONFIG_BLK_SIZE = 20; // le32
const CONFIG_PHYSICAL_BLOCK_EXP = 24; // u8
const CONFIG_MIN_IO_SIZE = 26; // le16, in logical blocks
const CONFIG_OPT_IO_SIZE = 28; // le32, in logical blocks
export const CONFIG_WRITEBACK = 32; // u8, writable
const CONFIG_NUM_QUEUES = 34; // le16
const CONFIG_MAX_DISCARD_SECTORS = 36; // le32
const CONFIG_MAX_DISCARD_SEG = 40; // le32
const CONFIG_DISCARD_SECTOR_ALIGNMENT = 44; // le32
const CONFIG_MAX_WRITE_ZEROES_SECTORS = 48; // le32
const CONFIG_MAX_WRITE_ZEROES_SEG = 52; // le32
const CONFIG_WRITE_ZEROES_MAY_UNMAP = 56; // u8
const CONFIG_SIZE = 60;

/** Longer than the requests that Linux makes by default. */
const SIZE_MAX = 4 * MIB;
/** Header and status; and one for a buffer that crosses two chunks of guest memory. */
const OTHER_SEGMENTS = 3;

/** 2 GiB less a sector: giving back that much takes a file system little time. */
export const MAX_DISCARD_SECTORS = (1 << 22) - 1;
export const MAX_DISCARD_SEGMENTS = 32;
/** 32 MiB: where the host cannot make zeroes by itself they are written, while all other requests wait. */
export const MAX_WRITE_ZEROES_SECTORS = 1 << 16;
/** Linux sends one. */
export const MAX_WRITE_ZEROES_SEGMENTS = 1;

export interface BlockShape {
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  readonly numQueues: number;
  readonly queueSize: number;
  readonly topology: DiskTopology;
}

/** What the transport says of a block device. */
export function blockIdentity(shape: BlockShape): MmioDeviceIdentity {
  const { readOnly, numQueues, queueSize } = shape;
  return {
    deviceId: VIRTIO_ID_BLOCK,
    features: featureWords([
      VIRTIO_BLK_F_SIZE_MAX_BIT,
      VIRTIO_BLK_F_SEG_MAX_BIT,
      VIRTIO_BLK_F_BLK_SIZE_BIT,
      VIRTIO_BLK_F_FLUSH_BIT,
      VIRTIO_BLK_F_TOPOLOGY_BIT,
      ...(readOnly
        ? [VIRTIO_BLK_F_RO_BIT]
        : [VIRTIO_BLK_F_CONFIG_WCE_BIT, VIRTIO_BLK_F_DISCARD_BIT, VIRTIO_BLK_F_WRITE_ZEROES_BIT]),
      ...(numQueues > 1 ? [VIRTIO_BLK_F_MQ_BIT] : []),
      VIRTIO_F_VERSION_1_BIT,
      VIRTIO_RING_F_INDIRECT_DESC_BIT,
      VIRTIO_RING_F_EVENT_IDX_BIT,
    ]),
    queueSizes: Array.from({ length: numQueues }, () => queueSize),
    config: blockConfigSpace(shape),
    lastingConfig: [{ offset: CONFIG_CAPACITY, length: 8, name: 'sectors' }],
    ...(readOnly ? {} : { writableConfig: [{ offset: CONFIG_WRITEBACK, length: 1 }] }),
  };
}

function blockConfigSpace({ size, readOnly, numQueues, queueSize, topology }: BlockShape): Uint8Array {
  const { logicalBlockSize, physicalBlockSize, optimalIoSize, discardGranularity } = topology;
  const config = new Uint8Array(CONFIG_SIZE);
  const view = new DataView(config.buffer);
  const sectors = Math.floor(size / SECTOR_SIZE);
  view.setUint32(CONFIG_CAPACITY, sectors % TWO_POW_32, true);
  view.setUint32(CONFIG_CAPACITY + 4, Math.floor(sectors / TWO_POW_32), true);
  view.setUint32(CONFIG_SIZE_MAX, SIZE_MAX, true);
  const longestChain = Math.min(queueSize, MAX_CHAIN_SEGMENTS);
  view.setUint32(CONFIG_SEG_MAX, Math.max(1, longestChain - OTHER_SEGMENTS), true);
  view.setUint32(CONFIG_BLK_SIZE, logicalBlockSize, true);
  view.setUint8(CONFIG_PHYSICAL_BLOCK_EXP, Math.log2(physicalBlockSize / logicalBlockSize));
  view.setUint16(CONFIG_MIN_IO_SIZE, physicalBlockSize / logicalBlockSize, true);
  view.setUint32(CONFIG_OPT_IO_SIZE, Math.floor(optimalIoSize / logicalBlockSize), true);
  view.setUint16(CONFIG_NUM_QUEUES, numQueues, true);
  if (!readOnly) {
    view.setUint8(CONFIG_WRITEBACK, 1);
    view.setUint32(CONFIG_MAX_DISCARD_SECTORS, MAX_DISCARD_SECTORS, true);
    view.setUint32(CONFIG_MAX_DISCARD_SEG, MAX_DISCARD_SEGMENTS, true);
    view.setUint32(CONFIG_DISCARD_SECTOR_ALIGNMENT, Math.ceil(discardGranularity / SECTOR_SIZE), true);
    view.setUint32(CONFIG_MAX_WRITE_ZEROES_SECTORS, MAX_WRITE_ZEROES_SECTORS, true);
    view.setUint32(CONFIG_MAX_WRITE_ZEROES_SEG, MAX_WRITE_ZEROES_SEGMENTS, true);
    view.setUint8(CONFIG_WRITE_ZEROES_MAY_UNMAP, 1);
  }
  return config;
}
