// Host clusters that nothing in memory refers to any more, but something on the disk may still do. Runs in the I/O worker.
//
// Their references are counted down only when the tables that no longer name them are on the disk (metadata.ts): were it
// done before, a crash in between would leave a table that refers to a cluster which somebody else has.

const CAPACITY = 4096;

export class PendingFrees {
  count = 0;
  private readonly firsts = new Float64Array(CAPACITY);
  private readonly counts = new Float64Array(CAPACITY);

  get isFull(): boolean {
    return this.count === CAPACITY;
  }

  /** Adds `clusters` clusters from `first` on. The caller has made sure that it is not full. */
  add(first: number, clusters: number): void {
    const last = this.count - 1;
    if (last >= 0 && this.firsts[last] + this.counts[last] === first) {
      this.counts[last] += clusters;
      return;
    }
    this.firsts[this.count] = first;
    this.counts[this.count] = clusters;
    this.count++;
  }

  firstAt(index: number): number {
    return this.firsts[index];
  }

  countAt(index: number): number {
    return this.counts[index];
  }

  clear(): void {
    this.count = 0;
  }
}
