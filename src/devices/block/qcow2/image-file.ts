// The file of a qcow2 image in the I/O worker: the host file, and where it ends by now.

import { NativeBuffer } from '../../../platform/native-buffer.js';
import type { IovecArray } from '../../../platform/iovec.js';
import { KIB, PAGE_SIZE } from '../../../platform/units.js';
import { HostFile } from '../host-file.js';
import type { HostFileSettings } from '../settings.js';

const ZEROES_SIZE = 64 * KIB;

export class ImageFile {
  readonly settings: HostFileSettings;
  /** Where the file ends; what is beyond, nothing has been written to. */
  end: number;
  private readonly host: HostFile;
  private readonly zeroes: NativeBuffer | undefined;

  constructor(settings: HostFileSettings) {
    this.settings = settings;
    this.end = settings.size;
    // The last cluster of an image need not be there as a whole.
    this.host = new HostFile(settings, { zeroesPastEnd: true });
    if (!settings.readOnly) this.zeroes = new NativeBuffer(ZEROES_SIZE, PAGE_SIZE);
  }

  /** Whether what is at `offset` and behind reads as zeroes without having been written. */
  isUntouched(offset: number): boolean {
    return offset >= this.end && !this.settings.isBlockDevice;
  }

  /** Fills what `iovecs` name, with zeroes past the end of the file; uses up its entries. 0 or -errno, as all below. */
  readv(iovecs: IovecArray, offset: number): number {
    return this.host.readv(iovecs, offset);
  }

  writev(iovecs: IovecArray, offset: number): number {
    // Also when the write fails: some of it may have been done.
    this.end = Math.max(this.end, offset + iovecs.totalBytes);
    return this.host.writev(iovecs, offset);
  }

  read(address: number, length: number, offset: number): number {
    return this.host.read(address, length, offset);
  }

  write(address: number, length: number, offset: number): number {
    this.end = Math.max(this.end, offset + length);
    return this.host.write(address, length, offset);
  }

  /** Writes zeroes, so that the file does reach that far. */
  writeZeroes(offset: number, length: number): number {
    if (this.zeroes === undefined) throw new Error('a read-only image was to be written');
    for (let done = 0; done < length; done += ZEROES_SIZE) {
      const result = this.write(this.zeroes.address, Math.min(ZEROES_SIZE, length - done), offset + done);
      if (result < 0) return result;
    }
    return 0;
  }

  /** Gives the space of a range back; it reads as anything afterwards. */
  discard(offset: number, length: number): number {
    return this.host.discard(offset, length);
  }

  flush(): number {
    return this.host.flush();
  }
}
