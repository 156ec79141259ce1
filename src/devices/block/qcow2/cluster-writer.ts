// Changing guest data: writing, discarding, zeroing. Runs in the I/O worker, for images that may be written.
//
// A cluster that is the image's own is written in place. Everything else (not there yet, in the backing file, compressed,
// shared with a snapshot) gets a new host cluster, written as a whole: what the request does not cover of it is copied
// from where it was. Data are written before any table says so (see metadata.ts for the rest of the order).

import { EIO } from '../../../platform/errno.js';
import { IovecArray } from '../../../platform/iovec.js';
import { NativeBuffer } from '../../../platform/native-buffer.js';
import { KIB, PAGE_SIZE } from '../../../platform/units.js';
import type { ClusterReader } from './cluster-reader.js';
import type { ClusterKind, ClusterMap } from './cluster-map.js';
import { IovecCursor } from './iovec-cursor.js';
import type { Metadata } from './metadata.js';
import type { Refcounts } from './refcounts.js';

/** Guest clusters that are changed at a time, at most. */
const MAX_CLUSTERS = 1024;
const ZEROES_SIZE = 64 * KIB;
const ZERO_ENTRIES = 64;
/** Entries of a write for what surrounds the request's bytes in their clusters. */
const COPY_ENTRIES = 2;

const ignoreFreed = (): void => undefined;

export class ClusterWriter {
  private readonly metadata: Metadata;
  private readonly refcounts: Refcounts;
  private readonly map: ClusterMap;
  private readonly clusterSize: number;
  /** Reads what is copied; not the reader of requests, which may be in the middle of one. */
  private readonly reader: ClusterReader;
  private readonly hasBacking: boolean;
  private readonly cursor: IovecCursor;
  /** The part of a request that goes to one place. */
  private readonly run = new IovecArray();
  private readonly copied = new IovecArray(1);
  private readonly head: NativeBuffer;
  private readonly tail: NativeBuffer;
  private readonly zeroes = new NativeBuffer(ZEROES_SIZE, PAGE_SIZE);
  private readonly zeroVector = new IovecArray(ZERO_ENTRIES);

  constructor(metadata: Metadata, refcounts: Refcounts, map: ClusterMap, reader: ClusterReader, hasBacking: boolean) {
    this.metadata = metadata;
    this.refcounts = refcounts;
    this.map = map;
    this.reader = reader;
    this.hasBacking = hasBacking;
    this.clusterSize = metadata.clusterSize;
    this.cursor = new IovecCursor(this.run);
    this.head = new NativeBuffer(this.clusterSize, PAGE_SIZE);
    this.tail = new NativeBuffer(this.clusterSize, PAGE_SIZE);
  }

  /** Writes what `iovecs` name as guest data from `offset` on. Returns 0 or -errno. */
  writev(iovecs: IovecArray, offset: number): number {
    const { clusterSize, map } = this;
    const prepared = this.metadata.prepareToWrite();
    if (prepared < 0) return prepared;
    const end = offset + iovecs.totalBytes;
    this.cursor.start(iovecs);
    for (let position = offset; position < end;) {
      const inCluster = position % clusterSize;
      const cluster = (position - inCluster) / clusterSize;
      const result = map.lookup(cluster, Math.ceil((end - position + inCluster) / clusterSize));
      if (result < 0) return result;
      const bytes = Math.min(end - position, map.clusters * clusterSize - inCluster);
      if (map.copied && map.kind === 'data') {
        // A file that was cut off must not seem to be whole again.
        if (map.hostOffset >= this.metadata.file.end) return -EIO;
        if (this.coversMetadata(map.hostOffset, inCluster + bytes)) return this.overlap(cluster);
        const to = map.hostOffset + inCluster;
        if (position === offset && bytes === iovecs.totalBytes) return this.metadata.file.writev(iovecs, to);
        this.run.clear();
        const taken = this.cursor.take(bytes, this.run);
        const written = this.metadata.file.writev(this.run, to);
        if (written < 0) return written;
        position += taken;
      } else {
        const written = this.writeNew(cluster, inCluster, bytes);
        if (written < 0) return written;
        position += written;
      }
    }
    return 0;
  }

