// A raw image: byte N of the disk is byte N of the file. Runs in the device's I/O worker.

import type { IovecArray } from '../../platform/iovec.js';
import type { DiskImage } from './disk-image.js';
import { HostFile } from './host-file.js';
import type { HostFileSettings } from './settings.js';

export class RawImage implements DiskImage {
  readonly size: number;
  private readonly file: HostFile;

  constructor(settings: HostFileSettings) {
    this.size = settings.size;
    this.file = new HostFile(settings);
  }

  readv(iovecs: IovecArray, offset: number): number {
    return this.file.readv(iovecs, offset);
  }

  writev(iovecs: IovecArray, offset: number): number {
    return this.file.writev(iovecs, offset);
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
    return 0;
  }
}
