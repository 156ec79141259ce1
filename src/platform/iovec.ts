// struct iovec arrays for readv(2) and writev(2), filled without allocating.

import { NativeBuffer } from './native-buffer.js';
import { TWO_POW_32, type HostAddress } from './units.js';

/** The kernel's limit on entries per call (UIO_MAXIOV). */
export const IOV_MAX = 1024;

/** struct iovec { void *iov_base; size_t iov_len; } */
const IOVEC_WORDS = 4;

/**
 * A reusable array of `struct iovec`. `add` appends an entry; `count` entries and `totalBytes` are what the next
 * readv or writev passes. Lengths are below 2^32. Entries are never merged: the caller knows its segments.
 */
export class IovecArray {
  readonly address: HostAddress;
  readonly capacity: number;
  count = 0;
  totalBytes = 0;
  private readonly words: Uint32Array;
  private readonly memory: NativeBuffer;

  constructor(capacity = IOV_MAX) {
    this.capacity = capacity;
    this.memory = new NativeBuffer(capacity * IOVEC_WORDS * 4);
    this.words = new Uint32Array(this.memory.bytes.buffer);
    this.address = this.memory.address;
  }

  clear(): void {
    this.count = 0;
    this.totalBytes = 0;
  }

  /** Appends `length` bytes at `address`. The caller checks `count < capacity`. */
  add(address: number, length: number): void {
    const word = this.count * IOVEC_WORDS;
    const low = address >>> 0;
    this.words[word] = low;
    this.words[word + 1] = (address - low) / TWO_POW_32;
    this.words[word + 2] = length;
    this.count++;
    this.totalBytes += length;
  }

  /** Where entry `index` is in this process: what a call that starts there is passed. */
  entryAddress(index: number): number {
    return this.address + index * (IOVEC_WORDS * 4);
  }

  addressAt(index: number): number {
    return this.words[index * IOVEC_WORDS] + this.words[index * IOVEC_WORDS + 1] * TWO_POW_32;
  }

  lengthAt(index: number): number {
    return this.words[index * IOVEC_WORDS + 2];
  }

  /** Makes entry `index` another `length` long. */
  setLength(index: number, length: number): void {
    const word = index * IOVEC_WORDS + 2;
    this.totalBytes += length - this.words[word];
    this.words[word] = length;
  }

  /** Becomes a copy of entries [first, end) of `other`, which fit. */
  copyFrom(other: IovecArray, first: number, end: number): void {
    this.clear();
    for (let index = first; index < end; index++) this.add(other.addressAt(index), other.lengthAt(index));
  }

  /** Takes `bytes` away from the front of entry `index`; it may be empty afterwards. */
  trim(index: number, bytes: number): void {
    const word = index * IOVEC_WORDS;
    const low = this.words[word] + bytes;
    this.words[word] = low;
    if (low >= TWO_POW_32) this.words[word + 1]++;
    this.words[word + 2] -= bytes;
    this.totalBytes -= bytes;
  }

  /** Whether every address and every length is a multiple of `alignment`, a power of two. */
  isAligned(alignment: number): boolean {
    let bits = 0;
    for (let word = 0; word < this.count * IOVEC_WORDS; word += IOVEC_WORDS) {
      bits |= this.words[word] | this.words[word + 2];
    }
    return (bits & (alignment - 1)) === 0;
  }

  /** Drops the last entry. */
  dropLast(): void {
    this.count--;
    this.totalBytes -= this.words[this.count * IOVEC_WORDS + 2];
  }

  /** Drops the first `entries` entries and moves the rest to the front. */
  dropFirst(entries: number): void {
    for (let index = 0; index < entries; index++) this.totalBytes -= this.words[index * IOVEC_WORDS + 2];
    this.words.copyWithin(0, entries * IOVEC_WORDS, this.count * IOVEC_WORDS);
    this.count -= entries;
  }
}