  /** Lets whole clusters inside the range go. Returns 0 or -errno. */
  discard(offset: number, length: number): number {
    const { clusterSize, map } = this;
    const canZero = this.metadata.header.version === 3;
    // What was there before the image was made must not come to light again.
    if (this.hasBacking && !canZero) return 0;
    const first = Math.ceil(offset / clusterSize);
    const end = this.endCluster(offset + length);
    for (let cluster = first; cluster < end;) {
      const result = this.change(
        cluster,
        end,
        (kind) => kind === 'unallocated' || (kind === 'zero' && map.hostOffset === 0),
      );
      if (result < 0) return result;
      if (result > 0) {
        this.freeOld(map.clusters);
        if (this.hasBacking) map.setZero(cluster, map.clusters, 0);
        else map.setUnallocated(cluster, map.clusters);
      }
      cluster += map.clusters;
    }
    return 0;
  }

  /** Lets the range read as zeroes; without `unmap`, data clusters keep their host clusters. Returns 0 or -errno. */
  writeZeroes(offset: number, length: number, unmap: boolean): number {
    const { clusterSize } = this;
    const end = offset + length;
    const firstWhole = Math.ceil(offset / clusterSize);
    const endWhole = this.endCluster(end);
    if (firstWhole >= endWhole) return this.writeZeroBytes(offset, length);
    const head = firstWhole * clusterSize - offset;
    let result = head > 0 ? this.writeZeroBytes(offset, head) : 0;
    if (result < 0) return result;
    result = this.zeroClusters(firstWhole, endWhole, unmap);
    if (result < 0) return result;
    const tail = end - Math.min(endWhole * clusterSize, end);
    return tail > 0 ? this.writeZeroBytes(endWhole * clusterSize, tail) : 0;
  }

  private zeroClusters(first: number, end: number, unmap: boolean): number {
    const { map, clusterSize } = this;
    const canZero = this.metadata.header.version === 3;
    if (!canZero && this.hasBacking) return this.writeZeroBytes(first * clusterSize, (end - first) * clusterSize);
    for (let cluster = first; cluster < end;) {
      const readsZero = (kind: ClusterKind): boolean =>
        (kind === 'unallocated' && !this.hasBacking) || (kind === 'zero' && !(unmap && map.hostOffset !== 0));
      const result = this.change(cluster, end, readsZero);
      if (result < 0) return result;
      const { clusters } = map;
      if (result > 0) {
        if (!unmap && canZero && map.kind === 'data' && map.copied) {
          map.setZero(cluster, clusters, map.hostOffset);
        } else {
          this.freeOld(clusters);
          if (canZero) map.setZero(cluster, clusters, 0);
          else map.setUnallocated(cluster, clusters);
        }
      }
      cluster += clusters;
    }
    return 0;
  }

  /**
   * Looks up `cluster` and those like it below `end`. Unless `isDone` says that they are as they should be (0 is returned),
   * prepares to change their entries and returns 1; or -errno.
   */
  private change(cluster: number, end: number, isDone: (kind: ClusterKind) => boolean): number {
    const { map, metadata } = this;
    const max = Math.min(end - cluster, MAX_CLUSTERS);
    // Without a table there is nothing to read, and the answer is for all that the table would hold.
    let result = map.lookup(cluster, end - cluster);
    if (result < 0 || isDone(map.kind)) return result;
    result = metadata.prepareToWrite();
    if (result === 0) result = map.own(cluster);
    if (result === 0) result = metadata.makeRoomForFrees();
    if (result === 0) result = map.lookup(cluster, max);
    return result === 0 ? 1 : result;
  }

  /** Writes the next `bytes` of the request to clusters that are not there yet. Returns how many it wrote, or -errno. */
  private writeNew(cluster: number, inCluster: number, bytes: number): number {
    const { clusterSize, map, metadata, refcounts } = this;
    const wanted = Math.min(Math.ceil((inCluster + bytes) / clusterSize), MAX_CLUSTERS);
    let result = map.own(cluster);
    if (result === 0) result = metadata.makeRoomForFrees();
    if (result === 0) result = map.lookup(cluster, wanted);
    if (result < 0) return result;
    // A zero cluster may have a host cluster of its own already.
    const inPlace = map.copied;
    const available = map.clusters;
    let hostOffset = map.hostOffset;
    let clusters = available;
    if (!inPlace) {
      const first = refcounts.allocate(available);
      if (first < 0) return first;
      hostOffset = first * clusterSize;
      clusters = refcounts.allocated;
    } else if (this.coversMetadata(hostOffset, clusters * clusterSize)) {
      return this.overlap(cluster);
    }
    const written = this.writeWhole(
      cluster,
      inCluster,
      Math.min(bytes, clusters * clusterSize - inCluster),
      hostOffset,
    );
    const used = written < 0 ? 0 : Math.ceil((inCluster + written) / clusterSize);
    if (!inPlace && used < clusters) {
      // Nothing refers to these yet.
      refcounts.release(hostOffset / clusterSize + used, clusters - used, ignoreFreed);
    }
    if (written < 0) return written;
    result = map.lookup(cluster, used);
    if (result < 0) return result;
    if (!inPlace) this.freeOld(used);
    map.setData(cluster, used, hostOffset);
    return written;
  }

