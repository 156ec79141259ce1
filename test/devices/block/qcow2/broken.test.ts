// Images that are not what they should be: refused with the file, what is wrong and what to do, or kept from harm.

import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { QcowError } from '../../../../src/devices/block/qcow2/errors.js';
import {
  CLUSTER,
  expectedContents,
  FIRST_DATA,
  guestCluster,
  L1_TABLE,
  L2_TABLE,
  makeImage,
  REFCOUNT_BLOCK,
  REFCOUNT_TABLE,
  SNAPSHOT_TABLE,
  type ImageBytes,
} from './handmade.js';
import { checkImage, contentsByQemu, describeQemu } from './qemu.js';
import { Workplace, type Disk } from './workplace.js';

const EIO = 'writev: -5';
const COPIED = 1n << 63n;

let workplace: Workplace;

beforeEach(() => {
  workplace = new Workplace();
});
afterEach(() => workplace.remove());

function save(bytes: Uint8Array, name = 'image.qcow2'): string {
  const path = workplace.path(name);
  writeFileSync(path, bytes);
  return path;
}

function errorOf(bytes: Uint8Array, readOnly: boolean): QcowError {
  const path = save(bytes);
  try {
    workplace.openDisk(path, readOnly);
  } catch (error) {
    if (!(error instanceof QcowError)) throw error;
    expect(error.path).toBe(path);
    expect(error.mend).not.toBe('');
    expect(error.message).toBe(`${path}: ${error.detail}; ${error.mend}`);
    return error;
  }
  throw new Error('the image was opened');
}

type Change = (image: ImageBytes) => unknown;

function broken(change: Change): Buffer {
  const image = makeImage();
  change(image);
  return image.bytes;
}

describe('the image made by hand', () => {
  test('has no fault: it is read and written', () => {
    const path = save(makeImage().bytes);
    const disk = workplace.openDisk(path);
    const expected = expectedContents();
    expect(disk.readAll().equals(expected)).toBe(true);
    for (const index of [0, 4, 5, 64, 255]) {
      disk.write(index * CLUSTER, guestCluster(1000 + index));
      guestCluster(1000 + index).copy(expected, index * CLUSTER);
    }
    disk.close();
    expect(workplace.openDisk(path, true).readAll().equals(expected)).toBe(true);
  });
});

describeQemu('the image made by hand, by QEMU', () => {
  test('has no fault', () => {
    const path = save(makeImage().bytes);
    expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0 });
    expect(contentsByQemu(path, 'expected').equals(expectedContents())).toBe(true);
  });
});

