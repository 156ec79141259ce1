// Requests that follow one another on the disk, gathered into one call on the image.
//
// Runs in the I/O worker. A request joins the run when it is of the same kind and starts where the run ends; then the
// run's memory and the run's bytes of the disk are each in order, and one preadv or pwritev moves all of them. Requests
// are never reordered: one that does not fit ends the run first, and is carried out after it.
//
// A call on an image uses up its vector. When the call of a run fails, one of its requests may be to blame and the
// others not; so they are tried again, one by one, from a copy of the vector.

import { IOV_MAX, IovecArray } from '../../platform/iovec.js';
import { KIB } from '../../platform/units.js';
import type { DescriptorChain } from '../virtio/chain.js';
import type { DiskImage, TransferBatch } from './disk-image.js';
import { addData, VIRTIO_BLK_T_IN, type BlockRequest } from './request.js';

const MAX_REQUESTS = 128;
/** Longer calls cost no less per byte, and the first request waits for the last. */
const MAX_MERGED_BYTES = 512 * KIB;

export class TransferRun {
  /** How many requests; their numbers below are [0, count). */
  count = 0;
  /** VIRTIO_BLK_T_IN or VIRTIO_BLK_T_OUT. */
  type = VIRTIO_BLK_T_IN;
  offset = 0;
  length = 0;
  /** Per request: the head of its chain, where its status goes, its sizes, and what became of it: 0, or -errno. */
  readonly heads = new Uint16Array(MAX_REQUESTS);
  readonly statusChunks = new Uint8Array(MAX_REQUESTS);
  readonly statusOffsets = new Uint32Array(MAX_REQUESTS);
  readonly writableBytes = new Float64Array(MAX_REQUESTS);
  readonly lengths = new Float64Array(MAX_REQUESTS);
  readonly results = new Int32Array(MAX_REQUESTS);
  private readonly firstEntries = new Uint16Array(MAX_REQUESTS);
  private readonly iovecs = new IovecArray(IOV_MAX);
  private readonly copy = new IovecArray(IOV_MAX);
  private readonly image: DiskImage;

  constructor(image: DiskImage) {
    this.image = image;
  }

  /** Whether `request` can be added; always when the run is empty. */
  accepts(chain: DescriptorChain, request: BlockRequest): boolean {
    if (this.count === 0) return true;
    return (
      request.type === this.type &&
      request.offset === this.offset + this.length &&
      this.count < MAX_REQUESTS &&
      this.iovecs.count + chain.count <= IOV_MAX &&
      this.length + request.length <= MAX_MERGED_BYTES
    );
  }

  add(chain: DescriptorChain, request: BlockRequest): void {
    if (this.count === 0) {
      this.type = request.type;
      this.offset = request.offset;
      this.length = 0;
      this.iovecs.clear();
    }
    const index = this.count++;
    const last = chain.count - 1;
    this.heads[index] = chain.head;
    this.statusChunks[index] = chain.chunks[last];
    this.statusOffsets[index] = chain.offsets[last] + chain.lengths[last] - 1;
    this.writableBytes[index] = chain.writableBytes;
    this.lengths[index] = request.length;
    this.firstEntries[index] = this.iovecs.count;
    this.length += request.length;
    addData(this.iovecs, chain, request);
  }

  /** Moves the bytes and sets `results`. Returns how many calls on the image that took. */
  execute(): number {
    const { count, iovecs, copy, results } = this;
    if (count > 1) copy.copyFrom(iovecs, 0, iovecs.count);
    const result = this.transfer(iovecs, this.offset);
    results.fill(result, 0, count);
    if (result === 0 || count === 1) return 1;
    let offset = this.offset;
    const entries = copy.count;
    for (let index = 0; index < count; index++) {
      const end = index + 1 < count ? this.firstEntries[index + 1] : entries;
      iovecs.copyFrom(copy, this.firstEntries[index], end);
      results[index] = this.transfer(iovecs, offset);
      offset += this.lengths[index];
    }
    return count + 1;
  }

  /** Has it begun with others, unless it has to be carried out by itself. `succeed` or `execute` follows. */
  begin(batch: TransferBatch): boolean {
    return this.length > 0 && batch.add(this.type === VIRTIO_BLK_T_IN, this.iovecs, this.offset);
  }

  /** It has come through with others. */
  succeed(): void {
    this.results.fill(0, 0, this.count);
  }

  private transfer(iovecs: IovecArray, offset: number): number {
    if (iovecs.totalBytes === 0) return 0;
    return this.type === VIRTIO_BLK_T_IN ? this.image.readv(iovecs, offset) : this.image.writev(iovecs, offset);
  }
}
