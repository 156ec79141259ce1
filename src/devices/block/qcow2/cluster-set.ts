// A set of host clusters: those that hold metadata, which guest data must never overwrite, however wrong an image's
// tables are. Runs in the I/O worker.
//
// Asked on every write, so a hash table in one typed array with open addressing. It grows by doubling, which is rare: an
// image gets a new metadata cluster for thousands of data clusters.

import { TWO_POW_32 } from '../../../platform/units.js';

const EMPTY = -1;
const DELETED = -2;
const HASH_FACTOR = 0x9e37_79b1;
const INITIAL_BITS = 8;

export class ClusterSet {
  private bits = INITIAL_BITS;
  private keys = new Float64Array(2 ** INITIAL_BITS).fill(EMPTY);
  /** Keys and deleted ones. */
  private used = 0;

  /** How many there are; an upper bound, since deleted ones count until the set grows. */
  get size(): number {
    return this.used;
  }

  /** Adds `cluster`; false when it is in the set already. */
  add(cluster: number): boolean {
    if (this.has(cluster)) return false;
    if ((this.used + 1) * 2 > this.keys.length) this.grow();
    this.insert(cluster);
    return true;
  }

  delete(cluster: number): void {
    const index = this.find(cluster);
    if (this.keys[index] === cluster) this.keys[index] = DELETED;
  }

  has(cluster: number): boolean {
    return this.keys[this.find(cluster)] === cluster;
  }

  /** Whether any of `count` clusters from `first` on is in the set. */
  hasAny(first: number, count: number): boolean {
    for (let cluster = first; cluster < first + count; cluster++) {
      if (this.has(cluster)) return true;
    }
    return false;
  }

  /** Where `cluster` is, or the empty place that ends the search. There always is one: half the places are free. */
  private find(cluster: number): number {
    const { keys } = this;
    const mask = keys.length - 1;
    let index = Math.imul((cluster >>> 0) ^ Math.floor(cluster / TWO_POW_32), HASH_FACTOR) >>> (32 - this.bits);
    while (keys[index] !== cluster && keys[index] !== EMPTY) index = (index + 1) & mask;
    return index;
  }

  private insert(cluster: number): void {
    this.keys[this.find(cluster)] = cluster;
    this.used++;
  }

  private grow(): void {
    const old = this.keys;
    this.bits++;
    this.keys = new Float64Array(2 ** this.bits).fill(EMPTY);
    this.used = 0;
    for (const key of old) if (key >= 0) this.insert(key);
  }
}
