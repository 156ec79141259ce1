// For tests of qcow2 images: images driven without a device. Not only for Jest: crash-writer.ts uses it, too.

import { closeSync, fstatSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DiskImage } from '../../../../src/devices/block/disk-image.js';
import { openImage } from '../../../../src/devices/block/images.js';
import { openChain } from '../../../../src/devices/block/qcow2/chain.js';
import type { ImageLog } from '../../../../src/devices/block/qcow2/metadata.js';
import type { HostFileSettings } from '../../../../src/devices/block/settings.js';
import { IovecArray } from '../../../../src/platform/iovec.js';
import { NativeBuffer } from '../../../../src/platform/native-buffer.js';
import type { Fd } from '../../../../src/platform/units.js';

/** A directory and open files that go with the test. */
export class Workplace {
  readonly directory: string;
  private readonly fds: number[] = [];

  /** Without `directory`, in a new one. */
  constructor(directory = mkdtempSync(join(tmpdir(), 'tsvmm-qcow2-'))) {
    this.directory = directory;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  open(path: string, readOnly = false): HostFileSettings {
    const fd = openSync(path, readOnly ? 'r' : 'r+');
    this.fds.push(fd);
    return { fd: fd as Fd, path, size: fstatSync(fd).size, readOnly, alignment: 1, isBlockDevice: false };
  }

  /** Makes a file. */
  create(name: string, bytes: Uint8Array = new Uint8Array(0)): HostFileSettings {
    writeFileSync(this.path(name), bytes);
    return this.open(this.path(name));
  }

  /** Opens an image and what is behind it, as the two threads do. */
  openDisk(path: string, readOnly = false, log: ImageLog = unexpected): Disk {
    const openBacking = (backing: string): HostFileSettings => this.open(backing, true);
    const { settings } = openChain(this.open(path, readOnly), { backingFiles: true, openBacking });
    return new Disk(openImage(settings, log));
  }

  closeFiles(): void {
    for (const fd of this.fds.splice(0)) closeSync(fd);
  }

  remove(): void {
    this.closeFiles();
    rmSync(this.directory, { recursive: true });
  }
}

function unexpected(_level: string, message: string): void {
  throw new Error(`the image complained: ${message}`);
}

/** Guest memory as requests name it: pieces of a buffer, none of which lies behind the one before. */
const PIECE = 3 * 512;

/** A disk image with buffers instead of vectors; failures are exceptions. */
export class Disk {
  readonly size: number;
  private readonly image: DiskImage;
  private readonly vector = new IovecArray();
  /** Keeps the memory of the request alive: its vector is only numbers to the garbage collector. */
  private memory = new NativeBuffer(0);

  constructor(image: DiskImage) {
    this.image = image;
    this.size = image.size;
  }

  read(offset: number, length: number): Buffer {
    const memory = new NativeBuffer(length);
    memory.bytes.fill(0xee);
    expectZero('readv', this.image.readv(this.pieces(memory), offset));
    return Buffer.from(memory.bytes.buffer, memory.bytes.byteOffset, length);
  }

  readAll(): Buffer {
    const all = Buffer.alloc(this.size);
    const step = 1024 * 1024;
    for (let at = 0; at < this.size; at += step) this.read(at, Math.min(step, this.size - at)).copy(all, at);
    return all;
  }

  write(offset: number, bytes: Uint8Array): void {
    const memory = new NativeBuffer(bytes.length);
    memory.bytes.set(bytes);
    expectZero('writev', this.image.writev(this.pieces(memory), offset));
  }

  discard(offset: number, length: number): void {
    expectZero('discard', this.image.discard(offset, length));
  }

  writeZeroes(offset: number, length: number, unmap: boolean): void {
    expectZero('writeZeroes', this.image.writeZeroes(offset, length, unmap));
  }

  flush(): void {
    expectZero('flush', this.image.flush());
  }

  close(): void {
    expectZero('close', this.image.close());
  }

  private pieces(memory: NativeBuffer): IovecArray {
    this.memory = memory;
    this.vector.clear();
    const piece = Math.max(PIECE, Math.ceil(memory.byteLength / this.vector.capacity / 512) * 512);
    for (let at = 0; at < this.memory.byteLength; at += piece) {
      this.vector.add(memory.address + at, Math.min(piece, memory.byteLength - at));
    }
    return this.vector;
  }
}

function expectZero(what: string, result: number): void {
  if (result !== 0) throw new Error(`${what}: ${result}`);
}