  /**
   * Writes the next `bytes` of the request, and what surrounds them in their clusters, to the host clusters at
   * `hostOffset`. Returns how many of the request's bytes it wrote, or -errno.
   */
  private writeWhole(cluster: number, inCluster: number, bytes: number, hostOffset: number): number {
    const { clusterSize, map, metadata, run, head, tail } = this;
    const readsZero = map.kind === 'zero' || (map.kind === 'unallocated' && !this.hasBacking);
    // A hole of the file reads as zeroes without our help.
    const skipsZeroes = readsZero && metadata.file.isUntouched(hostOffset);
    run.clear();
    if (inCluster > 0 && !skipsZeroes) {
      const result = this.readOld(head, inCluster, cluster * clusterSize, readsZero);
      if (result < 0) return result;
      run.add(head.address, inCluster);
    }
    const taken = this.cursor.take(bytes, run, run.capacity - COPY_ENTRIES);
    const rest = clusterSize - ((inCluster + taken) % clusterSize);
    if (rest < clusterSize && !skipsZeroes) {
      const result = this.readOld(tail, rest, cluster * clusterSize + inCluster + taken, readsZero);
      if (result < 0) return result;
      run.add(tail.address, rest);
    }
    const result = metadata.file.writev(run, skipsZeroes ? hostOffset + inCluster : hostOffset);
    return result < 0 ? result : taken;
  }

  private readOld(buffer: NativeBuffer, length: number, position: number, readsZero: boolean): number {
    if (readsZero) {
      buffer.bytes.fill(0, 0, length);
      return 0;
    }
    this.copied.clear();
    this.copied.add(buffer.address, length);
    return this.reader.readv(this.copied, position);
  }

  /** Lets go of what the `count` clusters that were just looked up refer to. There is room for them. */
  private freeOld(count: number): void {
    const { map, clusterSize } = this;
    const { frees } = this.metadata;
    if (map.kind === 'compressed') {
      const first = Math.floor(map.hostOffset / clusterSize);
      const last = Math.floor((map.hostOffset + map.compressedLength - 1) / clusterSize);
      frees.add(first, last - first + 1);
    } else if (map.hostOffset !== 0) {
      frees.add(map.hostOffset / clusterSize, count);
    }
  }

  /** Writes zeroes, where there are none yet. */
  private writeZeroBytes(offset: number, length: number): number {
    const { clusterSize, map } = this;
    const end = offset + length;
    for (let position = offset; position < end;) {
      const inCluster = position % clusterSize;
      const result = map.lookup(
        (position - inCluster) / clusterSize,
        Math.ceil((end - position + inCluster) / clusterSize),
      );
      if (result < 0) return result;
      const bytes = Math.min(end - position, map.clusters * clusterSize - inCluster);
      const readsZero = map.kind === 'zero' || (map.kind === 'unallocated' && !this.hasBacking);
      const written = readsZero ? bytes : this.writeSomeZeroBytes(position, bytes);
      if (written < 0) return written;
      position += written;
    }
    return 0;
  }

  /** Writes at most `length` zeroes. Returns how many, or -errno. */
  private writeSomeZeroBytes(offset: number, length: number): number {
    const { zeroes, zeroVector } = this;
    zeroVector.clear();
    while (zeroVector.count < ZERO_ENTRIES && zeroVector.totalBytes < length) {
      zeroVector.add(zeroes.address, Math.min(ZEROES_SIZE, length - zeroVector.totalBytes));
    }
    const bytes = zeroVector.totalBytes;
    const result = this.writev(zeroVector, offset);
    return result < 0 ? result : bytes;
  }

  /** The cluster behind the last that ends at or before `end`; what is behind the end of the disk counts as covered. */
  private endCluster(end: number): number {
    const { size } = this.metadata.header;
    return end === size ? Math.ceil(end / this.clusterSize) : Math.floor(end / this.clusterSize);
  }

  private coversMetadata(hostOffset: number, bytes: number): boolean {
    return this.metadata.metadataClusters.hasAny(hostOffset / this.clusterSize, Math.ceil(bytes / this.clusterSize));
  }

  private overlap(cluster: number): number {
    const result = this.metadata.corrupt(`guest cluster ${cluster} is where metadata is`);
    return result === 0 ? -EIO : result;
  }
}
