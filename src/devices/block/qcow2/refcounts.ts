// How many references there are to each host cluster: looking for free clusters, taking and releasing them. Runs in the
// I/O worker, for images that may be written.
//
// The refcount table points to refcount blocks of one cluster each; a block holds entries of 1 to 64 bits. A cluster that
// no block describes is free. We only ever take a free cluster (0 becomes 1) or release a reference; references of
// snapshots are made by others.
//
// Order of writing: a count may be too high on the disk, which is a leak, and never too low. So blocks may be written at
// any time after a cluster was taken, and `release` is called only when nothing on the disk refers to the cluster.

import { EIO, ENOSPC } from '../../../platform/errno.js';
import { NativeBuffer } from '../../../platform/native-buffer.js';
import { PAGE_SIZE, TWO_POW_32 } from '../../../platform/units.js';
import type { ClusterSet } from './cluster-set.js';
import {
  MAX_HOST_OFFSET,
  MAX_REFCOUNT_TABLE_BYTES,
  REFCOUNT_TABLE_CLUSTERS_OFFSET,
  REFCOUNT_TABLE_OFFSET_OFFSET,
  TABLE_ENTRY_SIZE,
} from './format.js';
import type { QcowHeader } from './header.js';
import type { ImageFile } from './image-file.js';
import { BAD_OFFSET, PointerTable } from './pointer-table.js';
import { SliceCache } from './slice-cache.js';

/** 256 KiB: with clusters of 64 KiB, the counts of 8 GiB. */
const CACHE_SLICES = 64;
/** Bits 9 to 63. */
const WHOLE_OFFSET_HIGH_MASK = 0xffff_ffff;

/** Reads the entry at `index` of a slice whose bytes begin at `base`. Inexact from 2^53 on. */
export function readRefcount(view: DataView, base: number, order: number, index: number): number {
  switch (order) {
    case 3:
      return view.getUint8(base + index);
    case 4:
      return view.getUint16(base + index * 2);
    case 5:
      return view.getUint32(base + index * 4);
    case 6:
      return view.getUint32(base + index * 8) * TWO_POW_32 + view.getUint32(base + index * 8 + 4);
    default: {
      const perByte = 8 >>> order;
      const shift = (index % perByte) << order;
      return (view.getUint8(base + Math.floor(index / perByte)) >>> shift) & ((1 << (1 << order)) - 1);
    }
  }
}

export function writeRefcount(view: DataView, base: number, order: number, index: number, count: number): void {
  switch (order) {
    case 3:
      view.setUint8(base + index, count);
      return;
    case 4:
      view.setUint16(base + index * 2, count);
      return;
    case 5:
      view.setUint32(base + index * 4, count);
      return;
    case 6:
      view.setUint32(base + index * 8, Math.floor(count / TWO_POW_32));
      view.setUint32(base + index * 8 + 4, count);
      return;
    default: {
      const perByte = 8 >>> order;
      const shift = (index % perByte) << order;
      const mask = ((1 << (1 << order)) - 1) << shift;
      const at = base + Math.floor(index / perByte);
      view.setUint8(at, (view.getUint8(at) & ~mask) | (count << shift));
    }
  }
}

export class Refcounts {
  /** How many clusters the last `allocate` took. */
  allocated = 0;
  private readonly file: ImageFile;
  private readonly metadata: ClusterSet;
  private readonly corrupt: (what: string) => number;
  private readonly clusterSize: number;
  private readonly order: number;
  private readonly entriesPerBlock: number;
  private readonly entriesPerSlice: number;
  private readonly cache: SliceCache;
  private table: PointerTable;
  /** A slice of a refcount block while it is made. */
  private readonly newSlice: NativeBuffer;
  /** What the header says of the refcount table: its offset, then how many clusters it takes. */
  private readonly tableReference = new NativeBuffer(REFCOUNT_TABLE_CLUSTERS_OFFSET + 4 - REFCOUNT_TABLE_OFFSET_OFFSET);
  /** No cluster below this one is free. */
  private lowestFree = 0;

  /**
   * `metadata` is what may not be taken, and grows with what is made here. `corrupt` is called when the tables contradict
   * themselves; what it returns, the caller returns.
   */
  constructor(file: ImageFile, header: QcowHeader, metadata: ClusterSet, corrupt: (what: string) => number) {
    this.file = file;
    this.metadata = metadata;
    this.corrupt = corrupt;
    this.clusterSize = 2 ** header.clusterBits;
    this.order = header.refcountOrder;
    this.cache = new SliceCache(file, this.clusterSize, CACHE_SLICES);
    this.newSlice = new NativeBuffer(this.cache.sliceSize, PAGE_SIZE);
    this.entriesPerBlock = (this.clusterSize * 8) / 2 ** this.order;
    this.entriesPerSlice = (this.cache.sliceSize * 8) / 2 ** this.order;
    const entries = (header.refcountTableClusters * this.clusterSize) / TABLE_ENTRY_SIZE;
    this.table = new PointerTable(header.refcountTableOffset, entries, WHOLE_OFFSET_HIGH_MASK);
  }

