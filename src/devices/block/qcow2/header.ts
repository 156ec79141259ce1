// The qcow2 header and its extensions: parsed, checked against the file, and nothing else. Both threads read it: the main
// thread to find the backing files and to refuse what is wrong before anything starts, the I/O worker to open the image.
//
// An image is hostile: whoever sent it chose every byte. What is checked here is what the header says about itself and
// about the file's size; tables are checked where they are loaded.

import { EIO, SysError } from '../../../platform/errno.js';
import { NativeBuffer } from '../../../platform/native-buffer.js';
import { TWO_POW_32 } from '../../../platform/units.js';
import { SECTOR_SIZE } from '../disk-image.js';
import type { HostFile } from '../host-file.js';
import { checkMend, QcowError, type QcowErrorCode } from './errors.js';
import * as format from './format.js';

export type CompressionType = 'zlib' | 'zstd';

export interface BackingReference {
  /** As the image spells it. */
  readonly name: string;
  /** The format's name, for example `raw`; `undefined` when the image does not say. */
  readonly format: string | undefined;
}

export interface QcowHeader {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** Bytes of the disk. */
  readonly size: number;
  /** Entries. */
  readonly l1Size: number;
  readonly l1TableOffset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly refcountOrder: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly dirty: boolean;
  readonly corrupt: boolean;
  /** Whether any autoclear feature bit is set. */
  readonly autoclear: boolean;
  readonly compression: CompressionType;
  readonly backing: BackingReference | undefined;
}

const INCOMPATIBLE_BITS_KNOWN = [
  format.DIRTY_BIT,
  format.CORRUPT_BIT,
  format.EXTERNAL_DATA_FILE_BIT,
  format.COMPRESSION_TYPE_BIT,
  format.EXTENDED_L2_BIT,
];

/** Whether a file that starts with `bytes` calls itself QCOW, of whatever version. */
export function hasQcowMagic(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && new DataView(bytes.buffer, bytes.byteOffset).getUint32(0) === format.QCOW2_MAGIC;
}

/** Reads and checks the header of `file`. Throws QcowError. */
export function readHeader(file: HostFile): QcowHeader {
  const { path, size } = file.settings;
  const start = readStart(file, Math.min(size, format.KNOWN_HEADER_LENGTH));
  const clusterBits = new FixedHeader(start, path, size).clusterBits;
  // Extensions and the name of the backing file are somewhere in the first cluster.
  return parseHeader(readStart(file, Math.min(size, 2 ** clusterBits)), path, size);
}

/** Checks a header. `bytes` is the first cluster of the file, or all of a shorter one. Throws QcowError. */
export function parseHeader(bytes: Uint8Array, path: string, fileSize: number): QcowHeader {
  const fixed = new FixedHeader(bytes, path, fileSize);
  const extensions = new Extensions(bytes, fixed.headerLength, fixed.clusterSize, path);
  fixed.checkFeatures(extensions.featureNames);
  fixed.checkTables();
  return {
    version: fixed.version,
    clusterBits: fixed.clusterBits,
    size: fixed.checkedSize(),
    l1Size: fixed.l1Size,
    l1TableOffset: fixed.l1TableOffset,
    refcountTableOffset: fixed.refcountTableOffset,
    refcountTableClusters: fixed.refcountTableClusters,
    refcountOrder: fixed.refcountOrder,
    snapshotCount: fixed.snapshotCount,
    snapshotsOffset: fixed.snapshotsOffset,
    dirty: fixed.hasFeature(format.DIRTY_BIT),
    corrupt: fixed.hasFeature(format.CORRUPT_BIT),
    autoclear: fixed.autoclear,
    compression: fixed.compression,
    backing: fixed.backing(extensions.backingFormat),
  };
}

function readStart(file: HostFile, length: number): Uint8Array {
  const buffer = new NativeBuffer(length);
  const result = length === 0 ? 0 : file.read(buffer.address, length, 0);
  if (result === 0) return buffer.bytes;
  const { path } = file.settings;
  throw new QcowError(
    'io',
    path,
    'its header cannot be read',
    'look at the disk',
    new SysError('preadv', -result, path),
  );
}

