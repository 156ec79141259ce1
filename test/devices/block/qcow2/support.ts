// For tests of qcow2 images: QEMU's tools as the measure, and images driven without a device.

import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from '@jest/globals';
import type { DiskImage } from '../../../../src/devices/block/disk-image.js';
import { openImage } from '../../../../src/devices/block/images.js';
import { openChain } from '../../../../src/devices/block/qcow2/chain.js';
import type { HostFileSettings } from '../../../../src/devices/block/settings.js';
import { IovecArray } from '../../../../src/platform/iovec.js';
import { NativeBuffer } from '../../../../src/platform/native-buffer.js';
import type { Fd } from '../../../../src/platform/units.js';

const requireAll = process.env['CI'] === 'true' || process.env['TSVMM_REQUIRE_ALL'] === '1';

/** `describe` for tests that need qemu-img and qemu-io (package qemu-utils). */
export function describeQemu(name: string, body: () => void): void {
  if (spawnSync('qemu-img', ['--version']).status === 0) describe(name, body);
  else if (requireAll) {
    describe(name, () => {
      test('qemu-img is there', () => {
        throw new Error('qemu-img is needed here (package qemu-utils)');
      });
    });
  } else describe.skip(`${name} (skipped: there is no qemu-img; package qemu-utils)`, body);
}

/** Runs qemu-img; an exception has what it said. */
export function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Runs commands of qemu-io on an image. */
export function qemuIo(path: string, ...commands: string[]): void {
  const args = commands.flatMap((command) => ['-c', command]);
  execFileSync('qemu-io', ['-f', 'qcow2', ...args, path], { stdio: ['ignore', 'pipe', 'pipe'] });
}

/** What the guest would read, by QEMU. */
export function contentsByQemu(path: string, name: string, ...args: string[]): Buffer {
  const raw = `${path}.${name}.raw`;
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', ...args, path, raw);
  try {
    return readFileSync(raw);
  } finally {
    rmSync(raw);
  }
}

interface CheckResult {
  readonly corruptions?: number;
  readonly leaks?: number;
  readonly 'check-errors': number;
}

/** What qemu-img check finds. */
export function checkImage(path: string): { readonly corruptions: number; readonly leaks: number } {
  const { stdout, stderr } = spawnSync('qemu-img', ['check', '--output=json', '-f', 'qcow2', path], {
    encoding: 'utf8',
  });
  if (stdout === '') throw new Error(`qemu-img check ${path}: ${stderr}`);
  const { corruptions = 0, leaks = 0, 'check-errors': errors } = JSON.parse(stdout) as CheckResult;
  return { corruptions: corruptions + errors, leaks };
}

/** A directory and open files that go with the test. */
export class Workplace {
  readonly directory = mkdtempSync(join(tmpdir(), 'tsvmm-qcow2-'));
  private readonly fds: number[] = [];

  path(name: string): string {
    return join(this.directory, name);
  }

  open(path: string, readOnly = false): HostFileSettings {
    const fd = openSync(path, readOnly ? 'r' : 'r+');
    this.fds.push(fd);
    return { fd: fd as Fd, path, size: fstatSync(fd).size, readOnly, alignment: 1, isBlockDevice: false };
  }

  /** Opens an image and what is behind it, as the two threads do. */
  openDisk(path: string, readOnly = false, log: (message: string) => void = unexpected): Disk {
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

function unexpected(message: string): void {
  throw new Error(`the image complained: ${message}`);
}

/** Guest memory as requests name it: pieces of a buffer, none of which lies behind the one before. */
const PIECE = 3 * 512;

/** A disk image with buffers instead of vectors; failures are exceptions. */
export class Disk {
  readonly size: number;
  private readonly image: DiskImage;
  private readonly vector = new IovecArray();

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
    this.vector.clear();
    const piece = Math.max(PIECE, Math.ceil(memory.byteLength / this.vector.capacity / 512) * 512);
    for (let at = 0; at < memory.byteLength; at += piece) {
      this.vector.add(memory.address + at, Math.min(piece, memory.byteLength - at));
    }
    return this.vector;
  }
}

function expectZero(what: string, result: number): void {
  if (result !== 0) throw new Error(`${what}: ${result}`);
}
