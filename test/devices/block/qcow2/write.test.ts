// What is written to an image is what QEMU then reads from it, and qemu-img check has nothing to say against it.

import { copyFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { HostFile } from '../../../../src/devices/block/host-file.js';
import { checkImage, contentsByQemu, describeQemu, qemuImg, qemuIo } from './qemu.js';
import { Workplace, type Disk } from './workplace.js';

const SECTOR = 512;
const KIB = 1024;
const MIB = 1024 * KIB;

let workplace: Workplace;

beforeEach(() => {
  workplace = new Workplace();
  // Barriers cost the disk's time and change nothing that is looked at here.
  jest.spyOn(HostFile.prototype, 'flush').mockReturnValue(0);
});
afterEach(() => {
  jest.restoreAllMocks();
  workplace.remove();
});

/** A disk and what should be on it. */
class ModelledDisk {
  disk: Disk;
  readonly expected: Buffer;
  private readonly path: string;

  constructor(path: string) {
    this.path = path;
    this.disk = workplace.openDisk(path);
    this.expected = this.disk.readAll();
  }

  write(offset: number, bytes: Uint8Array): void {
    this.disk.write(offset, bytes);
    this.expected.set(bytes, offset);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): void {
    this.disk.writeZeroes(offset, length, unmap);
    this.expected.fill(0, offset, offset + length);
  }

  /** What is discarded reads as zeroes or as before, sector by sector. */
  discard(offset: number, length: number): void {
    this.disk.discard(offset, length);
    const now = this.disk.read(offset, length);
    const zero = Buffer.alloc(SECTOR);
    for (let at = 0; at < length; at += SECTOR) {
      const sector = now.subarray(at, at + SECTOR);
      if (sector.equals(zero)) this.expected.fill(0, offset + at, offset + at + SECTOR);
      else expect(sector.equals(this.expected.subarray(offset + at, offset + at + SECTOR))).toBe(true);
    }
  }

  reopen(): void {
    this.disk.close();
    this.disk = workplace.openDisk(this.path);
  }

  /** Closes the disk and has QEMU look at it. */
  verify(): void {
    expect(this.disk.readAll().equals(this.expected)).toBe(true);
    this.disk.close();
    expect(checkImage(this.path)).toEqual({ corruptions: 0, leaks: 0 });
    expect(contentsByQemu(this.path, 'verify').equals(this.expected)).toBe(true);
  }
}

function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 4) bytes.writeUInt32LE((seed * 0x1_0001 + at) >>> 0, at);
  return bytes;
}

function create(name: string, size: number, options: string, ...args: string[]): string {
  const path = workplace.path(name);
  qemuImg('create', '-f', 'qcow2', '-o', options, ...args, path, `${size}`);
  return path;
}

type Operation =
  | { readonly type: 'write' | 'discard' | 'zero' | 'unmap'; readonly at: number; readonly sectors: number }
  | { readonly type: 'flush' | 'reopen' };

const SIZE = 3 * MIB + SECTOR;

const operations = fc.array(
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        type: fc.constantFrom(
          'write' as const,
          'write' as const,
          'discard' as const,
          'zero' as const,
          'unmap' as const,
        ),
        at: fc.oneof(fc.nat(SIZE / SECTOR - 1), fc.nat(255)),
        sectors: fc.oneof(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: 1500 })),
      }),
    },
    { weight: 1, arbitrary: fc.constantFrom({ type: 'flush' as const }, { type: 'reopen' as const }) },
  ),
  { minLength: 1, maxLength: 40 },
);

function run(path: string, steps: readonly Operation[]): void {
  const disk = new ModelledDisk(path);
  let seed = 1;
  for (const step of steps) {
    if (!('at' in step)) {
      if (step.type === 'flush') disk.disk.flush();
      else disk.reopen();
    } else {
      const offset = step.at * SECTOR;
      const length = Math.min(step.sectors * SECTOR, SIZE - offset);
      if (step.type === 'write') disk.write(offset, pattern(length, seed++));
      else if (step.type === 'discard') disk.discard(offset, length);
      else disk.writeZeroes(offset, length, step.type === 'unmap');
    }
  }
  disk.verify();
}

