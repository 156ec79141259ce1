// A qcow2 image as the block device sees it (QEMU's docs/interop/qcow2.txt, versions 2 and 3). Runs in the device's I/O
// worker, one thread for the image.
//
//   qcow2-image ── cluster-reader ── cluster-map ── metadata ── L1 table, L2 slices, refcounts, what is to be freed
//              └── cluster-writer ──┘            └── image-file ── the host's file
//
// Left out, and refused by name in header.ts: encryption, external data files, extended L2 entries. Internal snapshots
// are kept as they are, neither made nor changed. Compressed clusters are read, never made; reference counts are always
// exact, never lazy.

import { EIO } from '../../../platform/errno.js';
import type { IovecArray } from '../../../platform/iovec.js';
import { HostFile } from '../host-file.js';
import type { DiskImage } from '../disk-image.js';
import type { HostFileSettings } from '../settings.js';
import { ClusterMap } from './cluster-map.js';
import { ClusterReader, type ReadSource } from './cluster-reader.js';
import { ClusterWriter } from './cluster-writer.js';
import { checkCompression, Decompressor } from './decompressor.js';
import { readHeader } from './header.js';
import { ImageFile } from './image-file.js';
import { Metadata, type ImageLog } from './metadata.js';

export class Qcow2Image implements DiskImage {
  readonly size: number;
  private readonly metadata: Metadata;
  private readonly reader: ClusterReader;
  private readonly writer: ClusterWriter | undefined;
  private readonly backing: DiskImage | undefined;

  /** Opens the image in `settings`; `backing` is what it has behind it, and becomes the image's own. Throws QcowError. */
  constructor(settings: HostFileSettings, backing: DiskImage | undefined, log: ImageLog) {
    const header = readHeader(new HostFile(settings));
    checkCompression(settings.path, header.compression);
    const file = new ImageFile(settings);
    const metadata = new Metadata(file, header, log);
    const map = new ClusterMap(metadata);
    const decompressor = new Decompressor(file, header.compression, metadata.clusterSize);
    const source: ReadSource = { metadata, map, decompressor, backing };
    this.size = header.size;
    this.metadata = metadata;
    this.backing = backing;
    this.reader = new ClusterReader(source);
    if (metadata.refcounts === undefined) return;
    const hasBacking = backing !== undefined;
    this.writer = new ClusterWriter(metadata, metadata.refcounts, map, new ClusterReader(source), hasBacking);
  }

  readv(iovecs: IovecArray, offset: number): number {
    return this.reader.readv(iovecs, offset);
  }

  writev(iovecs: IovecArray, offset: number): number {
    return this.writer?.writev(iovecs, offset) ?? -EIO;
  }

  flush(): number {
    return this.writer === undefined ? 0 : this.metadata.flush();
  }

  discard(offset: number, length: number): number {
    return this.writer?.discard(offset, length) ?? -EIO;
  }

  writeZeroes(offset: number, length: number, unmap: boolean): number {
    return this.writer?.writeZeroes(offset, length, unmap) ?? -EIO;
  }

  close(): number {
    const result = this.flush();
    const finished = this.metadata.refcounts?.writeDirty() ?? 0;
    const backing = this.backing?.close() ?? 0;
    return result === 0 ? (finished === 0 ? backing : finished) : result;
  }
}
