// A descriptor chain as a list of memory segments: virtio 1.2, section 2.7.4 and 2.7.5.
//
// Descriptors are guest-written metadata. The queue reads each one once, checks it and stores the result here; devices
// use only this copy, so a guest that rewrites a descriptor while it is being handled gains nothing. One chain object
// is reused for every chain: nothing is allocated per descriptor.

import type { GuestMemory } from '../../platform/guest-memory.js';

/** How many segments a chain may have: the most that one readv or writev takes. */
export const MAX_CHAIN_SEGMENTS = 1024;

/**
 * Segments [0, readableCount) are for the device to read, [readableCount, count) for it to write, in chain order.
 * A segment is `lengths[i]` bytes at `offsets[i]` of chunk `chunks[i]`; a buffer that crosses two chunks of guest
 * memory has become two segments.
 */
export class DescriptorChain {
  /** Index of the first descriptor: what goes into the used ring. */
  head = 0;
  count = 0;
  readableCount = 0;
  readableBytes = 0;
  writableBytes = 0;
  readonly chunks = new Uint16Array(MAX_CHAIN_SEGMENTS);
  readonly offsets = new Uint32Array(MAX_CHAIN_SEGMENTS);
  readonly lengths = new Uint32Array(MAX_CHAIN_SEGMENTS);
  private readonly memory: GuestMemory;

  constructor(memory: GuestMemory) {
    this.memory = memory;
  }

  /** The address of segment `index` in this process, `skip` bytes into it. */
  hostAddress(index: number, skip = 0): number {
    return this.memory.chunks[this.chunks[index]].hostAddress + this.offsets[index] + skip;
  }

  /**
   * Copies up to `length` bytes, starting `skip` bytes into the device-readable part, into `target`. Returns how many
   * were there. The caller parses only this private copy.
   */
  copyFromReadable(skip: number, target: Uint8Array, length: number): number {
    return this.copy(0, this.readableCount, skip, target, length, false);
  }

  /**
   * Copies as many words as `target` has from the start of the chain, when its first segment is device-readable, holds
   * them all and is aligned; else returns false and `copyFromReadable` must do. Little-endian, as the ring is.
   */
  copyWordsFromReadable(target: Uint32Array): boolean {
    const offset = this.offsets[0];
    if (this.readableCount === 0 || this.lengths[0] < target.byteLength || (offset & 3) !== 0) return false;
    const words = this.memory.chunks[this.chunks[0]].words32;
    const first = offset >>> 2;
    for (let i = 0; i < target.length; i++) target[i] = words[first + i];
    return true;
  }

  /**
   * Copies `length` bytes of `source` to the device-writable part, `skip` bytes into it. Returns how many fitted.
   */
  copyToWritable(skip: number, source: Uint8Array, length: number): number {
    return this.copy(this.readableCount, this.count, skip, source, length, true);
  }

  private copy(
    first: number,
    end: number,
    skip: number,
    bytes: Uint8Array,
    length: number,
    intoGuest: boolean,
  ): number {
    let copied = 0;
    for (let index = first; index < end && copied < length; index++) {
      const available = this.lengths[index];
      if (skip >= available) {
        skip -= available;
        continue;
      }
      const guest = this.memory.chunks[this.chunks[index]].bytes;
      const start = this.offsets[index] + skip;
      const take = Math.min(available - skip, length - copied);
      // Byte by byte: these are headers, and a view for `set` would be an allocation.
      if (intoGuest) for (let i = 0; i < take; i++) guest[start + i] = bytes[copied + i];
      else for (let i = 0; i < take; i++) bytes[copied + i] = guest[start + i];
      copied += take;
      skip = 0;
    }
    return copied;
  }
}
