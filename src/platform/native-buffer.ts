// A block of memory with a fixed address, for structures that system calls read and write.

import { addressOf } from './libc.js';
import type { HostAddress } from './units.js';

const ALLOCATOR_ALIGNMENT = 16;

/**
 * The newest buffers: a call that is given nothing but an address does not keep the buffer behind it, and the garbage
 * collector may take one whose last mention that was before the call has ended.
 */
const newest: (ArrayBuffer | undefined)[] = new Array<ArrayBuffer | undefined>(16).fill(undefined);
let made = 0;

/**
 * Zeroed memory of a fixed size and address, freed by the garbage collector with the last reference to this object.
 * Little-endian accessors go through `view`; bytes through `bytes`. The address is a multiple of `alignment`.
 */
export class NativeBuffer {
  readonly address: HostAddress;
  readonly byteLength: number;
  readonly view: DataView;
  readonly bytes: Uint8Array;

  /** `alignment` is a power of two; the allocator's own is 16. */
  constructor(byteLength: number, alignment = ALLOCATOR_ALIGNMENT) {
    const memory = new ArrayBuffer(alignment <= ALLOCATOR_ALIGNMENT ? byteLength : byteLength + alignment);
    const skip = alignment <= ALLOCATOR_ALIGNMENT ? 0 : alignment - (addressOf(new Uint8Array(memory)) % alignment);
    this.byteLength = byteLength;
    this.view = new DataView(memory, skip, byteLength);
    this.bytes = new Uint8Array(memory, skip, byteLength);
    this.address = addressOf(this.bytes);
    newest[made++ % newest.length] = memory;
  }

  /** Reads the unsigned 64-bit field at `offset`. */
  u64(offset: number): bigint {
    return this.view.getBigUint64(offset, true);
  }

  /** Writes the unsigned 64-bit field at `offset`; a Number must be a non-negative safe integer. */
  setU64(offset: number, value: number | bigint): void {
    this.view.setBigUint64(offset, BigInt(value), true);
  }

  /** Reads the unsigned 32-bit field at `offset`. */
  u32(offset: number): number {
    return this.view.getUint32(offset, true);
  }

  /** Writes the 32-bit field at `offset` (taken modulo 2^32). */
  setU32(offset: number, value: number): void {
    this.view.setUint32(offset, value, true);
  }
}
