// One request as the driver wrote it, parsed and checked: virtio 1.2, section 5.2.6.
//
//   struct virtio_blk_req { le32 type; le32 reserved; le64 sector; u8 data[]; u8 status; };
//
// Runs in the I/O worker. How the structure is spread over descriptors is the driver's choice: the header is the first
// 16 device-readable bytes, the status the last device-writable one. One object is reused for every request; header and
// segments of a discard are copied once, and only the copies are looked at.

import type { DescriptorChain } from '../virtio/chain.js';
import type { IovecArray } from '../../platform/iovec.js';
import { TWO_POW_32 } from '../../platform/units.js';
import { SECTOR_SIZE } from './disk-image.js';
import {
  MAX_DISCARD_SECTORS,
  MAX_DISCARD_SEGMENTS,
  MAX_WRITE_ZEROES_SECTORS,
  MAX_WRITE_ZEROES_SEGMENTS,
  VIRTIO_BLK_ID_BYTES,
} from './settings.js';

// Request types.
export const VIRTIO_BLK_T_IN = 0;
export const VIRTIO_BLK_T_OUT = 1;
export const VIRTIO_BLK_T_FLUSH = 4;
export const VIRTIO_BLK_T_GET_ID = 8;
export const VIRTIO_BLK_T_DISCARD = 11;
export const VIRTIO_BLK_T_WRITE_ZEROES = 13;

// Status.
export const VIRTIO_BLK_S_OK = 0;
export const VIRTIO_BLK_S_IOERR = 1;
export const VIRTIO_BLK_S_UNSUPP = 2;
export type BlockStatus = typeof VIRTIO_BLK_S_OK | typeof VIRTIO_BLK_S_IOERR | typeof VIRTIO_BLK_S_UNSUPP;

/** The request cannot even be answered: there is no byte to write its status to. */
export const NO_STATUS_BYTE = -1;

const HEADER_SIZE = 16;
const HEADER_WORDS = HEADER_SIZE / 4;

/** struct virtio_blk_discard_write_zeroes { le64 sector; le32 num_sectors; le32 flags; }; flags: bit 0 is unmap. */
const RANGE_SIZE = 16;
const UNMAP = 1;

export class BlockRequest {
  type = 0;
  /** Where it starts, in bytes of the disk. */
  offset = 0;
  /** Bytes of data, status excluded. */
  length = 0;
  /** Of a discard or write zeroes. */
  rangeCount = 0;
  readonly rangeOffsets = new Float64Array(MAX_DISCARD_SEGMENTS);
  readonly rangeLengths = new Float64Array(MAX_DISCARD_SEGMENTS);
  unmap = false;
  private readonly size: number;
  private readonly readOnly: boolean;
  private readonly header = new Uint32Array(HEADER_WORDS);
  private readonly headerBytes = new Uint8Array(this.header.buffer);
  private readonly ranges = new Uint8Array(MAX_DISCARD_SEGMENTS * RANGE_SIZE);
  private readonly rangeView = new DataView(this.ranges.buffer);

  /** For a disk of `size` bytes. */
  constructor(size: number, readOnly: boolean) {
    this.size = size;
    this.readOnly = readOnly;
  }

  /** Takes the request in `chain`: OK when it can be carried out, else the status to answer with, or NO_STATUS_BYTE. */
  parse(chain: DescriptorChain): BlockStatus | typeof NO_STATUS_BYTE {
    if (chain.writableBytes === 0) return NO_STATUS_BYTE;
    // What a request that is answered unheard is taken for: no data came.
    this.type = VIRTIO_BLK_T_FLUSH;
    this.length = 0;
    if (chain.readableBytes < HEADER_SIZE) return VIRTIO_BLK_S_IOERR;
    if (!chain.copyWordsFromReadable(this.header)) chain.copyFromReadable(0, this.headerBytes, HEADER_SIZE);
    const { header } = this;
    this.type = header[0];
    this.offset = (header[2] + header[3] * TWO_POW_32) * SECTOR_SIZE;
    switch (this.type) {
      case VIRTIO_BLK_T_IN:
        this.length = chain.writableBytes - 1;
        return this.checkTransfer();
      case VIRTIO_BLK_T_OUT:
        this.length = chain.readableBytes - HEADER_SIZE;
        return this.readOnly ? VIRTIO_BLK_S_IOERR : this.checkTransfer();
      case VIRTIO_BLK_T_FLUSH:
        return VIRTIO_BLK_S_OK;
      case VIRTIO_BLK_T_GET_ID:
        this.length = chain.writableBytes - 1;
        return this.length < VIRTIO_BLK_ID_BYTES ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
      case VIRTIO_BLK_T_DISCARD:
      case VIRTIO_BLK_T_WRITE_ZEROES:
        this.length = chain.readableBytes - HEADER_SIZE;
        return this.readOnly ? VIRTIO_BLK_S_IOERR : this.parseRanges(chain);
      default:
        return VIRTIO_BLK_S_UNSUPP;
    }
  }

  private checkTransfer(): BlockStatus {
    const aligned = this.length % SECTOR_SIZE === 0;
    // An offset beyond 2^53 is inexact, and as much out of range as it was.
    return aligned && this.offset + this.length <= this.size ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
  }

  /** All ranges are judged before any is touched. */
  private parseRanges(chain: DescriptorChain): BlockStatus {
    const { length, rangeView } = this;
    const discard = this.type === VIRTIO_BLK_T_DISCARD;
    const limit = discard ? MAX_DISCARD_SECTORS : MAX_WRITE_ZEROES_SECTORS;
    const maxRanges = discard ? MAX_DISCARD_SEGMENTS : MAX_WRITE_ZEROES_SEGMENTS;
    if (length === 0 || length % RANGE_SIZE !== 0 || length / RANGE_SIZE > maxRanges) return VIRTIO_BLK_S_IOERR;
    chain.copyFromReadable(HEADER_SIZE, this.ranges, length);
    this.rangeCount = length / RANGE_SIZE;
    this.unmap = false;
    for (let index = 0; index < this.rangeCount; index++) {
      const at = index * RANGE_SIZE;
      const sector = rangeView.getUint32(at, true) + rangeView.getUint32(at + 4, true) * TWO_POW_32;
      const sectors = rangeView.getUint32(at + 8, true);
      const flags = rangeView.getUint32(at + 12, true);
      // 5.2.6.2: no flags but unmap, and none at all for a discard.
      if ((flags & ~UNMAP) !== 0 || (discard && flags !== 0)) return VIRTIO_BLK_S_UNSUPP;
      if (sectors > limit || (sector + sectors) * SECTOR_SIZE > this.size) return VIRTIO_BLK_S_IOERR;
      this.rangeOffsets[index] = sector * SECTOR_SIZE;
      this.rangeLengths[index] = sectors * SECTOR_SIZE;
      if (flags === UNMAP) this.unmap = true;
    }
    return VIRTIO_BLK_S_OK;
  }
}

/** Appends the data of a request to `iovecs`, which has room for the chain. */
export function addData(iovecs: IovecArray, chain: DescriptorChain, { type, length }: BlockRequest): void {
  const writing = type === VIRTIO_BLK_T_OUT;
  let skip = writing ? HEADER_SIZE : 0;
  let remaining = length;
  for (let segment = writing ? 0 : chain.readableCount; remaining > 0; segment++) {
    const available = chain.lengths[segment];
    if (skip >= available) {
      skip -= available;
      continue;
    }
    const take = Math.min(available - skip, remaining);
    iovecs.add(chain.hostAddress(segment, skip), take);
    remaining -= take;
    skip = 0;
  }
}
