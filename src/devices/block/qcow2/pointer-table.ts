// A first-level table held in memory as a whole: the L1 table or the refcount table, u64 entries that point to clusters.
// Runs in the I/O worker.
//
// Changes stay in memory until `writeDirty`, in pieces of 512 bytes: the unit that a disk writes as a whole, so an entry
// is never half written.

import { NativeBuffer } from '../../../platform/native-buffer.js';
import { TWO_POW_32 } from '../../../platform/units.js';
import { COPIED_HIGH_MASK, MAX_HOST_OFFSET, OFFSET_LOW_MASK, TABLE_ENTRY_SIZE } from './format.js';
import type { ImageFile } from './image-file.js';

const PIECE_SIZE = 512;

/** What `offsetAt` says of an offset that no file can have. */
export const BAD_OFFSET = -1;

export class PointerTable {
  /** Entries. */
  readonly length: number;
  /** Where the table is in the file. */
  readonly offset: number;
  private readonly offsetHighMask: number;
  private readonly memory: NativeBuffer;
  private readonly view: DataView;
  private readonly dirtyPieces: Uint8Array;
  private dirtyCount = 0;

  /** `offsetHighMask` says which of an entry's upper 32 bits belong to the offset. */
  constructor(offset: number, length: number, offsetHighMask: number) {
    const pieces = Math.ceil((length * TABLE_ENTRY_SIZE) / PIECE_SIZE);
    this.offset = offset;
    this.length = length;
    this.offsetHighMask = offsetHighMask;
    this.memory = new NativeBuffer(pieces * PIECE_SIZE, PIECE_SIZE);
    this.view = this.memory.view;
    this.dirtyPieces = new Uint8Array(pieces);
  }

  get isDirty(): boolean {
    return this.dirtyCount > 0;
  }

  /** Reads the table. Returns 0 or -errno. */
  load(file: ImageFile): number {
    return file.read(this.memory.address, this.length * TABLE_ENTRY_SIZE, this.offset);
  }

  /** The offset in entry `index`, 0 when it points nowhere, or BAD_OFFSET. */
  offsetAt(index: number): number {
    const high = (this.view.getUint32(index * TABLE_ENTRY_SIZE) & this.offsetHighMask) >>> 0;
    const low = (this.view.getUint32(index * TABLE_ENTRY_SIZE + 4) & OFFSET_LOW_MASK) >>> 0;
    const offset = high * TWO_POW_32 + low;
    return offset < MAX_HOST_OFFSET ? offset : BAD_OFFSET;
  }

  /** Whether the reference count of what entry `index` points to is exactly one (bit 63; L1 only). */
  isCopied(index: number): boolean {
    return (this.view.getUint32(index * TABLE_ENTRY_SIZE) & COPIED_HIGH_MASK) !== 0;
  }

  set(index: number, offset: number, copied: boolean): void {
    const low = offset % TWO_POW_32;
    const high = (offset - low) / TWO_POW_32;
    this.view.setUint32(index * TABLE_ENTRY_SIZE, copied ? high | COPIED_HIGH_MASK : high);
    this.view.setUint32(index * TABLE_ENTRY_SIZE + 4, low);
    const piece = Math.floor((index * TABLE_ENTRY_SIZE) / PIECE_SIZE);
    if (this.dirtyPieces[piece] === 0) this.dirtyCount++;
    this.dirtyPieces[piece] = 1;
  }

  /** Takes the entries of a shorter table. */
  copyFrom(other: PointerTable): void {
    this.memory.bytes.set(other.memory.bytes.subarray(0, other.length * TABLE_ENTRY_SIZE));
    this.dirtyPieces.fill(1);
    this.dirtyCount = this.dirtyPieces.length;
  }

  /** Writes what has changed. Returns 0 or -errno; what could not be written stays to be written. */
  writeDirty(file: ImageFile): number {
    for (let piece = 0; this.dirtyCount > 0 && piece < this.dirtyPieces.length; piece++) {
      if (this.dirtyPieces[piece] === 0) continue;
      const at = piece * PIECE_SIZE;
      const result = file.write(this.memory.address + at, PIECE_SIZE, this.offset + at);
      if (result < 0) return result;
      this.dirtyPieces[piece] = 0;
      this.dirtyCount--;
    }
    return 0;
  }
}
