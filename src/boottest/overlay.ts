// Disks of tests: what a guest writes goes to a qcow2 overlay that lives as long as the test, so that tests can share an
// image and leave it as it is. Main thread.
//
// The overlay is an empty image of version 3 with 64 KiB clusters: header, refcount table, one refcount block, and an L1
// table of zeroes (qemu's docs/interop/qcow2.txt).

import { closeSync, fstatSync, openSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DiskConfig } from '../config/vm-config.js';
import { Finding } from './result.js';

const QCOW2_MAGIC = 0x514649fb;
const CLUSTER_BITS = 16;
const CLUSTER = 1 << CLUSTER_BITS;
const SECTOR = 512;
const HEADER_LENGTH = 104;
const BACKING_FORMAT_EXTENSION = 0xe2792aca;
/** Bytes of the disk that one entry of the L1 table stands for. */
const L1_SPAN = CLUSTER * (CLUSTER / 8);
const REFCOUNT_ORDER = 4;
/** Where each part lies, in clusters; the header is the first. */
const REFCOUNT_TABLE_CLUSTER = 1;
const REFCOUNT_BLOCK_CLUSTER = 2;
const L1_CLUSTER = 3;

/** `disk` with an overlay in `folder` in its place. Throws Finding. */
export function overlaidDisk(disk: DiskConfig, index: number, folder: string): DiskConfig {
  const { size, format } = lookAt(disk);
  const path = join(folder, `disk${index}.qcow2`);
  writeFileSync(path, emptyOverlay(size, disk.path, format));
  return { ...disk, path, image_type: 'Qcow2', backing_files: true };
}

function lookAt({ path, image_type: type }: DiskConfig): { readonly size: number; readonly format: 'raw' | 'qcow2' } {
  const start = Buffer.alloc(32);
  let fileSize: number;
  try {
    const fd = openSync(path, 'r');
    try {
      const stats = fstatSync(fd);
      if (!stats.isFile()) throw new Error('it is no file: give a file, or readonly: true');
      fileSize = stats.size;
      readSync(fd, start, 0, start.length, 0);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new Finding('error', `the disk ${path} cannot be used (${reason})`, { cause: error });
  }
  const isQcow2 = type === 'Qcow2' || (type === undefined && start.readUInt32BE(0) === QCOW2_MAGIC);
  if (isQcow2) return { size: Number(start.readBigUInt64BE(24)), format: 'qcow2' };
  return { size: Math.ceil(fileSize / SECTOR) * SECTOR, format: 'raw' };
}

/** The bytes of an image of `size` bytes that holds nothing but what the file `backing` has. */
export function emptyOverlay(size: number, backing: string, format: 'raw' | 'qcow2'): Buffer {
  const l1Entries = Math.max(1, Math.ceil(size / L1_SPAN));
  const l1Clusters = Math.ceil((l1Entries * 8) / CLUSTER);
  const image = Buffer.alloc((L1_CLUSTER + l1Clusters) * CLUSTER);
  const name = Buffer.from(backing);
  const extension = Buffer.alloc(24);
  extension.writeUInt32BE(BACKING_FORMAT_EXTENSION, 0);
  extension.writeUInt32BE(format.length, 4);
  extension.write(format, 8);
  const nameOffset = HEADER_LENGTH + 8 + roundUp(format.length, 8) + 8;

  image.writeUInt32BE(QCOW2_MAGIC, 0);
  image.writeUInt32BE(3, 4); // version
  image.writeBigUInt64BE(BigInt(nameOffset), 8); // backing_file_offset
  image.writeUInt32BE(name.length, 16); // backing_file_size
  image.writeUInt32BE(CLUSTER_BITS, 20);
  image.writeBigUInt64BE(BigInt(size), 24);
  image.writeUInt32BE(l1Entries, 36); // l1_size
  image.writeBigUInt64BE(BigInt(L1_CLUSTER * CLUSTER), 40); // l1_table_offset
  image.writeBigUInt64BE(BigInt(REFCOUNT_TABLE_CLUSTER * CLUSTER), 48);
  image.writeUInt32BE(1, 56); // refcount_table_clusters
  image.writeUInt32BE(REFCOUNT_ORDER, 96);
  image.writeUInt32BE(HEADER_LENGTH, 100);
  extension.copy(image, HEADER_LENGTH, 0, 8 + roundUp(format.length, 8)); // the end marker behind it is zeroes
  name.copy(image, nameOffset);

  image.writeBigUInt64BE(BigInt(REFCOUNT_BLOCK_CLUSTER * CLUSTER), REFCOUNT_TABLE_CLUSTER * CLUSTER);
  for (let cluster = 0; cluster < L1_CLUSTER + l1Clusters; cluster++) {
    image.writeUInt16BE(1, REFCOUNT_BLOCK_CLUSTER * CLUSTER + 2 * cluster);
  }
  return image;
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
