// What a console has printed since its first byte, as far as it is kept: all of it up to 16 MiB, then at least the last 16
// MiB. Main thread.
//
// Positions count bytes since the first one and never change. The bytes lie in one buffer that doubles as it fills, up
// to a quarter more than is promised; then the oldest quarter makes room, so a byte is moved a bounded number of times.

import { KIB, MIB } from '../../platform/units.js';

/** What is kept at least. */
export const KEPT_BYTES = 16 * MIB;
const SPARE_BYTES = KEPT_BYTES / 4;
const FIRST_BYTES = 4 * KIB;

export class OutputHistory {
  private readonly kept: number;
  private readonly capacity: number;
  private buffer = Buffer.alloc(0);
  private length = 0;
  private dropped = 0;

  /** Promises to keep the last `kept` bytes; a test keeps fewer. */
  constructor(kept = KEPT_BYTES, spare = SPARE_BYTES) {
    this.kept = kept;
    this.capacity = kept + spare;
  }

  /** The position of the first byte that is still there. */
  get start(): number {
    return this.dropped;
  }

  /** The position after the last byte: how many were printed in all. */
  get end(): number {
    return this.dropped + this.length;
  }

  append(bytes: Uint8Array): void {
    // More than fits at once: its beginning is history already.
    const skipped = Math.max(0, bytes.length - this.capacity);
    const rest = bytes.subarray(skipped);
    this.makeRoom(rest.length, skipped);
    this.buffer.set(rest, this.length);
    this.length += rest.length;
  }

  /** The bytes between two positions, as far as they are kept; overwritten by what is appended next. */
  view(from: number, to: number = this.end): Buffer {
    const begin = Math.max(0, from - this.dropped);
    return this.buffer.subarray(begin, Math.max(begin, Math.min(this.length, to - this.dropped)));
  }

  private makeRoom(count: number, skipped: number): void {
    if (skipped > 0) {
      this.dropped += this.length + skipped;
      this.length = 0;
    }
    if (this.length + count > this.capacity) {
      const gone = this.length - Math.max(0, Math.min(this.length, this.kept - count));
      this.buffer.copyWithin(0, gone, this.length);
      this.dropped += gone;
      this.length -= gone;
    }
    const needed = this.length + count;
    if (needed <= this.buffer.length) return;
    const grown = Buffer.allocUnsafeSlow(
      Math.min(this.capacity, Math.max(FIRST_BYTES, needed, this.buffer.length * 2)),
    );
    grown.set(this.buffer.subarray(0, this.length));
    this.buffer = grown;
  }
}
