// Where each guest cluster is: reads and changes L2 entries by way of the L1 table. Runs in the I/O worker.
//
// `lookup` answers with fields rather than an object, so that nothing is allocated: they are good until the next call.

import { TWO_POW_32 } from '../../../platform/units.js';
import {
  COMPRESSED_HIGH_MASK,
  COMPRESSED_SECTOR_SIZE,
  COPIED_HIGH_MASK,
  MAX_HOST_OFFSET,
  OFFSET_HIGH_MASK,
  OFFSET_LOW_MASK,
  TABLE_ENTRY_SIZE,
  ZERO_LOW_MASK,
} from './format.js';
import type { Metadata } from './metadata.js';
import { BAD_OFFSET } from './pointer-table.js';

/** What an L2 entry says of a guest cluster. */
export type ClusterKind =
  /** Reads from the backing file, or as zeroes without one. */
  | 'unallocated'
  /** Reads as zeroes; may have a host cluster nevertheless, at `hostOffset`. */
  | 'zero'
  /** In a host cluster of its own. */
  | 'data'
  /** Compressed, somewhere in one or two host clusters. */
  | 'compressed';

const NO_SLOT = -1;

export class ClusterMap {
  // The answer of `lookup`.
  kind: ClusterKind = 'unallocated';
  /** Of `data` and `zero`: where the first host cluster is, 0 for none. Of `compressed`: where the data start. */
  hostOffset = 0;
  /** The host clusters have no other reference, so they may be written in place. */
  copied = false;
  /** Of `compressed`: how many bytes hold the data, at most. */
  compressedLength = 0;
  /** How many guest clusters the answer is good for; host clusters, if there are any, lie side by side. */
  clusters = 0;

  private readonly metadata: Metadata;
  private readonly clusterSize: number;
  private readonly entriesPerTable: number;
  private readonly entriesPerSlice: number;
  private readonly offsetBits: number;
  private slot = NO_SLOT;

  constructor(metadata: Metadata) {
    this.metadata = metadata;
    this.clusterSize = metadata.clusterSize;
    this.entriesPerTable = this.clusterSize / TABLE_ENTRY_SIZE;
    this.entriesPerSlice = metadata.l2.sliceSize / TABLE_ENTRY_SIZE;
    // Of a compressed cluster descriptor, the lower `x` bits are the offset; this is x - 32, 17 to 29.
    this.offsetBits = 62 - (metadata.header.clusterBits - 8) - 32;
  }

  /** Looks guest cluster `cluster` up, and how many of the `max` from there on are like it. Returns 0 or -errno. */
  lookup(cluster: number, max: number): number {
    const inTable = cluster % this.entriesPerTable;
    const l1Index = (cluster - inTable) / this.entriesPerTable;
    const table = this.metadata.l1.offsetAt(l1Index);
    if (table === 0) {
      this.slot = NO_SLOT;
      this.kind = 'unallocated';
      this.hostOffset = 0;
      this.copied = false;
      this.clusters = Math.min(max, this.entriesPerTable - inTable);
      return 0;
    }
    const slot = this.loadSlice(table, inTable, l1Index);
    if (slot < 0) return slot;
    this.slot = slot;
    const index = inTable % this.entriesPerSlice;
    const result = this.decode(slot, index, cluster);
    if (result < 0) return result;
    this.clusters = this.kind === 'compressed' ? 1 : this.countAlike(slot, index, max);
    return 0;
  }

  /**
   * Makes sure that the L2 table of `cluster` exists and is only the active one's, so that its entries may be changed.
   * Returns 0 or -errno. What `lookup` said before may not hold afterwards.
   */
  own(cluster: number): number {
    const { l1, frees } = this.metadata;
    const l1Index = Math.floor(cluster / this.entriesPerTable);
    const old = l1.offsetAt(l1Index);
    if (old !== 0 && l1.isCopied(l1Index)) return 0;
    const { refcounts, metadataClusters, l2, file } = this.metadata;
    if (refcounts === undefined) throw new Error('a read-only image was to be written');
    if (old === BAD_OFFSET || old % this.clusterSize !== 0)
      return this.metadata.corrupt(`L2 table ${l1Index} is nowhere`);
    const room = this.metadata.makeRoomForFrees();
    if (room < 0) return room;
    const taken = refcounts.allocate(1);
    if (taken < 0) return taken;
    const offset = taken * this.clusterSize;
    l2.forget(offset, this.clusterSize);
    const result = old === 0 ? file.writeZeroes(offset, this.clusterSize) : this.copyTable(old, offset);
    if (result < 0) {
      refcounts.release(taken, 1, () => undefined);
      return result;
    }
    metadataClusters.add(taken);
    l1.set(l1Index, offset, true);
    if (old === 0) return 0;
    metadataClusters.delete(old / this.clusterSize);
    frees.add(old / this.clusterSize, 1);
    return 0;
  }

  /**
   * Lets `count` guest clusters, those that `lookup` just found, be in the host clusters from `hostOffset` on, which are
   * theirs alone. Their table must be owned.
   */
  setData(cluster: number, count: number, hostOffset: number): void {
    for (let done = 0; done < count; done++) {
      this.setEntry(cluster + done, hostOffset + done * this.clusterSize, COPIED_HIGH_MASK, 0);
    }
  }

