// Disk images of tests: files in a directory of their own, which goes with the test, and vectors over test memory.

import { mkdtempSync, openSync, closeSync, readFileSync, rmSync, statSync, writeFileSync, constants } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HostFileSettings } from '../../../src/devices/block/settings.js';
import { IovecArray } from '../../../src/platform/iovec.js';
import { NativeBuffer } from '../../../src/platform/native-buffer.js';
import type { Fd } from '../../../src/platform/units.js';

export class ScratchDirectory implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'tsvmm-block-'));
  private readonly descriptors: number[] = [];

  at(name: string): string {
    return join(this.path, name);
  }

  /** A file with these bytes, open as an image is. */
  file(name: string, bytes: Uint8Array, alignment = 1, readOnly = false): HostFileSettings {
    const path = this.at(name);
    writeFileSync(path, bytes);
    const fd = openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR) as Fd;
    this.descriptors.push(fd);
    return { fd, path, size: bytes.length, readOnly, alignment, isBlockDevice: false };
  }

  /** What is in the file now. */
  bytes(name: string): Uint8Array {
    return new Uint8Array(readFileSync(this.at(name)));
  }

  /** How many bytes of the disk the file takes. */
  allocated(name: string): number {
    return statSync(this.at(name)).blocks * 512;
  }

  [Symbol.dispose](): void {
    for (const fd of this.descriptors) closeSync(fd);
    rmSync(this.path, { recursive: true });
  }
}

/** Memory with vectors over parts of it. */
export class ScratchMemory {
  readonly memory: NativeBuffer;
  readonly vector = new IovecArray();

  constructor(size: number) {
    this.memory = new NativeBuffer(size, 4096);
  }

  get bytes(): Uint8Array {
    return this.memory.bytes;
  }

  /** A vector over pieces of the memory. */
  over(...pieces: readonly (readonly [offset: number, length: number])[]): IovecArray {
    this.vector.clear();
    for (const [offset, length] of pieces) this.vector.add(this.memory.address + offset, length);
    return this.vector;
  }
}
