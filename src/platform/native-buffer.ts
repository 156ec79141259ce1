// A block of memory with a fixed address, for structures that system calls read and write.

import { addressOf } from './libc.js';
import type { HostAddress } from './units.js';

/**
 * Zeroed memory of a fixed size and address, freed by the garbage collector with the last reference to this object.
 * Little-endian accessors go through `view`; bytes through `bytes`. The address is at least 16-byte aligned.
 */
export class NativeBuffer {
  readonly address: HostAddress;
  readonly byteLength: number;
  readonly view: DataView;
  readonly bytes: Uint8Array;

  constructor(byteLength: number) {
    const memory = new ArrayBuffer(byteLength);
    this.byteLength = byteLength;
    this.view = new DataView(memory);
    this.bytes = new Uint8Array(memory);
    this.address = addressOf(this.bytes);
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
