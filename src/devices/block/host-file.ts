// An open file or block device of the host as disk images use it: whole transfers at any alignment, flush, discard,
// zeroes. Runs in the device's I/O worker; nothing is thrown and nothing allocated per call: 0, or -errno.
//
// With O_DIRECT the kernel takes only aligned memory, offsets and lengths. What a guest hands over is mostly aligned
// and goes straight through; the rest goes through a bounce buffer, and a write that covers part of a block reads the
// block first. One thread at a time writes a file (it is locked, and a device has one worker), so nothing changes in
// between.
//
// A file in the page cache is read and written by preadv(2) and pwritev(2): io_uring is slower there, even in C. With
// O_DIRECT each transfer waits for the disk, so those of a queue pass are begun together, by io_uring (direct-batch.ts).

import { EINTR, EINVAL, EIO, ENOTTY, EOPNOTSUPP } from '../../platform/errno.js';
import { IovecArray } from '../../platform/iovec.js';
import { lastErrno, libc, orErrno } from '../../platform/libc.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import { KIB, PAGE_SIZE, type Fd } from '../../platform/units.js';
import type { HostFileSettings } from './settings.js';

// fallocate(2) modes.
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;
/** _IO(0x12, 119); its argument is uint64_t[2]: start and length. */
const BLKDISCARD = 0x1277;

const BOUNCE_SIZE = 256 * KIB;
const ZERO_BUFFER_SIZE = 64 * KIB;
const ZERO_ENTRIES = 64;

export interface HostFileOptions {
  /** Reading past the end of the file gives zeroes. Without it that is EIO: the file has shrunk under the image. */
  readonly zeroesPastEnd?: boolean;
}

type VectorCall = (fd: number, iov: number, count: number, offset: number) => number;

export class HostFile {
  readonly settings: HostFileSettings;
  private readonly fd: Fd;
  private readonly alignment: number;
  private readonly zeroesPastEnd: boolean;
  private readonly single = new IovecArray(1);
  private bounceBuffer: NativeBuffer | undefined;
  private zeroBuffer: NativeBuffer | undefined;
  private zeroVector: IovecArray | undefined;
  private discardRange: NativeBuffer | undefined;
  // What the file system turned out not to support is not asked for again.
  private canDiscard = true;
  private canPunchHole = true;
  private canZeroRange = true;
  /** The errno of the first flush that failed; see `flush`. */
  private flushFailure = 0;

  constructor(settings: HostFileSettings, options: HostFileOptions = {}) {
    this.settings = settings;
    this.fd = settings.fd;
    this.alignment = settings.alignment;
    this.zeroesPastEnd = options.zeroesPastEnd ?? false;
  }

  /** Fills the memory that `iovecs` name; uses up its entries. */
  readv(iovecs: IovecArray, offset: number): number {
    if (this.mustBounce(iovecs, offset)) return this.readThroughBounce(iovecs, offset);
    return this.transfer(libc.preadv, iovecs, offset, true);
  }

  /** Writes what `iovecs` name; uses up its entries. Beyond the end of a regular file, it grows. */
  writev(iovecs: IovecArray, offset: number): number {
    if (this.mustBounce(iovecs, offset)) return this.writeThroughBounce(iovecs, offset);
    return this.transfer(libc.pwritev, iovecs, offset, false);
  }

  /** `readv` into one buffer. */
  read(address: number, length: number, offset: number): number {
    this.single.clear();
    this.single.add(address, length);
    return this.readv(this.single, offset);
  }

  /** `writev` from one buffer. */
  write(address: number, length: number, offset: number): number {
    this.single.clear();
    this.single.add(address, length);
    return this.writev(this.single, offset);
  }

  /**
   * fdatasync(2), which includes the metadata that is needed to find the data. Once it has failed on a file in the page
   * cache it fails for ever: the kernel has dropped what it could not write, and would report success the next time.
   */
  flush(): number {
    if (this.flushFailure !== 0) return this.flushFailure;
    let result = orErrno(libc.fdatasync(this.fd));
    while (result === -EINTR) result = orErrno(libc.fdatasync(this.fd));
    if (result !== 0 && this.alignment === 1) this.flushFailure = result;
    return result;
  }

