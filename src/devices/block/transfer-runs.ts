// The runs of a queue pass. Where the image carries out several transfers at once they are gathered until the pass ends,
// something else than a transfer comes, or one would touch what another writes; everywhere else each is carried out as soon
// as the next begins. Runs in the I/O worker.

import type { DescriptorChain } from '../virtio/chain.js';
import type { DiskImage, TransferBatch } from './disk-image.js';
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, type BlockRequest } from './request.js';
import { TransferRun } from './transfer-run.js';

export class TransferRuns {
  /** How many there are. */
  count = 0;
  private readonly runs: readonly TransferRun[];
  private readonly batch: TransferBatch | undefined;
  /** For each run that was begun with others, its place among all. */
  private readonly begun: Uint8Array;
  private readonly results: Int32Array;

  constructor(image: DiskImage) {
    this.batch = image.batch;
    const capacity = this.batch?.capacity ?? 1;
    this.runs = Array.from({ length: capacity }, () => new TransferRun(image));
    this.begun = new Uint8Array(capacity);
    this.results = new Int32Array(capacity);
  }

  at(index: number): TransferRun {
    return this.runs[index];
  }

  /** Whether `request` can be added before the others are carried out; always when there is none. */
  accepts(chain: DescriptorChain, request: BlockRequest): boolean {
    const { count, runs } = this;
    if (count === 0) return true;
    if (this.touchesOthers(request)) return false;
    return count < runs.length || runs[count - 1].accepts(chain, request);
  }

  add(chain: DescriptorChain, request: BlockRequest): void {
    const last = this.count === 0 ? undefined : this.runs[this.count - 1];
    const run = last?.accepts(chain, request) === true ? last : this.runs[this.count++];
    run.add(chain, request);
  }

  /** Carries all of them out and sets their results. Returns how many calls on the image that took. */
  execute(): number {
    const { batch, count, runs, begun, results } = this;
    if (batch === undefined || count === 1) return this.executeEach();
    let together = 0;
    for (let index = 0; index < count; index++) {
      if (runs[index].begin(batch)) begun[together++] = index;
    }
    let calls = 1;
    if (together > 0) batch.execute(results);
    let next = 0;
    for (let index = 0; index < count; index++) {
      if (next < together && begun[next] === index && results[next++] === 0) runs[index].succeed();
      else calls += runs[index].execute();
    }
    return calls;
  }

  clear(): void {
    for (let index = 0; index < this.count; index++) this.runs[index].count = 0;
    this.count = 0;
  }

  private executeEach(): number {
    let calls = 0;
    for (let index = 0; index < this.count; index++) calls += this.runs[index].execute();
    return calls;
  }

  /** Requests of one queue that overlap, one of them a write, are carried out in their order. */
  private touchesOthers({ type, offset, length }: BlockRequest): boolean {
    for (let index = 0; index < this.count; index++) {
      const run = this.runs[index];
      const apart = offset >= run.offset + run.length || run.offset >= offset + length;
      if (!apart && (type === VIRTIO_BLK_T_OUT || run.type !== VIRTIO_BLK_T_IN)) return true;
    }
    return false;
  }
}
