// Walks through the memory of a request while its bytes go to different places. Runs in the I/O worker.

import type { IovecArray } from '../../../platform/iovec.js';
import { libc } from '../../../platform/libc.js';

export class IovecCursor {
  private iovecs: IovecArray;
  private index = 0;
  /** Bytes of entry `index` that are behind us. */
  private passed = 0;

  constructor(iovecs: IovecArray) {
    this.iovecs = iovecs;
  }

  /** Starts at the first byte of `iovecs`, which must not change until the walk is over. */
  start(iovecs: IovecArray): void {
    this.iovecs = iovecs;
    this.index = 0;
    this.passed = 0;
  }

  /** Appends the next `bytes` to `target` and passes them. Returns how many there was room for. */
  take(bytes: number, target: IovecArray, room = target.capacity - target.count): number {
    let taken = 0;
    for (let entries = 0; taken < bytes && entries < room; entries++) {
      const piece = this.piece(bytes - taken);
      target.add(this.iovecs.addressAt(this.index) + this.passed, piece);
      this.pass(piece);
      taken += piece;
    }
    return taken;
  }

  /** Fills the next `bytes` with zeroes. */
  zero(bytes: number): void {
    for (let done = 0; done < bytes;) {
      const piece = this.piece(bytes - done);
      libc.memset(this.iovecs.addressAt(this.index) + this.passed, 0, piece);
      this.pass(piece);
      done += piece;
    }
  }

  /** Copies `bytes` from `address` to the next. */
  fill(address: number, bytes: number): void {
    for (let done = 0; done < bytes;) {
      const piece = this.piece(bytes - done);
      libc.memcpy(this.iovecs.addressAt(this.index) + this.passed, address + done, piece);
      this.pass(piece);
      done += piece;
    }
  }

  private piece(bytes: number): number {
    return Math.min(bytes, this.iovecs.lengthAt(this.index) - this.passed);
  }

  private pass(bytes: number): void {
    this.passed += bytes;
    if (this.passed < this.iovecs.lengthAt(this.index)) return;
    this.index++;
    this.passed = 0;
  }
}