describe('broken headers', () => {
  test.each<[string, string, Change]>([
    ['not-qcow2', 'not a qcow2 image', (image) => image.text(0, 'QFIX')],
    ['version', 'QCOW version 1 is not supported', (image) => image.u32(4, 1)],
    ['version', 'QCOW version 4 is not supported', (image) => image.u32(4, 4)],
    ['bad-header', 'cluster_bits is 8', (image) => image.u32(20, 8)],
    ['bad-header', 'cluster_bits is 22', (image) => image.u32(20, 22)],
    ['bad-header', 'cluster_bits is 4294967295', (image) => image.u32(20, 0xffff_ffff)],
    ['bad-header', 'header_length is 96', (image) => image.u32(100, 96)],
    ['bad-header', 'header_length is 108', (image) => image.u32(100, 108)],
    ['bad-header', 'header_length is 520', (image) => image.u32(100, 520)],
    ['bad-header', 'refcount_order is 7', (image) => image.u32(96, 7)],
    ['bad-header', 'the size of the disk is 0', (image) => image.u64(24, 0)],
    ['bad-header', 'the size of the disk is 131073', (image) => image.u64(24, 131_073)],
    ['bad-header', 'the size of the disk is 18', (image) => image.u64(24, (1n << 64n) - 512n)],
    ['bad-header', 'l1_size is 3, too small', (image) => image.u32(36, 3)],
    ['bad-header', 'l1_size is 4194305 (4194304 at most)', (image) => image.u32(36, 4_194_305)],
    ['bad-header', 'l1_table_offset 1537 is not a multiple', (image) => image.u64(40, L1_TABLE + 1)],
    ['bad-header', 'l1_table_offset 0 is where the header is', (image) => image.u64(40, 0)],
    ['bad-header', 'l1_table_offset 51200 with 32 bytes is beyond', (image) => image.u64(40, 51_200)],
    [
      'bad-header',
      'l1_table_offset 18446744073709552000 with 32 bytes is beyond',
      (image) => image.u64(40, (1n << 64n) - 512n),
    ],
    ['bad-header', 'refcount_table_offset 513 is not a multiple', (image) => image.u64(48, REFCOUNT_TABLE + 1)],
    ['bad-header', 'refcount_table_offset 512 with 8388608 bytes is beyond', (image) => image.u32(56, 16_384)],
    ['bad-header', 'refcount_table_clusters is 16385', (image) => image.u32(56, 16_385)],
    ['bad-header', 'refcount_table_clusters is 0', (image) => image.u32(56, 0)],
    ['bad-header', 'the L1 table and the refcount table overlap', (image) => image.u64(48, L1_TABLE)],
    ['bad-header', 'nb_snapshots is 65537', (image) => image.u32(60, 65_537)],
    ['bad-header', 'snapshots_offset 5633 is not a multiple', (image) => image.u64(64, SNAPSHOT_TABLE + 1)],
    ['bad-header', 'the snapshot table lies in another table', (image) => image.u64(64, L1_TABLE)],
    ['bad-header', 'backing_file_offset 4096 is outside', (image) => image.u64(8, 4096).u32(16, 8)],
    ['bad-header', 'backing_file_offset 8 is outside', (image) => image.u64(8, 8).u32(16, 8)],
    ['bad-header', 'its backing file has 1024 bytes', (image) => image.u64(8, 200).u32(16, 1024)],
    ['bad-header', 'its backing file is not a text', (image) => image.u64(8, 200).u32(16, 8)],
    ['bad-header', 'extension 0xe2792aca of 4096 bytes', (image) => image.u32(104, 0xe279_2aca).u32(108, 4096)],
    ['unsupported', 'it is encrypted (AES)', (image) => image.u32(32, 1)],
    ['unsupported', 'it is encrypted (LUKS)', (image) => image.u32(32, 2)],
    ['unsupported', 'it is encrypted (method 3)', (image) => image.u32(32, 3)],
    ['unsupported', 'external data file', (image) => image.u64(72, 1 << 2)],
    ['unsupported', 'extended L2 entries', (image) => image.u64(72, 1 << 4)],
    ['unsupported', 'incompatible feature 5 (unknown)', (image) => image.u64(72, 1 << 5)],
    ['unsupported', 'incompatible feature 63 (unknown)', (image) => image.u64(72, 1n << 63n)],
    [
      'unsupported',
      'incompatible feature 9 (time travel)',
      (image) =>
        image
          .u64(72, 1 << 9)
          .u32(104, 0x6803_f857)
          .u32(108, 48)
          .u16(112, 9)
          .text(114, 'time travel'),
    ],
    ['bad-header', 'compression_type 0 and the feature bit', (image) => image.u64(72, 1 << 3)],
    ['bad-header', 'compression_type 1 and the feature bit', (image) => image.u32(100, 112).text(104, '\x01')],
    [
      'unsupported',
      'its compression type is 2',
      (image) =>
        image
          .u64(72, 1 << 3)
          .u32(100, 112)
          .text(104, '\x02'),
    ],
  ])('%s: %s', (code, detail, change) => {
    for (const readOnly of [true, false]) {
      const error = errorOf(broken(change), readOnly);
      expect(error.code).toBe(code);
      expect(error.detail).toContain(detail);
    }
  });

  test.each([1, 3, 4, 60, 71, 72, 103])('a file of %i bytes', (length) => {
    expect(['not-qcow2', 'bad-header']).toContain(errorOf(makeImage().bytes.subarray(0, length), true).code);
  });

  test('zstd is refused where Node.js does not have it, with the version that does', async () => {
    const image = broken((bytes) =>
      bytes
        .u64(72, 1 << 3)
        .u32(100, 112)
        .text(104, '\x01'),
    );
    if ('zstdDecompressSync' in (await import('node:zlib'))) workplace.openDisk(save(image));
    else expect(errorOf(image, true).message).toMatch(/its compression is zstd.*Node\.js 22\.15/);
  });
});