  /** Reads the refcount table. Returns 0 or -errno. */
  load(): number {
    return this.table.load(this.file);
  }

  /** Tells `visit` where each refcount block is, BAD_OFFSET included. */
  forEachBlock(visit: (offset: number) => void): void {
    for (let index = 0; index < this.table.length; index++) {
      const offset = this.table.offsetAt(index);
      if (offset !== 0) visit(offset);
    }
  }

  /**
   * Takes at most `wanted` free clusters that lie side by side: returns the first, `allocated` says how many; or -errno.
   * They are the caller's, to refer to or to release.
   */
  allocate(wanted: number): number {
    for (;;) {
      const first = this.findFree();
      if (first < 0) return first;
      const block = Math.floor(first / this.entriesPerBlock);
      if (block >= this.table.length) {
        const result = this.growTable();
        if (result < 0) return result;
      } else if (this.table.offsetAt(block) === 0) {
        const result = this.createBlock(block);
        if (result < 0) return result;
      } else {
        return this.take(first, wanted);
      }
    }
  }

  /**
   * Takes away a reference to each of `count` clusters from `first` on; `freed` is told of those that have none left.
   * Returns 0 or -errno.
   */
  release(first: number, count: number, freed: (cluster: number) => void): number {
    for (let cluster = first; cluster < first + count; cluster++) {
      if (this.metadata.has(cluster)) return this.corrupt(`cluster ${cluster} was in use and holds metadata`);
      const slot = this.loadSlice(cluster);
      if (slot < 0) return slot;
      const references = this.read(slot, cluster);
      if (references === 0) return this.corrupt(`cluster ${cluster} was in use and has no reference counted`);
      if (references > Number.MAX_SAFE_INTEGER) return this.corrupt(`cluster ${cluster} has an absurd reference count`);
      this.write(slot, cluster, references - 1);
      if (references === 1) {
        this.lowestFree = Math.min(this.lowestFree, cluster);
        freed(cluster);
      }
    }
    return 0;
  }

  /** Writes the counts that changed. Returns 0 or -errno. */
  writeDirty(): number {
    return this.cache.writeDirty();
  }

  /** The first free cluster, or -errno. */
  private findFree(): number {
    let cluster = this.lowestFree;
    for (;;) {
      const block = Math.floor(cluster / this.entriesPerBlock);
      if (block >= this.table.length || this.table.offsetAt(block) === 0) break;
      const slot = this.loadSlice(cluster);
      if (slot < 0) return slot;
      const next = cluster - (cluster % this.entriesPerSlice) + this.entriesPerSlice;
      while (cluster < next && this.read(slot, cluster) !== 0) cluster++;
      if (cluster < next) break;
    }
    this.lowestFree = cluster;
    return cluster;
  }

  /** Takes `first`, which is free, and those behind it that are, within one slice. */
  private take(first: number, wanted: number): number {
    const slot = this.loadSlice(first);
    if (slot < 0) return slot;
    const end = Math.min(first + wanted, first - (first % this.entriesPerSlice) + this.entriesPerSlice);
    if (end * this.clusterSize > MAX_HOST_OFFSET) return -ENOSPC;
    let cluster = first;
    while (cluster < end && this.read(slot, cluster) === 0) cluster++;
    if (this.metadata.hasAny(first, cluster - first)) {
      return this.corrupt(`cluster ${first} or one behind it holds metadata and has no reference counted`);
    }
    this.allocated = cluster - first;
    for (let taken = first; taken < cluster; taken++) this.write(slot, taken, 1);
    this.lowestFree = cluster;
    return first;
  }

  /** Makes refcount block `index`. It takes the first cluster that it describes: all of them are free. */
  private createBlock(index: number): number {
    const cluster = index * this.entriesPerBlock;
    if (this.metadata.has(cluster)) return this.corrupt(`cluster ${cluster} holds metadata and has no refcount block`);
    const result = this.writeBlock(cluster, 1);
    if (result < 0) return result;
    // The table must not point to a block that is not there after a crash of the host.
    const barrier = this.file.flush();
    if (barrier < 0) return barrier;
    this.metadata.add(cluster);
    this.table.set(index, cluster * this.clusterSize, false);
    return this.table.writeDirty(this.file);
  }

