// Payload of the transmit packets of one batch, grouped by connection: linked lists over flat arrays.
//
// Runs in the I/O worker. The lists live from the moment a packet is parsed to the end of its batch, before its
// descriptors go back to the driver. Nothing is allocated per packet.

import { MAX_CHAIN_SEGMENTS, type DescriptorChain } from '../devices/virtio/chain.js';
import { IOV_MAX, type IovecArray } from '../platform/iovec.js';

/** No segment: the end of a list. */
export const NO_SEGMENT = -1;

/** A batch ends when this many segments are in use: any one more chain still fits. */
const SOFT_LIMIT = MAX_CHAIN_SEGMENTS;
const CAPACITY = SOFT_LIMIT + MAX_CHAIN_SEGMENTS;

/** One connection's list: `head` is NO_SEGMENT when it has none in this batch. */
export interface SegmentList {
  txHead: number;
  txTail: number;
}

export class TxSegments {
  private readonly addresses = new Float64Array(CAPACITY);
  private readonly lengths = new Uint32Array(CAPACITY);
  private readonly next = new Int16Array(CAPACITY);
  private count = 0;

  get full(): boolean {
    return this.count >= SOFT_LIMIT;
  }

  clear(): void {
    this.count = 0;
  }

  /** Appends `length` bytes of the device-readable part of `chain`, from `skip` on, to `list`. They are there. */
  append(list: SegmentList, chain: DescriptorChain, skip: number, length: number): void {
    for (let index = 0; length > 0; index++) {
      const available = chain.lengths[index];
      if (skip >= available) {
        skip -= available;
        continue;
      }
      const take = available - skip < length ? available - skip : length;
      const segment = this.count++;
      this.addresses[segment] = chain.hostAddress(index, skip);
      this.lengths[segment] = take;
      this.next[segment] = NO_SEGMENT;
      if (list.txHead === NO_SEGMENT) list.txHead = segment;
      else this.next[list.txTail] = segment;
      list.txTail = segment;
      length -= take;
      skip = 0;
    }
  }

  /** Puts the list from `segment` on into `iov`, as far as one call goes; returns the first that did not fit. */
  describe(segment: number, iov: IovecArray): number {
    while (segment !== NO_SEGMENT && iov.count < IOV_MAX) {
      iov.add(this.addresses[segment], this.lengths[segment]);
      segment = this.next[segment];
    }
    return segment;
  }

  /** Hands the bytes of the list from `segment` on, without its first `skip` bytes, to `target`. */
  copyTo(target: { push(address: number, length: number): void }, segment: number, skip: number): void {
    for (; segment !== NO_SEGMENT; segment = this.next[segment]) {
      const length = this.lengths[segment];
      if (skip < length) target.push(this.addresses[segment] + skip, length - skip);
      skip = skip > length ? skip - length : 0;
    }
  }
}