describe('images that may be read, and not written', () => {
  test.each<[string, string, Change]>([
    ['dirty', 'not closed cleanly', (image) => image.u64(72, 1)],
    ['corrupt', 'marked as corrupt', (image) => image.u64(72, 2)],
    ['corrupt', 'L2 table 1 shares cluster 4', (image) => image.u64(L1_TABLE + 8, L2_TABLE)],
    ['corrupt', 'L2 table 2 is where none can be', (image) => image.u64(L1_TABLE + 16, 1n << 40n)],
    ['corrupt', 'a refcount block shares cluster 3', (image) => image.u64(REFCOUNT_TABLE + 8, L1_TABLE)],
    ['corrupt', 'a refcount block is where none can be', (image) => image.u64(REFCOUNT_TABLE + 8, 1n << 63n)],
    ['corrupt', 'snapshot 0 has sizes that none can have', (image) => image.u32(SNAPSHOT_TABLE + 36, 1 << 30)],
    ['corrupt', 'the L1 table of snapshot 0 shares cluster 3', (image) => image.u64(SNAPSHOT_TABLE, L1_TABLE)],
    ['corrupt', 'the snapshot table passes the end', (image) => image.u32(60, 2).u32(SNAPSHOT_TABLE + 36, 1000)],
  ])('%s: %s', (code, detail, change) => {
    const bytes = broken(change);
    const error = errorOf(bytes, false);
    expect(error.code).toBe(code);
    expect(error.detail).toContain(detail);
    const disk = workplace.openDisk(save(bytes), true);
    expect(disk.read(0, CLUSTER).equals(guestCluster(0))).toBe(true);
  });
});