  /** Gives space back. Advice: what the file system cannot do is no failure. */
  discard(offset: number, length: number): number {
    if (!this.canDiscard) return 0;
    const result = this.settings.isBlockDevice
      ? this.discardBlocks(offset, length)
      : this.allocate(FALLOC_FL_PUNCH_HOLE, offset, length);
    if (isUnsupported(result)) {
      this.canDiscard = false;
      return 0;
    }
    // A range that is not aligned to the blocks of a device.
    return result === -EINVAL ? 0 : result;
  }

  /** Makes a range inside the file read as zeroes; with `unmap` its space may be given back. */
  writeZeroes(offset: number, length: number, unmap: boolean): number {
    if (unmap && this.canPunchHole) {
      const result = this.allocate(FALLOC_FL_PUNCH_HOLE, offset, length);
      if (result !== -EINVAL && !isUnsupported(result)) return result;
      if (result !== -EINVAL) this.canPunchHole = false;
    }
    if (this.canZeroRange) {
      const result = this.allocate(FALLOC_FL_ZERO_RANGE, offset, length);
      if (result !== -EINVAL && !isUnsupported(result)) return result;
      if (result !== -EINVAL) this.canZeroRange = false;
    }
    return this.writeZeroBytes(offset, length);
  }

  /** Whether a transfer has to go through a buffer of ours: the kernel would refuse it. */
  mustBounce(iovecs: IovecArray, offset: number): boolean {
    const { alignment } = this;
    return alignment !== 1 && (offset % alignment !== 0 || !iovecs.isAligned(alignment));
  }

  /** Repeats `call` until everything is moved. */
  private transfer(call: VectorCall, iovecs: IovecArray, offset: number, reading: boolean): number {
    let first = 0;
    for (;;) {
      const moved = call(this.fd, iovecs.entryAddress(first), iovecs.count - first, offset);
      if (moved === iovecs.totalBytes) return 0;
      if (moved < 0) {
        const errno = lastErrno();
        if (errno !== EINTR) return -errno;
      } else if (moved === 0) {
        return reading ? this.readPastEnd(iovecs, first) : -EIO;
      } else {
        first = skip(iovecs, first, moved);
        offset += moved;
      }
    }
  }

  private readPastEnd(iovecs: IovecArray, first: number): number {
    if (!this.zeroesPastEnd) return -EIO;
    for (let entry = first; entry < iovecs.count; entry++) {
      libc.memset(iovecs.addressAt(entry), 0, iovecs.lengthAt(entry));
    }
    return 0;
  }

  private readThroughBounce(iovecs: IovecArray, offset: number): number {
    const bounce = this.bounce();
    const end = offset + iovecs.totalBytes;
    let first = 0;
    for (let position = offset; position < end;) {
      const start = this.alignDown(position);
      const length = Math.min(this.alignUp(end) - start, bounce.byteLength);
      const result = this.readBlocks(bounce.address, length, start);
      if (result < 0) return result;
      const available = Math.min(start + result, end) - position;
      if (available <= 0) return this.readPastEnd(iovecs, first);
      first = copy(iovecs, first, bounce.address + position - start, available, false);
      position += available;
    }
    return 0;
  }

  private writeThroughBounce(iovecs: IovecArray, offset: number): number {
    const bounce = this.bounce();
    const { alignment } = this;
    const end = offset + iovecs.totalBytes;
    let first = 0;
    for (let position = offset; position < end;) {
      const start = this.alignDown(position);
      const stop = Math.min(this.alignUp(end), start + bounce.byteLength);
      // What is written of the first and the last block may be a part.
      if (position > start) {
        const result = this.readOldBlock(bounce.address, start);
        if (result < 0) return result;
      }
      if (stop > end && (stop - alignment > start || position === start)) {
        const result = this.readOldBlock(bounce.address + stop - alignment - start, stop - alignment);
        if (result < 0) return result;
      }
      const take = Math.min(stop, end) - position;
      first = copy(iovecs, first, bounce.address + position - start, take, true);
      const result = this.writeBlocks(bounce.address, stop - start, start);
      if (result < 0) return result;
      position += take;
    }
    return 0;
  }

