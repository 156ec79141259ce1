// A raw image: byte N of the disk is byte N of the file. Runs in the device's I/O worker.
//
// A guest may write what it likes into a raw image, the header of another format included; and whoever then opens the
// file by its first bytes gets an image that the guest has made up, with a backing file of the guest's choice. So when it
// was only detected that an image is raw, a write that would give it such a header fails. Who says image_type=raw has no
// such limit, and must go on saying it. QEMU does the same.

import { EPERM } from '../../platform/errno.js';
import { IOV_MAX, IovecArray } from '../../platform/iovec.js';
import { libc } from '../../platform/libc.js';
import { NativeBuffer } from '../../platform/native-buffer.js';
import { PAGE_SIZE } from '../../platform/units.js';
import { DirectBatch } from './direct-batch.js';
import { SECTOR_SIZE, type DiskImage } from './disk-image.js';
import { HostFile } from './host-file.js';
import { formatOf } from './image-formats.js';
import type { RawImageSettings } from './settings.js';

export class RawImage implements DiskImage {
  readonly size: number;
  readonly batch: DirectBatch | undefined;
  private readonly file: HostFile;
  private readonly guard: HeaderGuard | undefined;

  constructor({ file, guardHeader }: Omit<RawImageSettings, 'format'>) {
    this.size = file.size;
    this.file = new HostFile(file);
    this.guard = guardHeader && !file.readOnly ? new HeaderGuard() : undefined;
    this.batch = DirectBatch.open(this.file, this.guard !== undefined);
  }

  readv(iovecs: IovecArray, offset: number): number {
    return this.file.readv(iovecs, offset);
  }

  writev(iovecs: IovecArray, offset: number): number {
    if (offset !== 0 || this.guard === undefined) return this.file.writev(iovecs, offset);
    const result = this.guard.writeFirstSector(this.file, iovecs);
    return result < 0 || this.guard.rest.count === 0 ? result : this.file.writev(this.guard.rest, SECTOR_SIZE);
  }

  flush(): number {
    return this.file.flush();
  }

  discard(offset: number, length: number): number {
    return this.file.discard(offset, length);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): number {
    return this.file.writeZeroes(offset, length, unmap);
  }

  close(): number {
    this.batch?.close();
    return 0;
  }
}

/** Writes the first sector from a private copy: the guest could change its own between the look and the write. */
class HeaderGuard {
  /** What is left of the write after its first sector. */
  readonly rest = new IovecArray(IOV_MAX);
  private readonly sector = new NativeBuffer(SECTOR_SIZE, PAGE_SIZE);

  writeFirstSector(file: HostFile, iovecs: IovecArray): number {
    const { rest, sector } = this;
    rest.clear();
    let copied = 0;
    for (let entry = 0; entry < iovecs.count; entry++) {
      const address = iovecs.addressAt(entry);
      const length = iovecs.lengthAt(entry);
      const take = Math.min(length, SECTOR_SIZE - copied);
      if (take > 0) libc.memcpy(sector.address + copied, address, take);
      copied += take;
      if (length > take) rest.add(address + take, length - take);
    }
    if (formatOf(sector.bytes) !== undefined) return -EPERM;
    return file.write(sector.address, SECTOR_SIZE, 0);
  }
}