describe('tables that lie are found out before they do harm', () => {
  const complaints: string[] = [];

  function open(change: Change): { readonly disk: Disk; readonly path: string; readonly before: Buffer } {
    const before = broken(change);
    const path = save(before);
    complaints.length = 0;
    return { disk: workplace.openDisk(path, false, (_level, message) => complaints.push(message)), path, before };
  }

  /** Only the corrupt bit has changed, and nothing is written any more. */
  function expectMarkedCorrupt(disk: Disk, path: string, before: Buffer): void {
    expect(complaints).toHaveLength(1);
    const expected = Buffer.from(before);
    expected[79] |= 2;
    expect(readFileSync(path).equals(expected)).toBe(true);
    expect(() => disk.write(200 * CLUSTER, guestCluster(1))).toThrow(EIO);
    expect(() => disk.flush()).toThrow('flush: -5');
    expect(disk.read(CLUSTER, CLUSTER).equals(guestCluster(1))).toBe(true);
  }

  test.each<[string, number]>([
    ['the L1 table', L1_TABLE],
    ['an L2 table', L2_TABLE + CLUSTER],
    ['the refcount table', REFCOUNT_TABLE],
    ['a refcount block', REFCOUNT_BLOCK],
    ['the snapshot table', SNAPSHOT_TABLE],
  ])('guest data are not written over %s', (_, target) => {
    const { disk, path, before } = open((image) => image.u64(L2_TABLE, COPIED | BigInt(target)));
    expect(() => disk.write(0, guestCluster(7))).toThrow(EIO);
    expectMarkedCorrupt(disk, path, before);
  });

  test('nor where a zero cluster would be kept', () => {
    const { disk, path, before } = open((image) => image.u64(L2_TABLE, COPIED | BigInt(L1_TABLE) | 1n));
    expect(() => disk.write(0, guestCluster(7))).toThrow(EIO);
    expectMarkedCorrupt(disk, path, before);
  });

  test.each<[string, number]>([
    ['the header', 0],
    ['the refcount table', 1],
    ['the L1 table', 3],
    ['an L2 table', 4],
  ])('a cluster that is counted as free and holds %s is not given away', (_, cluster) => {
    const { disk, path, before } = open((image) => image.u16(REFCOUNT_BLOCK + cluster * 2, 0));
    expect(() => disk.write(100 * CLUSTER, guestCluster(7))).toThrow(EIO);
    expectMarkedCorrupt(disk, path, before);
  });

  test('entries that point between clusters, or further than any file', () => {
    for (const entry of [COPIED | BigInt(FIRST_DATA + 2 ** 54), COPIED | ((1n << 56n) - 512n)]) {
      const { disk } = open((image) => image.u64(L2_TABLE, entry));
      expect(() => disk.read(0, CLUSTER)).toThrow('readv: -5');
      expect(complaints[0]).toContain('guest cluster 0 is at');
      expect(disk.read(CLUSTER, CLUSTER).equals(guestCluster(1))).toBe(true);
    }
  });

  test('a cluster is copied rather than written when its entry does not say that nobody shares it', () => {
    const { disk, path } = open((image) => image.u64(L2_TABLE, FIRST_DATA));
    disk.write(0, guestCluster(7));
    disk.flush();
    expect(disk.read(0, CLUSTER).equals(guestCluster(7))).toBe(true);
    expect(readFileSync(path).readBigUInt64BE(L2_TABLE)).not.toBe(BigInt(FIRST_DATA));
  });

  test('a zero cluster in version 2', () => {
    const { disk } = open((image) => image.u32(4, 2));
    expect(() => disk.read(4 * CLUSTER, CLUSTER)).toThrow('readv: -5');
    expect(complaints[0]).toContain('guest cluster 4 is a zero cluster in version 2');
  });

  test('compressed data that are none, too much, or not there', () => {
    for (const at of [FIRST_DATA, 2 ** 40]) {
      const { disk } = open((image) => image.u64(L2_TABLE + 5 * 8, (1n << 62n) | BigInt(at)));
      expect(() => disk.read(5 * CLUSTER, CLUSTER)).toThrow('readv: -5');
    }
  });

  test('a cluster that is released once too often', () => {
    // Guest clusters 0 and 1 in one place.
    const { disk, path } = open((image) => image.u64(L2_TABLE + 8, COPIED | BigInt(FIRST_DATA)));
    disk.discard(0, 2 * CLUSTER);
    expect(() => disk.flush()).toThrow('flush: -5');
    expect(complaints[0]).toContain('has no reference counted');
    expect(readFileSync(path)[79] & 2).toBe(2);
  });

  test.each<[string, number]>([
    ['the header', 0],
    ['the L1 table', L1_TABLE],
    ['a refcount block', REFCOUNT_BLOCK],
  ])('%s is not let go of, though an entry says that it is data', (_, target) => {
    const { disk, path, before } = open((image) => image.u64(L2_TABLE + 5 * 8, (1n << 62n) | BigInt(target + 8)));
    disk.discard(5 * CLUSTER, CLUSTER);
    expect(() => disk.flush()).toThrow('flush: -5');
    expect(complaints[0]).toContain('holds metadata');
    const now = readFileSync(path);
    expect(now[79]).toBe(2);
    // The entry itself is gone, and nothing else.
    now.copyWithin(79, 78, 79);
    before.writeBigUInt64BE(0n, L2_TABLE + 5 * 8);
    expect(now.equals(before)).toBe(true);
  });

  test('writing switches off what only those keep true who know it', () => {
    const { disk, path } = open((image) => image.u64(88, (1n << 40n) | 1n));
    disk.read(0, CLUSTER);
    disk.flush();
    expect(readFileSync(path).readBigUInt64BE(88)).toBe((1n << 40n) | 1n);
    disk.write(0, guestCluster(7));
    expect(readFileSync(path).readBigUInt64BE(88)).toBe(0n);
    expect(complaints).toHaveLength(1);
  });
});
