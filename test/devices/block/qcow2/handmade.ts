// A qcow2 image made by hand, so that every byte of it can be wrong. Clusters of 512 bytes; what is where:
//
//    0 header   1 refcount table   2 refcount block   3 L1 table   4, 5 L2 tables   6 to 9 data
//   10 compressed data   11 snapshot table   12 L1 table of the snapshot
//
// The disk has 128 KiB. Guest clusters 0 to 2 are data, 4 reads as zeroes, 5 is compressed, 64 is data, the
// others are not there.

import { deflateRawSync } from 'node:zlib';

export const CLUSTER = 512;
export const DISK_SIZE = 128 * 1024;

export const REFCOUNT_TABLE = 1 * CLUSTER;
export const REFCOUNT_BLOCK = 2 * CLUSTER;
export const L1_TABLE = 3 * CLUSTER;
export const L2_TABLE = 4 * CLUSTER;
export const FIRST_DATA = 6 * CLUSTER;
export const SNAPSHOT_TABLE = 11 * CLUSTER;
const COMPRESSED = 10 * CLUSTER;
const SNAPSHOT_L1 = 12 * CLUSTER;
const CLUSTERS = 13;

const COPIED = 1n << 63n;
const IS_COMPRESSED = 1n << 62n;
const ZERO = 1n;

/** Bytes that can be set by width and offset, big-endian as the format is. */
export class ImageBytes {
  readonly bytes = Buffer.alloc(CLUSTERS * CLUSTER);

  u16(offset: number, value: number): this {
    this.bytes.writeUInt16BE(value, offset);
    return this;
  }

  u32(offset: number, value: number): this {
    this.bytes.writeUInt32BE(value, offset);
    return this;
  }

  u64(offset: number, value: number | bigint): this {
    this.bytes.writeBigUInt64BE(BigInt(value), offset);
    return this;
  }

  text(offset: number, text: string): this {
    this.bytes.write(text, offset, 'latin1');
    return this;
  }
}

/** Fills guest cluster `index` in a way that tells it from all others. */
export function guestCluster(index: number): Buffer {
  return Buffer.alloc(CLUSTER, `guest cluster ${index}; `);
}

/** An image without a fault, version 3. */
export function makeImage(): ImageBytes {
  const image = new ImageBytes();
  image
    .text(0, 'QFI\xfb')
    .u32(4, 3)
    .u32(20, 9) // cluster_bits
    .u64(24, DISK_SIZE)
    .u32(36, 4) // l1_size
    .u64(40, L1_TABLE)
    .u64(48, REFCOUNT_TABLE)
    .u32(56, 1) // refcount_table_clusters
    .u32(60, 1) // nb_snapshots
    .u64(64, SNAPSHOT_TABLE)
    .u32(96, 4) // refcount_order
    .u32(100, 104); // header_length
  image.u64(REFCOUNT_TABLE, REFCOUNT_BLOCK);
  for (let cluster = 0; cluster < CLUSTERS; cluster++) image.u16(REFCOUNT_BLOCK + cluster * 2, 1);
  image.u64(L1_TABLE, COPIED | BigInt(L2_TABLE)).u64(L1_TABLE + 8, COPIED | BigInt(L2_TABLE + CLUSTER));
  for (let index = 0; index < 4; index++) {
    const at = FIRST_DATA + index * CLUSTER;
    // The last of them is guest cluster 64's, in the other table.
    const [entry, guest] = index === 3 ? [L2_TABLE + CLUSTER, 64] : [L2_TABLE + index * 8, index];
    image.u64(entry, COPIED | BigInt(at));
    guestCluster(guest).copy(image.bytes, at);
  }
  image.u64(L2_TABLE + 4 * 8, ZERO);
  // With clusters of 512 bytes the descriptor is all offset but its bit 61: one more sector.
  image.u64(L2_TABLE + 5 * 8, IS_COMPRESSED | BigInt(COMPRESSED));
  deflateRawSync(guestCluster(5), { windowBits: 12 }).copy(image.bytes, COMPRESSED);
  image
    .u64(SNAPSHOT_TABLE, SNAPSHOT_L1)
    .u32(SNAPSHOT_TABLE + 8, 4)
    .u16(SNAPSHOT_TABLE + 12, 1)
    .u16(SNAPSHOT_TABLE + 14, 1)
    .u32(SNAPSHOT_TABLE + 36, 16)
    .u64(SNAPSHOT_TABLE + 48, DISK_SIZE)
    .text(SNAPSHOT_TABLE + 56, '1s');
  return image;
}

/** What the guest reads from it. */
export function expectedContents(): Buffer {
  const contents = Buffer.alloc(DISK_SIZE);
  for (const index of [0, 1, 2, 5, 64]) guestCluster(index).copy(contents, index * CLUSTER);
  return contents;
}
