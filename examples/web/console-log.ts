// The end of what a console printed, for pages that come later or fall behind. Main thread.

/** Bytes that are kept. What is older is forgotten; a page says so. */
const KEPT_BYTES = 256 * 1024;

/** The last bytes, at positions that count from the first one ever printed. */
export class ConsoleLog {
  private readonly ring = Buffer.alloc(KEPT_BYTES);
  private end = 0;

  /** How many bytes were printed. */
  get printed(): number {
    return this.end;
  }

  append(bytes: Uint8Array): void {
    const kept = bytes.subarray(Math.max(0, bytes.length - KEPT_BYTES));
    this.end += bytes.length - kept.length;
    const at = this.end % KEPT_BYTES;
    const first = kept.subarray(0, KEPT_BYTES - at);
    this.ring.set(first, at);
    this.ring.set(kept.subarray(first.length), 0);
    this.end += kept.length;
  }

  /** A copy of at most `limit` bytes from `position` on, or from the first that is kept; and where they begin. */
  read(position: number, limit: number): { readonly from: number; readonly bytes: Buffer } {
    const from = Math.min(Math.max(position, this.end - KEPT_BYTES, 0), this.end);
    const length = Math.min(this.end - from, limit);
    const at = from % KEPT_BYTES;
    const first = this.ring.subarray(at, Math.min(at + length, KEPT_BYTES));
    return { from, bytes: Buffer.concat([first, this.ring.subarray(0, length - first.length)]) };
  }
}
