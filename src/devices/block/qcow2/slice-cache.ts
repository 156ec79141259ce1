// A bounded cache of second-level tables, L2 tables or refcount blocks, by slices of at most 4 KiB: a table of a 2 MiB
// cluster would be far too much to read for one entry. Runs in the I/O worker.
//
// All memory is taken when the image is opened. Slices are found by their offset in the file, in sets of eight; the one
// least lately used makes room. Changes are written back later, and in which order is the owner's to say: when a set has
// nothing but changed slices, `makeClean` is asked to write.

import { EIO } from '../../../platform/errno.js';
import { NativeBuffer } from '../../../platform/native-buffer.js';
import { PAGE_SIZE, TWO_POW_32 } from '../../../platform/units.js';
import type { ImageFile } from './image-file.js';

export const MAX_SLICE_SIZE = 4096;
const WAYS = 8;
const NONE = -1;
/** Spreads neighbours (Knuth's multiplicative hashing). */
const HASH_FACTOR = 0x9e37_79b1;

export class SliceCache {
  readonly sliceSize: number;
  /** The slices' bytes; a slot's begin at `slot * sliceSize`. */
  readonly view: DataView;
  /** Writes changed slices, so that they can make room. Returns 0 or -errno. */
  makeClean: () => number = () => this.writeDirty();
  private readonly file: ImageFile;
  private readonly memory: NativeBuffer;
  private readonly setShift: number;
  private readonly offsets: Float64Array;
  private readonly lastUse: Float64Array;
  private readonly dirty: Uint8Array;
  private dirtyCount = 0;
  private clock = 0;

  /** Holds `slices` slices, rounded up to a power of two of at least 16. */
  constructor(file: ImageFile, clusterSize: number, slices: number) {
    this.file = file;
    this.sliceSize = Math.min(clusterSize, MAX_SLICE_SIZE);
    const setBits = Math.max(1, Math.ceil(Math.log2(slices / WAYS)));
    const slots = 2 ** setBits * WAYS;
    this.setShift = 32 - setBits;
    this.memory = new NativeBuffer(slots * this.sliceSize, PAGE_SIZE);
    this.view = this.memory.view;
    this.offsets = new Float64Array(slots).fill(NONE);
    this.lastUse = new Float64Array(slots);
    this.dirty = new Uint8Array(slots);
  }

  get isDirty(): boolean {
    return this.dirtyCount > 0;
  }

  /**
   * The slot of the slice at `offset`, a multiple of the slice size; reads it if need be. Or -errno. A slot is good until
   * the next `load`.
   */
  load(offset: number): number {
    const first = this.setOf(offset);
    let victim = NONE;
    for (let slot = first; slot < first + WAYS; slot++) {
      if (this.offsets[slot] === offset) {
        this.lastUse[slot] = ++this.clock;
        return slot;
      }
      if (this.dirty[slot] === 0 && (victim === NONE || this.lastUse[slot] < this.lastUse[victim])) victim = slot;
    }
    if (victim === NONE) {
      const result = this.makeClean();
      if (result < 0) return result;
      victim = this.oldest(first);
      if (this.dirty[victim] !== 0) return -EIO;
    }
    return this.fill(victim, offset);
  }

  /** Where the bytes of `slot` are in this process. */
  addressOf(slot: number): number {
    return this.memory.address + slot * this.sliceSize;
  }

  markDirty(slot: number): void {
    if (this.dirty[slot] === 0) this.dirtyCount++;
    this.dirty[slot] = 1;
  }

  /** Writes every changed slice. Returns 0 or -errno; what could not be written stays to be written. */
  writeDirty(): number {
    for (let slot = 0; this.dirtyCount > 0 && slot < this.dirty.length; slot++) {
      if (this.dirty[slot] === 0) continue;
      const result = this.file.write(this.addressOf(slot), this.sliceSize, this.offsets[slot]);
      if (result < 0) return result;
      this.dirty[slot] = 0;
      this.dirtyCount--;
    }
    return 0;
  }

  /** Forgets what is held of [offset, offset + length): a table has come to be there that was written past the cache. */
  forget(offset: number, length: number): void {
    for (let slot = 0; slot < this.offsets.length; slot++) {
      if (this.offsets[slot] < offset || this.offsets[slot] >= offset + length) continue;
      if (this.dirty[slot] !== 0) this.dirtyCount--;
      this.dirty[slot] = 0;
      this.offsets[slot] = NONE;
      this.lastUse[slot] = 0;
    }
  }

  private fill(slot: number, offset: number): number {
    this.offsets[slot] = NONE;
    this.lastUse[slot] = 0;
    // A table is written as a whole before anything points to it: one that is not there was lost.
    if (offset + this.sliceSize > this.file.end) return -EIO;
    const result = this.file.read(this.addressOf(slot), this.sliceSize, offset);
    if (result < 0) return result;
    this.offsets[slot] = offset;
    this.lastUse[slot] = ++this.clock;
    return slot;
  }

  private oldest(first: number): number {
    let oldest = first;
    for (let slot = first + 1; slot < first + WAYS; slot++) {
      if (this.lastUse[slot] < this.lastUse[oldest]) oldest = slot;
    }
    return oldest;
  }

  private setOf(offset: number): number {
    const slice = offset / this.sliceSize;
    const hash = Math.imul((slice >>> 0) ^ Math.floor(slice / TWO_POW_32), HASH_FACTOR) >>> this.setShift;
    return hash * WAYS;
  }
}