/** The numbered fields. The constructor checks what the rest of the parsing stands on. */
class FixedHeader {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly headerLength: number;
  readonly l1Size: number;
  readonly l1TableOffset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly refcountOrder: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly autoclear: boolean;
  compression: CompressionType = 'zlib';
  private readonly bytes: Uint8Array;
  private readonly path: string;
  private readonly fileSize: number;
  private readonly view: DataView;

  constructor(bytes: Uint8Array, path: string, fileSize: number) {
    this.bytes = bytes;
    this.path = path;
    this.fileSize = fileSize;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (!hasQcowMagic(bytes)) {
      throw new QcowError('not-qcow2', path, 'this is not a qcow2 image', 'name a qcow2 image, or say image_type=raw');
    }
    if (bytes.length < format.V2_HEADER_LENGTH) throw this.bad(`the file ends inside its header (${fileSize} bytes)`);
    const version = this.u32(format.VERSION_OFFSET);
    if (version !== 2 && version !== 3) {
      const mend = 'convert it: qemu-img convert -O qcow2';
      throw new QcowError('version', path, `QCOW version ${version} is not supported (2 and 3 are)`, mend);
    }
    this.version = version;
    this.clusterBits = this.u32(format.CLUSTER_BITS_OFFSET);
    if (this.clusterBits < format.MIN_CLUSTER_BITS || this.clusterBits > format.MAX_CLUSTER_BITS) {
      throw this.bad(`cluster_bits is ${this.clusterBits} (9 to 21 are possible)`);
    }
    this.clusterSize = 2 ** this.clusterBits;
    this.headerLength = format.V2_HEADER_LENGTH;
    this.refcountOrder = format.V2_REFCOUNT_ORDER;
    this.autoclear = false;
    if (version === 3) {
      if (bytes.length < format.V3_MIN_HEADER_LENGTH) throw this.bad(`the file ends inside its header`);
      this.headerLength = this.u32(format.HEADER_LENGTH_OFFSET);
      const { headerLength, clusterSize } = this;
      if (headerLength < format.V3_MIN_HEADER_LENGTH || headerLength % 8 !== 0 || headerLength > clusterSize) {
        throw this.bad(`header_length is ${headerLength} (104 to the cluster size, in steps of 8)`);
      }
      this.refcountOrder = this.u32(format.REFCOUNT_ORDER_OFFSET);
      if (this.refcountOrder > format.MAX_REFCOUNT_ORDER) {
        throw this.bad(`refcount_order is ${this.refcountOrder} (0 to 6 are possible)`);
      }
      this.autoclear = this.u64(format.AUTOCLEAR_FEATURES_OFFSET) !== 0;
    }
    this.l1Size = this.u32(format.L1_SIZE_OFFSET);
    this.l1TableOffset = this.u64(format.L1_TABLE_OFFSET_OFFSET);
    this.refcountTableOffset = this.u64(format.REFCOUNT_TABLE_OFFSET_OFFSET);
    this.refcountTableClusters = this.u32(format.REFCOUNT_TABLE_CLUSTERS_OFFSET);
    this.snapshotCount = this.u32(format.NB_SNAPSHOTS_OFFSET);
    this.snapshotsOffset = this.u64(format.SNAPSHOTS_OFFSET_OFFSET);
  }

  /** Whether incompatible feature `bit` is set. */
  hasFeature(bit: number): boolean {
    if (this.version === 2) return false;
    const word = this.u32(format.INCOMPATIBLE_FEATURES_OFFSET + (bit < 32 ? 4 : 0));
    return ((word >>> (bit & 31)) & 1) !== 0;
  }

