// A disk image in this process's memory, for tests of the device: it keeps a log of the calls, what has been flushed,
// and fails where it is told to.

import type { DiskImage } from '../../../src/devices/block/disk-image.js';
import { EIO } from '../../../src/platform/errno.js';
import type { IovecArray } from '../../../src/platform/iovec.js';
import { libc } from '../../../src/platform/libc.js';
import { NativeBuffer } from '../../../src/platform/native-buffer.js';

export class MemoryImage implements DiskImage {
  readonly size: number;
  readonly bytes: Uint8Array;
  /** What would survive a crash. */
  durable: Uint8Array;
  readonly calls: string[] = [];
  /** Transfers that touch these byte offsets fail. */
  readonly badOffsets = new Set<number>();
  failFlush = false;
  closed = 0;
  private readonly memory: NativeBuffer;

  constructor(size: number) {
    this.size = size;
    this.memory = new NativeBuffer(size);
    this.bytes = this.memory.bytes;
    this.durable = new Uint8Array(size);
  }

  readv(iovecs: IovecArray, offset: number): number {
    return this.transfer('read', iovecs, offset);
  }

  writev(iovecs: IovecArray, offset: number): number {
    return this.transfer('write', iovecs, offset);
  }

  flush(): number {
    this.calls.push('flush');
    if (this.failFlush) return -EIO;
    this.durable = this.bytes.slice();
    return 0;
  }

  discard(offset: number, length: number): number {
    return this.clear(`discard ${offset}+${length}`, offset, length);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): number {
    return this.clear(`zero ${offset}+${length}${unmap ? ' unmap' : ''}`, offset, length);
  }

  close(): number {
    this.closed++;
    return 0;
  }

  /** The calls since the last time. */
  takeCalls(): string[] {
    return this.calls.splice(0);
  }

  private transfer(what: 'read' | 'write', iovecs: IovecArray, offset: number): number {
    const { totalBytes, count } = iovecs;
    this.calls.push(`${what} ${offset}+${totalBytes}`);
    this.check(offset, totalBytes);
    if (this.fails(offset, totalBytes)) return -EIO;
    let position = this.memory.address + offset;
    for (let entry = 0; entry < count; entry++) {
      const address = iovecs.addressAt(entry);
      const length = iovecs.lengthAt(entry);
      if (what === 'read') libc.memcpy(address, position, length);
      else libc.memcpy(position, address, length);
      position += length;
    }
    // Used up, as the seam allows.
    iovecs.clear();
    return 0;
  }

  private clear(call: string, offset: number, length: number): number {
    this.calls.push(call);
    this.check(offset, length);
    if (this.fails(offset, length)) return -EIO;
    this.bytes.fill(0, offset, offset + length);
    return 0;
  }

  private fails(offset: number, length: number): boolean {
    return [...this.badOffsets].some((bad) => bad >= offset && bad < offset + length);
  }

  private check(offset: number, length: number): void {
    if (offset % 512 !== 0 || length % 512 !== 0 || length === 0 || offset < 0 || offset + length > this.size) {
      throw new Error(`the device called with ${offset}+${length}, against what the seam says`);
    }
  }
}