describeQemu('writing qcow2 images', () => {
  let image = 0;

  /** Runs random operations on images that `make` makes. */
  function property(make: (path: string) => void, numRuns = 12): void {
    fc.assert(
      fc.property(operations, (steps) => {
        const path = workplace.path(`${image++}.qcow2`);
        make(path);
        run(path, steps);
        workplace.closeFiles();
      }),
      { numRuns },
    );
  }

  test.each([
    ['version 2', 'compat=0.10'],
    ['version 3', 'compat=1.1'],
    ['512 byte clusters and 64 bit refcounts', 'cluster_size=512,refcount_bits=64'],
    ['512 byte clusters, version 2', 'cluster_size=512,compat=0.10'],
    ['4 KiB clusters and 1 bit refcounts', 'cluster_size=4k,refcount_bits=1'],
    ['2 MiB clusters', 'cluster_size=2M'],
    ['2 bit refcounts', 'cluster_size=1k,refcount_bits=2'],
    ['4 bit refcounts', 'cluster_size=1k,refcount_bits=4'],
    ['8 bit refcounts', 'cluster_size=1k,refcount_bits=8'],
    ['32 bit refcounts', 'cluster_size=1k,refcount_bits=32'],
    ['preallocated metadata', 'preallocation=metadata,cluster_size=16k'],
    ['lazy refcounts', 'lazy_refcounts=on'],
  ])('any operations on %s', (_, options) => {
    property((path) => qemuImg('create', '-f', 'qcow2', '-o', options, path, `${SIZE}`));
  });

  test.each([
    ['version 2', 'compat=0.10'],
    ['version 3', 'cluster_size=8k'],
  ])('any operations before a shorter backing file, %s', (_, options) => {
    const base = create('base.qcow2', 2 * MIB + SECTOR, 'compat=1.1');
    qemuIo(base, 'write -P 17 0 1M', 'write -P 18 1500k 500k');
    property((path) => qemuImg('create', '-f', 'qcow2', '-o', options, '-F', 'qcow2', '-b', base, path, `${SIZE}`));
  });

  test.each(['512', '64k'])('any operations on compressed clusters of %s', (clusterSize) => {
    const source = create('source.qcow2', SIZE, 'compat=1.1');
    qemuIo(source, 'write -P 21 0 1M', 'write -P 22 1100k 900k', 'write -P 23 3M 512');
    const options = `cluster_size=${clusterSize}`;
    property((path) => qemuImg('convert', '-c', '-f', 'qcow2', '-O', 'qcow2', '-o', options, source, path));
  });

  test('any operations on an image with snapshots leave those as they were', () => {
    const base = create('base.qcow2', SIZE, 'cluster_size=4k');
    qemuIo(base, 'write -P 31 0 1M', 'write -c -P 32 1M 4k', 'write -z 2M 256k');
    qemuImg('snapshot', '-c', 'one', base);
    qemuIo(base, 'write -P 33 512k 1M');
    qemuImg('snapshot', '-c', 'two', base);
    const expected = ['one', 'two'].map((name) => contentsByQemu(base, name, '-l', `snapshot.name=${name}`));
    fc.assert(
      fc.property(operations, (steps) => {
        const path = workplace.path(`${image++}.qcow2`);
        copyFileSync(base, path);
        run(path, steps);
        workplace.closeFiles();
        const now = ['one', 'two'].map((name) => contentsByQemu(path, name, '-l', `snapshot.name=${name}`));
        expect(now.map((contents, index) => contents.equals(expected[index]))).toEqual([true, true]);
      }),
      { numRuns: 12 },
    );
  });
});