  /** Refuses what would have to be understood to read the image, each by its name. */
  checkFeatures(names: ReadonlyMap<number, string>): void {
    const method = this.u32(format.CRYPT_METHOD_OFFSET);
    if (method !== 0) {
      throw this.unsupported(`it is encrypted (${['', 'AES', 'LUKS'].at(method) ?? `method ${method}`})`);
    }
    for (let bit = 0; bit < 64; bit++) {
      if (this.hasFeature(bit) && !INCOMPATIBLE_BITS_KNOWN.includes(bit)) {
        throw this.unsupported(`it has the incompatible feature ${bit} (${names.get(bit) ?? 'unknown'})`);
      }
    }
    if (this.hasFeature(format.EXTERNAL_DATA_FILE_BIT)) throw this.unsupported('its data are in an external data file');
    if (this.hasFeature(format.EXTENDED_L2_BIT)) throw this.unsupported('it has extended L2 entries (subclusters)');
    const hasType = this.version === 3 && this.headerLength > format.COMPRESSION_TYPE_OFFSET;
    const type = hasType ? this.u8(format.COMPRESSION_TYPE_OFFSET) : 0;
    if (this.hasFeature(format.COMPRESSION_TYPE_BIT) !== (type !== 0)) {
      throw this.bad(`compression_type ${type} and the feature bit for it contradict each other`);
    }
    if (type > 1) throw this.unsupported(`its compression type is ${type}`);
    this.compression = type === 1 ? 'zstd' : 'zlib';
  }

  checkTables(): void {
    const { clusterSize, l1Size, refcountTableClusters, snapshotCount } = this;
    const entriesNeeded = Math.ceil(this.checkedSize() / (clusterSize * (clusterSize / format.TABLE_ENTRY_SIZE)));
    const l1Bytes = l1Size * format.TABLE_ENTRY_SIZE;
    if (l1Size < entriesNeeded) {
      throw this.bad(`l1_size is ${l1Size}, too small for the disk (${entriesNeeded} entries)`);
    }
    if (l1Bytes > format.MAX_L1_BYTES) throw this.bad(`l1_size is ${l1Size} (4194304 at most)`);
    if (refcountTableClusters === 0) throw this.bad('refcount_table_clusters is 0');
    const refcountTableBytes = refcountTableClusters * clusterSize;
    if (refcountTableBytes > format.MAX_REFCOUNT_TABLE_BYTES) {
      throw this.bad(`refcount_table_clusters is ${refcountTableClusters} (8 MiB at most)`);
    }
    if (snapshotCount > format.MAX_SNAPSHOTS) throw this.bad(`nb_snapshots is ${snapshotCount} (65536 at most)`);
    const l1 = this.table('l1_table_offset', this.l1TableOffset, l1Bytes);
    const refcounts = this.table('refcount_table_offset', this.refcountTableOffset, refcountTableBytes);
    if (l1.first <= refcounts.last && refcounts.first <= l1.last) {
      throw this.bad('the L1 table and the refcount table overlap');
    }
    if (snapshotCount === 0) return;
    const { first } = this.table('snapshots_offset', this.snapshotsOffset, snapshotCount * format.SNAPSHOT_FIXED_SIZE);
    if ((first >= l1.first && first <= l1.last) || (first >= refcounts.first && first <= refcounts.last)) {
      throw this.bad('the snapshot table lies in another table');
    }
  }

  checkedSize(): number {
    const size = this.u64(format.SIZE_OFFSET);
    if (size === 0 || size % SECTOR_SIZE !== 0 || size > Number.MAX_SAFE_INTEGER) {
      throw this.bad(`the size of the disk is ${size} bytes (a multiple of 512 above 0)`);
    }
    return size;
  }

