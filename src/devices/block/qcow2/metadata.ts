// Everything about an open image that is not guest data: its tables, what they take up, and in which order changes to them
// reach the disk. Runs in the I/O worker.
//
// The order is what keeps an image whole. Whenever the monitor is killed or the host crashes, on the disk
//
//   - every cluster that a table refers to is counted (else it would be given to somebody else), and
//   - every table that is referred to has been written.
//
// Changes gather in memory. `commit` brings them out:
//
//   1. refcount blocks: only more references than before, since releases wait for step 5
//   2. a barrier (fdatasync), which the guest data in new clusters are under, too
//   3. L2 tables and L1 entries, in any order: each entry old or new is right
//   4. a barrier
//   5. clusters that no table names any more are released, in memory
//
// A crash loses what was not flushed, and leaves at worst clusters that are counted and that nobody uses.

import { EIO } from '../../../platform/errno.js';
import { NativeBuffer } from '../../../platform/native-buffer.js';
import { ClusterSet } from './cluster-set.js';
import { checkMend, QcowError } from './errors.js';
import * as format from './format.js';
import { tableError, type QcowHeader } from './header.js';
import type { ImageFile } from './image-file.js';
import { PendingFrees } from './pending-frees.js';
import { BAD_OFFSET, PointerTable } from './pointer-table.js';
import { Refcounts } from './refcounts.js';
import { MAX_SLICE_SIZE, SliceCache } from './slice-cache.js';
import { forEachSnapshotTable } from './snapshots.js';

/** 4 MiB of L2 slices, less when all of them are smaller: with clusters of 64 KiB, they map 32 GiB. */
const MAX_L2_SLICES = 1024;

/** What the set of them takes stays below 128 MiB. With clusters of 64 KiB, this many L2 tables map 2 PiB. */
const MAX_METADATA_CLUSTERS = 2 ** 22;

export type ImageLog = (level: 'warn' | 'error', message: string) => void;

export class Metadata {
  readonly file: ImageFile;
  readonly header: QcowHeader;
  readonly clusterSize: number;
  readonly l1: PointerTable;
  readonly l2: SliceCache;
  /** Host clusters that hold metadata; empty for an image that is only read. */
  readonly metadataClusters = new ClusterSet();
  readonly refcounts: Refcounts | undefined;
  readonly frees = new PendingFrees();
  /** Set once the image has been found damaged: it is not written to any more. */
  private isCorrupt = false;
  private isPrepared = false;
  private readonly log: ImageLog;
  private readonly featureWord = new NativeBuffer(format.TABLE_ENTRY_SIZE);
  private freedFirst = 0;
  private freedCount = 0;
  private readonly clusterFreed = (cluster: number): void => this.noteFreed(cluster);

  /** Reads and checks the tables of the first level. Throws QcowError. */
  constructor(file: ImageFile, header: QcowHeader, log: ImageLog) {
    this.file = file;
    this.header = header;
    this.log = log;
    this.clusterSize = 2 ** header.clusterBits;
    this.l1 = new PointerTable(header.l1TableOffset, header.l1Size, format.OFFSET_HIGH_MASK);
    const l2Bytes = Math.ceil(header.size / this.clusterSize) * format.TABLE_ENTRY_SIZE;
    const sliceSize = Math.min(this.clusterSize, MAX_SLICE_SIZE);
    this.l2 = new SliceCache(file, this.clusterSize, Math.min(Math.ceil(l2Bytes / sliceSize), MAX_L2_SLICES));
    this.l2.makeClean = () => this.commit(false);
    const { path, readOnly } = file.settings;
    this.require(this.l1.load(file), 'the L1 table');
    if (readOnly) return;
    if (header.corrupt) {
      throw new QcowError(
        'corrupt',
        path,
        'the image is marked as corrupt',
        `repair it: qemu-img check -r all ${path}`,
      );
    }
    if (header.dirty) {
      const detail = 'the image was not closed cleanly, and its reference counts may be wrong';
      throw new QcowError('dirty', path, detail, `repair it: qemu-img check -r all ${path}`);
    }
    this.refcounts = new Refcounts(file, header, this.metadataClusters, (what) => this.corrupt(what));
    this.require(this.refcounts.load(), 'the refcount table');
    this.claimMetadata(this.refcounts);
  }

  /** The image contradicts itself: says so once, marks it, and ends all writing. Returns -EIO. */
  corrupt(what: string): number {
    if (this.isCorrupt) return -EIO;
    this.isCorrupt = true;
    const { path, readOnly } = this.file.settings;
    this.log('error', `${path}: the qcow2 image is corrupt: ${what}; ${checkMend(path)}`);
    if (!readOnly && this.header.version === 3) {
      // With any other incompatible feature the image would not have been opened.
      const compressionBit = this.header.compression === 'zlib' ? 0 : 1 << format.COMPRESSION_TYPE_BIT;
      this.writeFeatures(format.INCOMPATIBLE_FEATURES_OFFSET, compressionBit | (1 << format.CORRUPT_BIT));
    }
    return -EIO;
  }

