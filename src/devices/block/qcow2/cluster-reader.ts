// Reading guest data: from the image, from what is behind it, or from nowhere. Runs in the I/O worker.

import { EIO } from '../../../platform/errno.js';
import { IovecArray } from '../../../platform/iovec.js';
import type { DiskImage } from '../disk-image.js';
import type { ClusterMap } from './cluster-map.js';
import type { Decompressor } from './decompressor.js';
import type { Metadata } from './metadata.js';
import { IovecCursor } from './iovec-cursor.js';

/** What readers of one image share. */
export interface ReadSource {
  readonly metadata: Metadata;
  readonly map: ClusterMap;
  readonly decompressor: Decompressor;
  readonly backing: DiskImage | undefined;
}

export class ClusterReader {
  private readonly source: ReadSource;
  private readonly clusterSize: number;
  /** The part of a request that goes to one place. */
  private readonly run = new IovecArray();
  private readonly cursor = new IovecCursor(this.run);

  constructor(source: ReadSource) {
    this.source = source;
    this.clusterSize = source.metadata.clusterSize;
  }

  /** Fills what `iovecs` name with guest data from `offset` on. Returns 0 or -errno. */
  readv(iovecs: IovecArray, offset: number): number {
    const { clusterSize, cursor } = this;
    const { map, metadata, decompressor } = this.source;
    const end = offset + iovecs.totalBytes;
    cursor.start(iovecs);
    for (let position = offset; position < end;) {
      const inCluster = position % clusterSize;
      let result = map.lookup(
        (position - inCluster) / clusterSize,
        Math.ceil((end - position + inCluster) / clusterSize),
      );
      if (result < 0) return result;
      let bytes = Math.min(end - position, map.clusters * clusterSize - inCluster);
      switch (map.kind) {
        case 'zero':
          cursor.zero(bytes);
          break;
        case 'unallocated':
          bytes = this.readBacking(position, bytes);
          if (bytes < 0) return bytes;
          break;
        case 'compressed':
          result = decompressor.load(map.hostOffset, map.compressedLength);
          if (result < 0) return result;
          cursor.fill(decompressor.cluster.address + inCluster, bytes);
          break;
        case 'data': {
          // A file that was cut off must not read as a disk of zeroes.
          if (map.hostOffset >= metadata.file.end) return -EIO;
          const from = map.hostOffset + inCluster;
          if (position === offset && bytes === iovecs.totalBytes) return metadata.file.readv(iovecs, from);
          this.run.clear();
          bytes = cursor.take(bytes, this.run);
          result = metadata.file.readv(this.run, from);
          if (result < 0) return result;
          break;
        }
      }
      position += bytes;
    }
    return 0;
  }

  /** Reads at most `bytes` from the backing file. Returns how many, or -errno. */
  private readBacking(position: number, bytes: number): number {
    const { backing } = this.source;
    const available = backing === undefined ? 0 : backing.size - position;
    if (backing === undefined || available <= 0) {
      this.cursor.zero(bytes);
      return bytes;
    }
    this.run.clear();
    const taken = this.cursor.take(Math.min(bytes, available), this.run);
    const result = backing.readv(this.run, position);
    return result < 0 ? result : taken;
  }
}
