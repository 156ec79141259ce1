// A disk on the main thread: its image is opened, locked and looked at before the guest starts.

import { fstatSync, statfsSync } from 'node:fs';
import type { DiskConfig } from '../../config/vm-config.js';
import { SECTOR_SIZE } from '../../devices/block/disk-image.js';
import { formatOf, HEADER_BYTES } from '../../devices/block/image-formats.js';
import { openChain } from '../../devices/block/qcow2/chain.js';
import { QcowError } from '../../devices/block/qcow2/errors.js';
import {
  BLOCK_COUNTERS,
  blockIdentity,
  VIRTIO_BLK_ID_BYTES,
  type BlockSettings,
  type DiskTopology,
  type HostFileSettings,
  type ImageSettings,
} from '../../devices/block/settings.js';
import { rateLimiterSettings } from '../../devices/rate-limiter.js';
import { check, libc } from '../../platform/libc.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import { KIB } from '../../platform/units.js';
import { VmError } from '../errors.js';
import type { AttachContext, AttachedDevice } from './attached-device.js';
import { openDiskFile } from './disk-file.js';

/** Cloud Hypervisor's. */
const DEFAULT_QUEUES = 1;
const DEFAULT_QUEUE_SIZE = 128;

const OPTION = '--disk';

/** Blocks of file systems and of the page cache. */
const FILE_BLOCK_SIZE = 4096;
/** What virtio can express, and more than any file system or disk has. */
const LARGEST_BLOCK_SIZE = 32 * KIB;

// Block device queries (linux/fs.h), each of an int but BLKSSZGET's family of unsigned ones.
const BLKSSZGET = 0x1268;
const BLKPBSZGET = 0x127b;
const BLKIOOPT = 0x1279;

/** Opens the image; its descriptors belong to `context.resources`. Throws VmError HOST_PATH, DISK_IN_USE, DISK_IMAGE. */
export function attachBlock(config: DiskConfig, index: number, context: AttachContext): AttachedDevice<BlockSettings> {
  const { path, readonly: readOnly = false, direct = false } = config;
  const id = config.id ?? `_disk${index}`;
  const header = new Uint8Array(HEADER_BYTES);
  const file = openDiskFile(OPTION, path, { readOnly, direct }, context, header);
  const { image, size, topology } = openFormat(config, id, file, header, context);
  const identity = blockIdentity({
    size,
    readOnly,
    numQueues: config.num_queues ?? DEFAULT_QUEUES,
    queueSize: config.queue_size ?? DEFAULT_QUEUE_SIZE,
    topology,
  });
  const settings: BlockSettings = {
    kind: 'block',
    image,
    readOnly,
    serial: config.serial ?? defaultSerial(file),
    rateLimiter: rateLimiterSettings(config.rate_limiter_config),
  };
  return { id, identity, settings, counterNames: BLOCK_COUNTERS };
}

interface OpenedImage {
  readonly image: ImageSettings;
  /** Bytes of the disk. */
  readonly size: number;
  readonly topology: DiskTopology;
}

function openFormat(
  config: DiskConfig,
  id: string,
  file: HostFileSettings,
  header: Uint8Array,
  context: AttachContext,
): OpenedImage {
  const { image_type } = config;
  const { log } = context;
  const detected = formatOf(header);
  if (image_type === 'Raw') return rawImage(file, false);
  if (image_type === 'Qcow2' || detected === 'qcow2') return qcow2Image(config, file, context);
  if (detected === undefined) {
    log(
      'info',
      `${id}: ${file.path} has no header of another format, so it is raw; the guest may not write one ` +
        '(image_type=raw lets it)',
    );
    return rawImage(file, true);
  }
  throw new VmError(
    'DISK_IMAGE',
    `${OPTION}: ${file.path} is a ${detected} image, which cannot be read`,
    'convert it (qemu-img convert -O raw), or say image_type=raw if its bytes are the disk',
  );
}