  /** Reads the block at `offset`; what of it is beyond the end of the file reads as zeroes. */
  private readOldBlock(address: number, offset: number): number {
    const result = this.readBlocks(address, this.alignment, offset);
    if (result >= 0 && result < this.alignment) libc.memset(address + result, 0, this.alignment - result);
    return result;
  }

  /** Returns how many bytes were read, at most `length`; fewer only at the end of the file. */
  private readBlocks(address: number, length: number, offset: number): number {
    let done = 0;
    while (done < length) {
      const result = libc.pread(this.fd, address + done, length - done, offset + done);
      if (result < 0) {
        const errno = lastErrno();
        if (errno !== EINTR) return -errno;
      } else {
        done += result;
        // An odd count is the end of the file; asking again from there would not be aligned.
        if (result === 0 || done % this.alignment !== 0) return done;
      }
    }
    return done;
  }

  private writeBlocks(address: number, length: number, offset: number): number {
    let done = 0;
    while (done < length) {
      const result = libc.pwrite(this.fd, address + done, length - done, offset + done);
      if (result < 0) {
        const errno = lastErrno();
        if (errno !== EINTR) return -errno;
      } else {
        if (result === 0) return -EIO;
        done += result;
      }
    }
    return 0;
  }

  private allocate(mode: number, offset: number, length: number): number {
    for (;;) {
      const result = orErrno(libc.fallocate(this.fd, mode | FALLOC_FL_KEEP_SIZE, offset, length));
      if (result !== -EINTR) return result;
    }
  }

  private discardBlocks(offset: number, length: number): number {
    this.discardRange ??= new NativeBuffer(16);
    this.discardRange.setU64(0, offset);
    this.discardRange.setU64(8, length);
    return orErrno(libc.ioctl(this.fd, BLKDISCARD, this.discardRange.address));
  }

  private writeZeroBytes(offset: number, length: number): number {
    this.zeroBuffer ??= new NativeBuffer(ZERO_BUFFER_SIZE, PAGE_SIZE);
    this.zeroVector ??= new IovecArray(ZERO_ENTRIES);
    const { zeroBuffer, zeroVector } = this;
    while (length > 0) {
      zeroVector.clear();
      while (length > zeroVector.totalBytes && zeroVector.count < ZERO_ENTRIES) {
        zeroVector.add(zeroBuffer.address, Math.min(ZERO_BUFFER_SIZE, length - zeroVector.totalBytes));
      }
      const piece = zeroVector.totalBytes;
      const result = this.writev(zeroVector, offset);
      if (result < 0) return result;
      offset += piece;
      length -= piece;
    }
    return 0;
  }

  private bounce(): NativeBuffer {
    return (this.bounceBuffer ??= new NativeBuffer(BOUNCE_SIZE, Math.max(this.alignment, PAGE_SIZE)));
  }

  private alignDown(offset: number): number {
    return offset - (offset % this.alignment);
  }

  private alignUp(offset: number): number {
    return this.alignDown(offset + this.alignment - 1);
  }
}

function isUnsupported(result: number): boolean {
  return result === -EOPNOTSUPP || result === -ENOTTY;
}

/** Drops `bytes` from entry `first` on; returns the entry that is first now. */
function skip(iovecs: IovecArray, first: number, bytes: number): number {
  while (bytes > 0) {
    const piece = Math.min(bytes, iovecs.lengthAt(first));
    iovecs.trim(first, piece);
    bytes -= piece;
    if (iovecs.lengthAt(first) === 0) first++;
  }
  return first;
}

/** Moves `bytes` between `address` and the memory of `iovecs` from entry `first` on, and drops them there. */
function copy(iovecs: IovecArray, first: number, address: number, bytes: number, fromVector: boolean): number {
  while (bytes > 0) {
    const piece = Math.min(bytes, iovecs.lengthAt(first));
    const theirs = iovecs.addressAt(first);
    if (fromVector) libc.memcpy(address, theirs, piece);
    else libc.memcpy(theirs, address, piece);
    address += piece;
    bytes -= piece;
    first = skip(iovecs, first, piece);
  }
  return first;
}
