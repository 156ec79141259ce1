// A host side that does what a test says: ready, would block, short, ended, failed.

import type { IovecArray } from '../../src/platform/iovec.js';
import { EAGAIN } from '../../src/platform/errno.js';
import { libc } from '../../src/platform/libc.js';
import { NativeBuffer } from '../../src/platform/native-buffer.js';
import type { EndpointEvents, EndReason, StreamEndpoint } from '../../src/vsock/endpoint.js';

/** What one read gives: bytes, the end (0), or a negative errno. */
export type ReadStep = Buffer | number;

export class ScriptedEndpoint implements StreamEndpoint {
  events: EndpointEvents | undefined;
  /** What the next reads give; then EAGAIN. A step longer than there is room for goes on with the next read. */
  readonly reads: ReadStep[] = [];
  /** How much the next writes take, or the errno they fail with; then everything. */
  readonly writes: number[] = [];
  /** What was written. */
  readonly written: Buffer[] = [];
  /** Everything that was asked of it, in order. */
  readonly calls: string[] = [];
  acceptResult = 0;

  attach(events: EndpointEvents): void {
    this.events = events;
    this.calls.push('attach');
  }

  accepted(localPort: number): number {
    this.calls.push(`accepted ${localPort}`);
    return this.acceptResult;
  }

  read(target: IovecArray, first: number, count: number): number {
    const step = this.reads.shift() ?? -EAGAIN;
    if (typeof step === 'number') {
      this.calls.push(`read: ${step}`);
      return step;
    }
    const source = new NativeBuffer(Math.max(1, step.length));
    source.bytes.set(step);
    let done = 0;
    for (let entry = first; entry < first + count && done < step.length; entry++) {
      const length = Math.min(target.lengthAt(entry), step.length - done);
      libc.memcpy(target.addressAt(entry), source.address + done, length);
      done += length;
    }
    if (done < step.length) this.reads.unshift(step.subarray(done));
    this.calls.push(`read: ${done} bytes`);
    return done;
  }

  write(source: IovecArray, first: number, count: number): number {
    const limit = this.writes.shift() ?? Infinity;
    if (limit < 0) {
      this.calls.push(`write: ${limit}`);
      return limit;
    }
    let taken = 0;
    for (let entry = first; entry < first + count && taken < limit; entry++) {
      const length = Math.min(source.lengthAt(entry), limit - taken);
      const copy = new NativeBuffer(Math.max(1, length));
      libc.memcpy(copy.address, source.addressAt(entry), length);
      this.written.push(Buffer.from(copy.bytes.subarray(0, length)));
      taken += length;
    }
    this.calls.push(`write: ${taken} bytes`);
    return taken;
  }

  watchWritable(watch: boolean): void {
    this.calls.push(`watchWritable ${watch}`);
  }

  shutdownWrite(): void {
    this.calls.push('shutdownWrite');
  }

  shutdownRead(): void {
    this.calls.push('shutdownRead');
  }

  close(reason: EndReason): void {
    this.calls.push(`close: ${reason}`);
    this.events = undefined;
  }

  /** All that was written, joined. */
  get text(): string {
    return Buffer.concat(this.written).toString();
  }
}