  /** Lets them read as zeroes. With `hostOffset` they keep the host clusters that are there, which are theirs alone. */
  setZero(cluster: number, count: number, hostOffset: number): void {
    for (let done = 0; done < count; done++) {
      if (hostOffset === 0) this.setEntry(cluster + done, 0, 0, ZERO_LOW_MASK);
      else this.setEntry(cluster + done, hostOffset + done * this.clusterSize, COPIED_HIGH_MASK, ZERO_LOW_MASK);
    }
  }

  setUnallocated(cluster: number, count: number): void {
    for (let done = 0; done < count; done++) this.setEntry(cluster + done, 0, 0, 0);
  }

  private loadSlice(table: number, inTable: number, l1Index: number): number {
    const { metadata } = this;
    if (table === BAD_OFFSET || table % this.clusterSize !== 0 || table + this.clusterSize > metadata.file.end) {
      return metadata.corrupt(`L2 table ${l1Index} is nowhere`);
    }
    const slice = Math.floor(inTable / this.entriesPerSlice);
    return metadata.l2.load(table + slice * metadata.l2.sliceSize);
  }

  /** Takes an entry apart. */
  private decode(slot: number, index: number, cluster: number): number {
    const { metadata } = this;
    const at = slot * metadata.l2.sliceSize + index * TABLE_ENTRY_SIZE;
    const high = metadata.l2.view.getUint32(at);
    const low = metadata.l2.view.getUint32(at + 4);
    if ((high & COMPRESSED_HIGH_MASK) !== 0) return this.decodeCompressed(high, low, cluster);
    this.copied = (high & COPIED_HIGH_MASK) !== 0;
    this.hostOffset = (high & OFFSET_HIGH_MASK) * TWO_POW_32 + ((low & OFFSET_LOW_MASK) >>> 0);
    if ((low & ZERO_LOW_MASK) !== 0) {
      if (metadata.header.version === 2)
        return metadata.corrupt(`guest cluster ${cluster} is a zero cluster in version 2`);
      this.kind = 'zero';
    } else {
      this.kind = this.hostOffset === 0 ? 'unallocated' : 'data';
    }
    if (this.hostOffset === 0) this.copied = false;
    if (this.hostOffset % this.clusterSize !== 0 || this.hostOffset >= MAX_HOST_OFFSET) {
      return metadata.corrupt(`guest cluster ${cluster} is at ${this.hostOffset}, where none can be`);
    }
    return 0;
  }

  private decodeCompressed(high: number, low: number, cluster: number): number {
    this.kind = 'compressed';
    this.copied = false;
    this.hostOffset = (high & (2 ** this.offsetBits - 1)) * TWO_POW_32 + low;
    const sectors = ((high & (COMPRESSED_HIGH_MASK - 1)) >>> this.offsetBits) + 1;
    this.compressedLength = sectors * COMPRESSED_SECTOR_SIZE - (this.hostOffset % COMPRESSED_SECTOR_SIZE);
    if (this.hostOffset < MAX_HOST_OFFSET) return 0;
    return this.metadata.corrupt(`guest cluster ${cluster} is compressed at ${this.hostOffset}, where none can be`);
  }

  /** How many entries of the slice from `index` on, at most `max`, continue what was decoded from the first. */
  private countAlike(slot: number, index: number, max: number): number {
    const { view, sliceSize } = this.metadata.l2;
    const end = Math.min(index + max, this.entriesPerSlice);
    const first = slot * sliceSize;
    const high = view.getUint32(first + index * TABLE_ENTRY_SIZE);
    const low = view.getUint32(first + index * TABLE_ENTRY_SIZE + 4);
    const step = this.hostOffset === 0 ? 0 : this.clusterSize;
    let nextHigh = high;
    let nextLow = low;
    let next = index + 1;
    for (; next < end; next++) {
      nextLow += step;
      if (nextLow >= TWO_POW_32) {
        nextLow -= TWO_POW_32;
        nextHigh++;
      }
      if (view.getUint32(first + next * TABLE_ENTRY_SIZE + 4) !== nextLow) break;
      if (view.getUint32(first + next * TABLE_ENTRY_SIZE) !== nextHigh) break;
    }
    return next - index;
  }

  private setEntry(cluster: number, offset: number, highFlags: number, lowFlags: number): void {
    const { l2 } = this.metadata;
    const at = this.slot * l2.sliceSize + (cluster % this.entriesPerSlice) * TABLE_ENTRY_SIZE;
    const low = offset % TWO_POW_32;
    l2.view.setUint32(at, (offset - low) / TWO_POW_32 + highFlags);
    l2.view.setUint32(at + 4, low + lowFlags);
    l2.markDirty(this.slot);
  }

  /** Copies an L2 table on the disk. It has not been changed since it was read: it was not ours alone. */
  private copyTable(from: number, to: number): number {
    const { l2, file } = this.metadata;
    for (let done = 0; done < this.clusterSize; done += l2.sliceSize) {
      const slot = l2.load(from + done);
      if (slot < 0) return slot;
      const result = file.write(l2.addressOf(slot), l2.sliceSize, to + done);
      if (result < 0) return result;
    }
    return 0;
  }
}