function rawImage(file: HostFileSettings, guardHeader: boolean): OpenedImage {
  const { path, size, alignment } = file;
  // Cloud Hypervisor would leave the rest out of reach of the guest; more likely it is the wrong file, or cut short.
  if (size % SECTOR_SIZE !== 0) {
    throw new VmError(
      'DISK_IMAGE',
      `${OPTION}: ${path} has ${size} bytes, which is no multiple of the ${SECTOR_SIZE} of a sector`,
      `check that it is a raw image, or bring it to a multiple (truncate -s %${SECTOR_SIZE})`,
    );
  }
  if (size % alignment !== 0) {
    throw new VmError(
      'DISK_IMAGE',
      `${OPTION}: direct=on needs a multiple of ${alignment} bytes here, and ${path} has ${size}`,
      `leave direct=on out, or bring the image to a multiple (truncate -s %${alignment})`,
    );
  }
  return { image: { format: 'raw', file, guardHeader }, size, topology: topologyOf(file) };
}

function qcow2Image(config: DiskConfig, file: HostFileSettings, context: AttachContext): OpenedImage {
  const { direct = false, backing_files: backingFiles = true } = config;
  const openBacking = (path: string, image: string): HostFileSettings =>
    openDiskFile(`${OPTION}: backing file of ${image}`, path, { readOnly: true, direct }, context, new Uint8Array(0));
  try {
    const { settings, size, clusterSize } = openChain(file, { backingFiles, openBacking });
    // With O_DIRECT anything smaller goes through a buffer. An image need not be a multiple of it, unlike its clusters.
    const logicalBlockSize = size % file.alignment === 0 ? Math.max(file.alignment, SECTOR_SIZE) : SECTOR_SIZE;
    const physicalBlockSize = Math.max(logicalBlockSize, Math.min(clusterSize, FILE_BLOCK_SIZE));
    // Clusters are given back as a whole.
    const topology = { logicalBlockSize, physicalBlockSize, optimalIoSize: 0, discardGranularity: clusterSize };
    return { image: settings, size, topology };
  } catch (error) {
    if (!(error instanceof QcowError)) throw error;
    throw new VmError('DISK_IMAGE', `${OPTION}: ${error.path}: ${error.detail}`, error.mend, error);
  }
}

function topologyOf(file: HostFileSettings): DiskTopology {
  if (!file.isBlockDevice) {
    // With O_DIRECT anything smaller goes through a buffer and reads a block before it writes one.
    const logicalBlockSize = Math.min(Math.max(file.alignment, SECTOR_SIZE), LARGEST_BLOCK_SIZE);
    const physicalBlockSize = Math.max(logicalBlockSize, FILE_BLOCK_SIZE);
    return { logicalBlockSize, physicalBlockSize, optimalIoSize: 0, discardGranularity: fileSystemBlock(file) };
  }
  const logicalBlockSize = Math.min(Math.max(askDevice(file, BLKSSZGET), SECTOR_SIZE), LARGEST_BLOCK_SIZE);
  const physicalBlockSize = Math.max(askDevice(file, BLKPBSZGET), logicalBlockSize);
  const optimalIoSize = askDevice(file, BLKIOOPT);
  return { logicalBlockSize, physicalBlockSize, optimalIoSize, discardGranularity: physicalBlockSize };
}

function askDevice({ fd, path }: HostFileSettings, request: number): number {
  const value = new NativeBuffer(8);
  check(libc.ioctl(fd, request, value.address), `ioctl 0x${request.toString(16)}`, path);
  return value.u32(0);
}

/** Only whole blocks of a file can be given back. */
function fileSystemBlock({ path }: HostFileSettings): number {
  const { bsize } = statfsSync(path);
  return bsize >= SECTOR_SIZE && Number.isInteger(Math.log2(bsize)) ? bsize : FILE_BLOCK_SIZE;
}

/** As Cloud Hypervisor makes it: which file it is, the same at every start and in every VM. */
function defaultSerial({ fd }: HostFileSettings): string {
  const { dev, rdev, ino } = fstatSync(fd);
  return `${dev}${rdev}${ino}`.slice(0, VIRTIO_BLK_ID_BYTES);
}