  /**
   * Moves the refcount table to where there is room for a larger one: behind all that the old table can describe. The new
   * blocks there describe the new table and themselves.
   */
  private growTable(): number {
    const { clusterSize, entriesPerBlock, table: old } = this;
    const base = old.length * entriesPerBlock;
    const entriesPerCluster = clusterSize / TABLE_ENTRY_SIZE;
    const maxEntries = MAX_REFCOUNT_TABLE_BYTES / TABLE_ENTRY_SIZE;
    let tableClusters = 0;
    let blocks = 0;
    // More table takes more blocks to describe it, which take more table; this ends after a step or two.
    for (let entries = Math.ceil(old.length * 1.5); entries > tableClusters * entriesPerCluster;) {
      tableClusters = Math.ceil(Math.min(entries, maxEntries) / entriesPerCluster);
      blocks = Math.ceil(tableClusters / (entriesPerBlock - 1));
      if (old.length + blocks > maxEntries) return -ENOSPC;
      entries = old.length + blocks;
    }
    const used = tableClusters + blocks;
    if ((base + used) * clusterSize > MAX_HOST_OFFSET) return -ENOSPC;
    if (this.metadata.hasAny(base, used))
      return this.corrupt(`cluster ${base} holds metadata and has no refcount block`);
    const table = new PointerTable(base * clusterSize, tableClusters * entriesPerCluster, WHOLE_OFFSET_HIGH_MASK);
    table.copyFrom(old);
    for (let block = 0; block < blocks; block++) {
      const cluster = base + tableClusters + block;
      const counted = Math.min(Math.max(used - block * entriesPerBlock, 0), entriesPerBlock);
      const result = this.writeBlock(cluster, counted);
      if (result < 0) return result;
      table.set(old.length + block, cluster * clusterSize, false);
    }
    const written = table.writeDirty(this.file);
    if (written < 0) return written;
    return this.switchTable(table, blocks);
  }

  /** Makes `table` the one that the header names, and gives the old one's clusters back. */
  private switchTable(table: PointerTable, blocks: number): number {
    const { clusterSize, table: old } = this;
    const tableClusters = (table.length * TABLE_ENTRY_SIZE) / clusterSize;
    const { tableReference: reference } = this;
    reference.view.setUint32(0, Math.floor(table.offset / TWO_POW_32));
    reference.view.setUint32(4, table.offset % TWO_POW_32);
    reference.view.setUint32(REFCOUNT_TABLE_CLUSTERS_OFFSET - REFCOUNT_TABLE_OFFSET_OFFSET, tableClusters);
    // Old counts are written, too: the old table could have been the only one to describe them.
    let result = this.writeDirty();
    if (result === 0) result = this.file.flush();
    if (result === 0) result = this.file.write(reference.address, reference.byteLength, REFCOUNT_TABLE_OFFSET_OFFSET);
    if (result === 0) result = this.file.flush();
    if (result < 0) return result;
    const first = table.offset / clusterSize;
    for (let cluster = first; cluster < first + tableClusters + blocks; cluster++) this.metadata.add(cluster);
    this.table = table;
    const oldFirst = old.offset / clusterSize;
    const oldClusters = (old.length * TABLE_ENTRY_SIZE) / clusterSize;
    for (let cluster = oldFirst; cluster < oldFirst + oldClusters; cluster++) this.metadata.delete(cluster);
    return this.release(oldFirst, oldClusters, () => undefined);
  }

  /** Writes a refcount block at `cluster`. The first `counted` of the clusters that it describes are taken. */
  private writeBlock(cluster: number, counted: number): number {
    const { clusterSize, cache } = this;
    const offset = cluster * clusterSize;
    cache.forget(offset, clusterSize);
    const result = this.file.writeZeroes(offset, clusterSize);
    if (result < 0) return result;
    const { newSlice } = this;
    for (let done = 0; done < counted; done += this.entriesPerSlice) {
      newSlice.bytes.fill(0);
      const taken = Math.min(counted - done, this.entriesPerSlice);
      for (let index = 0; index < taken; index++) writeRefcount(newSlice.view, 0, this.order, index, 1);
      const at = offset + (done / this.entriesPerSlice) * cache.sliceSize;
      const written = this.file.write(newSlice.address, cache.sliceSize, at);
      if (written < 0) return written;
    }
    return 0;
  }

  private loadSlice(cluster: number): number {
    const index = Math.floor(cluster / this.entriesPerBlock);
    const block = index < this.table.length ? this.table.offsetAt(index) : 0;
    if (block === BAD_OFFSET || block === 0 || block % this.clusterSize !== 0) {
      return this.corrupt(`the refcount block of cluster ${cluster} is nowhere`);
    }
    const slice = Math.floor((cluster % this.entriesPerBlock) / this.entriesPerSlice);
    const slot = this.cache.load(block + slice * this.cache.sliceSize);
    return slot === -EIO ? this.corrupt(`the refcount block of cluster ${cluster} cannot be read`) : slot;
  }

  private read(slot: number, cluster: number): number {
    return readRefcount(this.cache.view, slot * this.cache.sliceSize, this.order, cluster % this.entriesPerSlice);
  }

  private write(slot: number, cluster: number, count: number): void {
    const { cache } = this;
    writeRefcount(cache.view, slot * cache.sliceSize, this.order, cluster % this.entriesPerSlice, count);
    cache.markDirty(slot);
  }
}
