// Guest memory as JavaScript sees it: SharedArrayBuffer chunks by guest-physical address. That is RAM, and for devices
// also what else the guest may name as a buffer (persistent memory); the boot code is given RAM alone.
//
// Every thread attaches its own views to the same chunks (see src/vmm/memory.ts for who allocates them). A chunk is
// at most 2 GiB, so an element index into its byte view stays below 2^31 and on V8's fast path. All addresses come
// from the guest and are hostile: each access checks its bounds, and nothing outside RAM can be named.

import { check, libc } from './libc.js';
import { SysError } from './errno.js';
import type { MemoryBacking } from './memory-backing.js';
import { guestAddress, hex, TWO_POW_32, type GuestAddress, type HostAddress } from './units.js';

/** One contiguous piece of guest RAM: plain data that can be sent to another thread. */
export interface MemoryChunk {
  readonly guestAddress: GuestAddress;
  readonly size: number;
  /** Where the chunk is mapped in this process. */
  readonly hostAddress: HostAddress;
  readonly buffer: SharedArrayBuffer;
  /** Where the chunk starts in `buffer`. */
  readonly bufferOffset: number;
  readonly backing: MemoryBacking;
}

/** All of guest RAM in ascending order of address. */
export type MemoryMap = readonly MemoryChunk[];

/** An access that is not wholly inside guest RAM. */
export class GuestAddressError extends RangeError {
  override readonly name = 'GuestAddressError';
  readonly guestAddress: number;
  readonly length: number;

  constructor(address: number, length: number) {
    super(`guest address ${hex(address)} (${length} bytes) is outside guest RAM`);
    this.guestAddress = address;
    this.length = length;
  }
}

/** This thread's views of one chunk. */
export class ChunkView {
  readonly guestAddress: GuestAddress;
  readonly size: number;
  readonly hostAddress: HostAddress;
  readonly backing: MemoryBacking;
  readonly bytes: Uint8Array;
  readonly words16: Uint16Array;
  readonly words32: Uint32Array;

  constructor(chunk: MemoryChunk) {
    this.guestAddress = chunk.guestAddress;
    this.size = chunk.size;
    this.hostAddress = chunk.hostAddress;
    this.backing = chunk.backing;
    this.bytes = new Uint8Array(chunk.buffer, chunk.bufferOffset, chunk.size);
    // The alignment of `bufferOffset` is that of the page minus that of the allocation: 16 bytes at least.
    this.words16 = new Uint16Array(chunk.buffer, chunk.bufferOffset, chunk.size >>> 1);
    this.words32 = new Uint32Array(chunk.buffer, chunk.bufferOffset, chunk.size >>> 2);
  }
}

/** No chunk holds the address. */
export const NO_CHUNK = -1;

/** Guest RAM as one thread sees it. */
export class GuestMemory {
  readonly chunks: readonly ChunkView[];
  /** Bytes of RAM in all. */
  readonly size: number;
  private readonly firstSize: number;

  constructor(map: MemoryMap) {
    const first = map.at(0);
    if (first?.guestAddress !== 0) throw new RangeError('guest RAM must start at address 0');
    this.chunks = map.map((chunk) => new ChunkView(chunk));
    this.size = map.reduce((sum, chunk) => sum + chunk.size, 0);
    this.firstSize = first.size;
  }

  /** Contiguous ranges of guest-physical RAM; adjacent chunks are joined. */
  get ranges(): readonly { readonly gpa: number; readonly size: number }[] {
    const ranges: { gpa: number; size: number }[] = [];
    for (const chunk of this.chunks) {
      const last = ranges.at(-1);
      if (last !== undefined && last.gpa + last.size === chunk.guestAddress) last.size += chunk.size;
      else ranges.push({ gpa: chunk.guestAddress, size: chunk.size });
    }
    return ranges;
  }

  /**
   * The index of the chunk that holds the byte at `low` + `high` * 2^32, or NO_CHUNK. Halves, because that is how
   * descriptors hold addresses; the offset inside the chunk is `address - chunks[index].guestAddress`.
   */
  chunkIndex(low: number, high: number): number {
    if (high === 0 && low < this.firstSize) return 0;
    const address = low + high * TWO_POW_32;
    for (let index = 1; index < this.chunks.length; index++) {
      const offset = address - this.chunks[index].guestAddress;
      if (offset >= 0 && offset < this.chunks[index].size) return index;
    }
    return NO_CHUNK;
  }

  /** Whether [address, address + length) is RAM as a whole. */
  contains(address: number, length: number): boolean {
    if (!(length >= 0 && address >= 0)) return false;
    return this.ranges.some((range) => address >= range.gpa && address + length <= range.gpa + range.size);
  }

  /** The chunk that holds [address, address + length) as a whole. Throws GuestAddressError. */
  chunkOf(address: number, length: number): ChunkView {
    for (const chunk of this.chunks) {
      const offset = address - chunk.guestAddress;
      if (offset >= 0 && length >= 0 && offset + length <= chunk.size) return chunk;
    }
    throw new GuestAddressError(address, length);
  }

  /** Copies `bytes` to `address`, across chunks if need be. Throws GuestAddressError before writing anything. */
  write(address: number, bytes: Uint8Array): void {
    this.forEachPiece(address, bytes.length, (chunk, offset, length, done) => {
      chunk.bytes.set(bytes.subarray(done, done + length), offset);
    });
  }

  /** A private copy of `length` bytes at `address`. Throws GuestAddressError. */
  read(address: number, length: number): Uint8Array {
    if (!this.contains(address, length)) throw new GuestAddressError(address, length);
    const copy = new Uint8Array(length);
    this.forEachPiece(address, length, (chunk, offset, pieceLength, done) => {
      copy.set(chunk.bytes.subarray(offset, offset + pieceLength), done);
    });
    return copy;
  }

  /** Fills [address, address + length) with zeroes. Throws GuestAddressError before writing anything. */
  zero(address: number, length: number): void {
    this.forEachPiece(address, length, (chunk, offset, pieceLength) => {
      chunk.bytes.fill(0, offset, offset + pieceLength);
    });
  }

  /** Reads an unsigned little-endian 32-bit value at any alignment. Throws GuestAddressError. */
  readU32(address: number): number {
    const [b0 = 0, b1 = 0, b2 = 0, b3 = 0] = this.read(address, 4);
    return (b0 | (b1 << 8) | (b2 << 16) | (b3 << 24)) >>> 0;
  }

  /**
   * Reads `length` bytes of an open file straight into guest RAM. Throws GuestAddressError, SysError, or a SysError
   * of `pread` with errno 0 when the file ends early.
   */
  readFileInto(fd: number, fileOffset: number, address: number, length: number): void {
    this.forEachPiece(address, length, (chunk, offset, pieceLength, done) => {
      let read = 0;
      while (read < pieceLength) {
        const position = fileOffset + done + read;
        const count = check(libc.pread(fd, chunk.hostAddress + offset + read, pieceLength - read, position), 'pread');
        if (count === 0) throw new SysError(`pread at ${position}: end of file`, 0);
        read += count;
      }
    });
  }

  private forEachPiece(
    address: number,
    length: number,
    visit: (chunk: ChunkView, offset: number, length: number, done: number) => void,
  ): void {
    if (!this.contains(address, length)) throw new GuestAddressError(address, length);
    let done = 0;
    while (done < length) {
      const chunk = this.chunkOf(guestAddress(address + done), 1);
      const offset = address + done - chunk.guestAddress;
      const pieceLength = Math.min(length - done, chunk.size - offset);
      visit(chunk, offset, pieceLength, done);
      done += pieceLength;
    }
  }
}