  /** `backingFormat` is what the header extension says. */
  backing(backingFormat: string | undefined): BackingReference | undefined {
    const offset = this.u64(format.BACKING_FILE_OFFSET_OFFSET);
    const length = this.u32(format.BACKING_FILE_SIZE_OFFSET);
    if (offset === 0 || length === 0) return undefined;
    if (length > format.MAX_BACKING_NAME_LENGTH) {
      throw this.bad(`the name of its backing file has ${length} bytes (1023 at most)`);
    }
    if (offset < this.headerLength || offset + length > this.bytes.length) {
      throw this.bad(`backing_file_offset ${offset} is outside the first cluster`);
    }
    const name = text(this.bytes.subarray(offset, offset + length));
    if (name === undefined || name.includes('\0')) throw this.bad('the name of its backing file is not a text');
    return { name, format: backingFormat };
  }

  /** The clusters that a table takes, once its place is possible. */
  private table(field: string, offset: number, length: number): { readonly first: number; readonly last: number } {
    const { clusterSize } = this;
    if (offset % clusterSize !== 0) throw this.bad(`${field} ${offset} is not a multiple of the cluster size`);
    if (offset === 0) throw this.bad(`${field} 0 is where the header is`);
    // The last cluster of the file may be there in part.
    if (offset + length > Math.ceil(this.fileSize / clusterSize) * clusterSize) {
      throw this.bad(`${field} ${offset} with ${length} bytes is beyond the end of the file (${this.fileSize} bytes)`);
    }
    return { first: offset / clusterSize, last: Math.ceil((offset + length) / clusterSize) - 1 };
  }

  private u8(offset: number): number {
    return offset < this.bytes.length ? this.view.getUint8(offset) : 0;
  }

  private u32(offset: number): number {
    return this.view.getUint32(offset);
  }

  /** Inexact from 2^53 on, where every use of it ends in a refusal. */
  private u64(offset: number): number {
    return this.view.getUint32(offset) * TWO_POW_32 + this.view.getUint32(offset + 4);
  }

  private bad(detail: string, code: QcowErrorCode = 'bad-header'): QcowError {
    return new QcowError(code, this.path, `broken qcow2 header: ${detail}`, checkMend(this.path));
  }

  private unsupported(what: string): QcowError {
    return new QcowError('unsupported', this.path, what, 'convert it: qemu-img convert -O qcow2');
  }
}

/** The header extensions that matter: u32 type, u32 length, data, padding to 8 bytes, until one of type 0. */
class Extensions {
  readonly featureNames = new Map<number, string>();
  readonly backingFormat: string | undefined;

  constructor(bytes: Uint8Array, headerLength: number, clusterSize: number, path: string) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const end = Math.min(bytes.length, clusterSize);
    let position = headerLength;
    while (position + 8 <= end) {
      const type = view.getUint32(position);
      const length = view.getUint32(position + 4);
      if (type === format.EXTENSION_END) return;
      if (length > end - position - 8) {
        const detail = `broken qcow2 header: extension 0x${type.toString(16)} of ${length} bytes passes the first cluster`;
        throw new QcowError('bad-header', path, detail, checkMend(path));
      }
      const data = bytes.subarray(position + 8, position + 8 + length);
      if (type === format.EXTENSION_BACKING_FORMAT) this.backingFormat = text(data) ?? '?';
      if (type === format.EXTENSION_FEATURE_NAMES) this.readFeatureNames(data);
      position += 8 + Math.ceil(length / 8) * 8;
    }
  }

  private readFeatureNames(data: Uint8Array): void {
    for (let at = 0; at + format.FEATURE_NAME_ENTRY_SIZE <= data.length; at += format.FEATURE_NAME_ENTRY_SIZE) {
      if (data[at] !== 0) continue;
      const name = new TextDecoder().decode(data.subarray(at + 2, at + format.FEATURE_NAME_ENTRY_SIZE));
      this.featureNames.set(data[at + 1], name.replace(/[^ -~].*$/s, ''));
    }
  }
}

function text(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/** The error for what `result` (-errno) says of a table. */
export function tableError(path: string, what: string, result: number): QcowError {
  if (result === -EIO) return new QcowError('corrupt', path, `${what} cannot be read`, checkMend(path));
  return new QcowError('io', path, `${what} cannot be read`, 'look at the disk', new SysError('preadv', -result, path));
}
