// Compressed clusters: reads one, unpacks it, and keeps it, because a guest that reads in order asks for the next part of
// the same cluster. Runs in the I/O worker. Compressed clusters are never written.
//
// Node's zlib makes a buffer for its output, so unlike all else here this allocates. What it makes is bounded by the
// cluster size, whatever the data say.

import * as zlib from 'node:zlib';
import { EIO } from '../../../platform/errno.js';
import { NativeBuffer } from '../../../platform/native-buffer.js';
import { PAGE_SIZE } from '../../../platform/units.js';
import { QcowError } from './errors.js';
import type { CompressionType } from './header.js';
import type { ImageFile } from './image-file.js';
import { zstdFrameLength } from './zstd-frame.js';

type Unpack = (data: Uint8Array, maxLength: number) => Uint8Array;

/** Node 22.15 and 23.8 have zstd; the types that we compile against do not say so. */
interface MaybeZstd {
  readonly zstdDecompressSync?: (data: Uint8Array, options: { readonly maxOutputLength: number }) => Uint8Array;
}

function unpackerOf(compression: CompressionType): Unpack | undefined {
  if (compression === 'zlib') {
    // Behind the stream there is more, up to the end of the sector; and a stream may end without its last block.
    return (data, maxOutputLength) =>
      zlib.inflateRawSync(data, { maxOutputLength, finishFlush: zlib.constants.Z_SYNC_FLUSH });
  }
  const { zstdDecompressSync } = zlib as MaybeZstd;
  if (zstdDecompressSync === undefined) return undefined;
  return (data, maxOutputLength) =>
    zstdDecompressSync(data.subarray(0, zstdFrameLength(data) ?? data.length), { maxOutputLength });
}

/** Refuses an image whose compressed clusters could not be read. Throws QcowError. */
export function checkCompression(path: string, compression: CompressionType): void {
  if (unpackerOf(compression) !== undefined) return;
  const mend = 'run tsvmm with Node.js 22.15 or newer, or convert the image: qemu-img convert -O qcow2';
  throw new QcowError('unsupported', path, `its compression is ${compression}, which this Node.js does not have`, mend);
}

const NOTHING = -1;

export class Decompressor {
  /** The cluster that `load` unpacked. */
  readonly cluster: NativeBuffer;
  private readonly file: ImageFile;
  private readonly unpack: Unpack | undefined;
  private readonly packed: NativeBuffer;
  private heldOffset = NOTHING;

  constructor(file: ImageFile, compression: CompressionType, clusterSize: number) {
    this.file = file;
    this.unpack = unpackerOf(compression);
    this.cluster = new NativeBuffer(clusterSize, PAGE_SIZE);
    // A descriptor can say up to this much.
    this.packed = new NativeBuffer(2 * clusterSize, PAGE_SIZE);
  }

  /** Unpacks what is in `length` bytes at `offset`. Returns 0 or -errno. */
  load(offset: number, length: number): number {
    if (offset === this.heldOffset) return 0;
    if (this.unpack === undefined || offset >= this.file.end) return -EIO;
    this.heldOffset = NOTHING;
    const result = this.file.read(this.packed.address, length, offset);
    if (result < 0) return result;
    let unpacked: Uint8Array;
    try {
      unpacked = this.unpack(this.packed.bytes.subarray(0, length), this.cluster.byteLength);
    } catch {
      return -EIO;
    }
    if (unpacked.length !== this.cluster.byteLength) return -EIO;
    this.cluster.bytes.set(unpacked);
    this.heldOffset = offset;
    return 0;
  }
}
