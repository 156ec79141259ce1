// Transfers of a file that was opened with O_DIRECT, several at a time: the disk works on all of them while this thread waits.
// Runs in the device's I/O worker.
//
// `npm run bench -- block` compares the two ways in C: with O_DIRECT io_uring does several times as many requests a second
// as preadv(2) once there are some at once; in the page cache it does fewer.

import { IoUring } from '../../platform/io-uring.js';
import type { IovecArray } from '../../platform/iovec.js';
import type { TransferBatch } from './disk-image.js';
import type { HostFile } from './host-file.js';

const CAPACITY = 32;

export class DirectBatch implements TransferBatch {
  readonly capacity: number;
  private readonly file: HostFile;
  private readonly ring: IoUring;
  private readonly guarded: boolean;
  private readonly lengths: Float64Array;
  private count = 0;

  private constructor(file: HostFile, ring: IoUring, guarded: boolean) {
    this.file = file;
    this.ring = ring;
    this.guarded = guarded;
    this.capacity = ring.capacity;
    this.lengths = new Float64Array(ring.capacity);
  }

  /**
   * Undefined for a file in the page cache, and where there is no io_uring. `guarded`: writes to the first sector are
   * looked at by others, and carried out by themselves.
   */
  static open(file: HostFile, guarded: boolean): DirectBatch | undefined {
    if (file.settings.alignment === 1) return undefined;
    const ring = IoUring.open(CAPACITY);
    return ring === undefined ? undefined : new DirectBatch(file, ring, guarded);
  }

  add(reading: boolean, iovecs: IovecArray, offset: number): boolean {
    if (this.guarded && !reading && offset === 0) return false;
    if (this.file.mustBounce(iovecs, offset)) return false;
    this.ring.add(reading, this.file.settings.fd, iovecs.entryAddress(0), iovecs.count, offset);
    this.lengths[this.count++] = iovecs.totalBytes;
    return true;
  }

  execute(results: Int32Array): void {
    const { count, lengths } = this;
    this.count = 0;
    this.ring.run(results);
    for (let index = 0; index < count; index++) results[index] = results[index] === lengths[index] ? 0 : -1;
  }

  close(): void {
    this.ring.close();
  }
}