  /** To be called before anything of the image changes. Returns 0 or -errno. */
  prepareToWrite(): number {
    if (this.isCorrupt) return -EIO;
    if (this.isPrepared) return 0;
    if (this.header.autoclear) {
      // Features that stay true only as long as everybody who writes knows them. Persistent bitmaps are one.
      const { path } = this.file.settings;
      this.log(
        'warn',
        `${path}: features of the image that are not supported are switched off by writing, for example bitmaps`,
      );
      const result = this.writeFeatures(format.AUTOCLEAR_FEATURES_OFFSET, 0);
      if (result < 0) return result;
    }
    this.isPrepared = true;
    return 0;
  }

  /** Brings all changes to the disk, and makes them last. Returns 0 or -errno; what is not there then is tried again. */
  flush(): number {
    return this.commit(true);
  }

  /** Writes all changes, in order; the last of them last only with `durable`. */
  private commit(durable: boolean): number {
    if (this.isCorrupt) return -EIO;
    let result = this.refcounts?.writeDirty() ?? 0;
    if (this.l1.isDirty || this.l2.isDirty) {
      if (result === 0) result = this.file.flush();
      if (result === 0) result = this.l2.writeDirty();
      if (result === 0) result = this.l1.writeDirty(this.file);
    }
    if (result === 0 && (durable || this.frees.count > 0)) result = this.file.flush();
    return result === 0 ? this.releaseFrees() : result;
  }

  /** Makes sure that one more run of clusters can be freed. Returns 0 or -errno. */
  makeRoomForFrees(): number {
    return this.frees.isFull ? this.commit(false) : 0;
  }

  private releaseFrees(): number {
    const { frees, refcounts } = this;
    if (refcounts === undefined) return 0;
    let result = 0;
    for (let index = 0; result === 0 && index < frees.count; index++) {
      result = refcounts.release(frees.firstAt(index), frees.countAt(index), this.clusterFreed);
    }
    frees.clear();
    this.discardFreed();
    return result;
  }

  /** Gathers neighbours, so that their space is given back with one call. */
  private noteFreed(cluster: number): void {
    if (this.freedFirst + this.freedCount !== cluster) {
      this.discardFreed();
      this.freedFirst = cluster;
    }
    this.freedCount++;
  }

  private discardFreed(): void {
    const { clusterSize } = this;
    // Advice: that the space is not given back is no failure of anybody's request.
    if (this.freedCount > 0) this.file.discard(this.freedFirst * clusterSize, this.freedCount * clusterSize);
    this.freedCount = 0;
  }

  /**
   * Notes where metadata is. Two tables in one place would make that worthless, and a guest could write the one by way of
   * the other; so such an image is not written to.
   */
  private claimMetadata(refcounts: Refcounts): void {
    const { clusterSize, header, l1 } = this;
    this.claim(0, 1, 'the header');
    this.claim(header.l1TableOffset, header.l1Size * format.TABLE_ENTRY_SIZE, 'the L1 table');
    const refcountTableBytes = header.refcountTableClusters * clusterSize;
    this.claim(header.refcountTableOffset, refcountTableBytes, 'the refcount table');
    forEachSnapshotTable(this.file, header, (offset, length, what) => this.claim(offset, length, what));
    refcounts.forEachBlock((offset) => this.claim(offset, clusterSize, 'a refcount block'));
    for (let index = 0; index < l1.length; index++) {
      const offset = l1.offsetAt(index);
      if (offset !== 0) this.claim(offset, clusterSize, `L2 table ${index}`);
    }
  }

  private claim(offset: number, length: number, what: string): void {
    const { clusterSize, file, metadataClusters } = this;
    const { path } = file.settings;
    // The last cluster of the file may be there in part.
    if (offset === BAD_OFFSET || offset % clusterSize !== 0 || offset + length > file.end + clusterSize) {
      throw new QcowError('corrupt', path, `${what} is where none can be (${offset})`, checkMend(path));
    }
    const end = Math.ceil((offset + length) / clusterSize);
    for (let cluster = offset / clusterSize; cluster < end; cluster++) {
      if (metadataClusters.size > MAX_METADATA_CLUSTERS) {
        throw new QcowError(
          'unsupported',
          path,
          'it has more tables than can be held in memory',
          'use larger clusters',
        );
      }
      if (metadataClusters.add(cluster)) continue;
      const detail = `${what} shares cluster ${cluster} of the file with another table`;
      throw new QcowError('corrupt', path, detail, checkMend(path));
    }
  }

  private require(result: number, what: string): void {
    if (result < 0) throw tableError(this.file.settings.path, what, result);
  }

  /** Replaces a feature word of the header, durably; no feature that we set has a bit above 31. Returns 0 or -errno. */
  private writeFeatures(offset: number, low: number): number {
    const { featureWord: word } = this;
    word.view.setUint32(4, low);
    const result = this.file.write(word.address, word.byteLength, offset);
    return result === 0 ? this.file.flush() : result;
  }
}
