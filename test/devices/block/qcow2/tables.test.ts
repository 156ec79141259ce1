// Tables that grow, caches that are full, vectors that are not aligned, and how many calls of the host a request takes.

import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { HostFile } from '../../../../src/devices/block/host-file.js';
import { openImage } from '../../../../src/devices/block/images.js';
import { forEachCase, fuzzRun } from '../../../support/random.js';
import { nextOperation, perform } from './crash-model.js';
import { checkImage, contentsByQemu, describeQemu, qemuImg, qemuIo } from './qemu.js';
import { Disk, Workplace } from './workplace.js';

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

function create(options: string, size: number): string {
  const path = workplace.path('image.qcow2');
  qemuImg('create', '-f', 'qcow2', '-o', options, path, `${size}`);
  return path;
}

describeQemu('qcow2 tables', () => {
  test.each([
    ['16 bit', 'cluster_size=512'],
    ['64 bit', 'cluster_size=512,refcount_bits=64'],
    ['1 bit', 'cluster_size=512,refcount_bits=1'],
  ])('the refcount table grows with the file, and caches write what they must forget: %s', (_, options) => {
    const size = 48 * MIB;
    const path = create(options, size);
    const disk = workplace.openDisk(path);
    const expected = Buffer.alloc(size);
    // Every 40th cluster first, so that each L2 slice is changed again long after it was forgotten.
    const stride = 40 * 512;
    for (let pass = 0; pass < 3; pass++) {
      for (let at = pass * 512; at < size; at += stride) {
        const bytes = Buffer.alloc(512, `pass ${pass} at ${at}`);
        disk.write(at, bytes);
        bytes.copy(expected, at);
      }
    }
    const rest = Buffer.alloc(16 * MIB, 'in one piece');
    disk.write(20 * MIB, rest);
    rest.copy(expected, 20 * MIB);
    disk.close();
    expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0 });
    expect(contentsByQemu(path, 'expected').equals(expected)).toBe(true);
  });

  test('more is let go of than can wait', () => {
    const size = 16 * MIB;
    const path = create('cluster_size=512', size);
    qemuIo(path, 'write -P 1 0 16M');
    const disk = workplace.openDisk(path);
    for (let at = 0; at < size; at += 1024) disk.discard(at, 512);
    disk.close();
    expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0 });
    expect(disk.read(0, 512).equals(Buffer.alloc(512))).toBe(true);
    expect(disk.read(512, 512).equals(Buffer.alloc(512, 1))).toBe(true);
  });

  test('clusters that were let go of are used again', () => {
    const path = create('cluster_size=64k', 8 * MIB);
    const disk = workplace.openDisk(path);
    for (let round = 0; round < 10; round++) {
      disk.write(0, Buffer.alloc(8 * MIB, round + 1));
      disk.discard(0, 8 * MIB);
      disk.flush();
    }
    disk.write(0, Buffer.alloc(MIB, 'x'));
    disk.close();
    expect(workplace.open(path, true).size).toBeLessThan(9 * MIB);
    expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0 });
  });

  test('clusters side by side are one call, and mapped ones are written in place', () => {
    const path = create('cluster_size=4k', 8 * MIB);
    const disk = workplace.openDisk(path);
    disk.write(0, Buffer.alloc(MIB, 'a'));
    disk.flush();
    const readv = jest.spyOn(HostFile.prototype, 'readv');
    const writev = jest.spyOn(HostFile.prototype, 'writev');
    disk.read(4 * KIB, MIB - 8 * KIB);
    expect(readv).toHaveBeenCalledTimes(1);
    disk.write(4 * KIB, Buffer.alloc(MIB - 8 * KIB, 'b'));
    expect(writev).toHaveBeenCalledTimes(1);
    disk.close();
  });

  test('a new cluster is one call: what surrounds the data goes with them', () => {
    const base = workplace.path('base.qcow2');
    qemuImg('create', '-f', 'qcow2', base, '1M');
    qemuIo(base, 'write -P 1 0 1M');
    const path = workplace.path('top.qcow2');
    qemuImg('create', '-f', 'qcow2', '-F', 'qcow2', '-b', base, path);
    const disk = workplace.openDisk(path);
    // The first write makes the tables, too.
    disk.write(0, Buffer.alloc(512, 'a'));
    const writev = jest.spyOn(HostFile.prototype, 'writev');
    disk.write(100 * KIB, Buffer.alloc(60 * KIB, 'b'));
    expect(writev).toHaveBeenCalledTimes(1);
    disk.close();
  });

  test('files that take only aligned transfers', () => {
    const size = 2 * MIB;
    for (const options of ['cluster_size=512', 'cluster_size=64k']) {
      forEachCase('aligned transfers', fuzzRun(5), (random) => {
        const path = create(options, size);
        const settings = { ...workplace.open(path), alignment: 4096 };
        const disk = new Disk(openImage({ format: 'qcow2', file: settings, backing: undefined }, () => undefined));
        for (let index = 0; index < 60; index++) perform(disk, nextOperation(random, size, index));
        const expected = disk.readAll();
        disk.close();
        expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0 });
        expect(contentsByQemu(path, 'expected').equals(expected)).toBe(true);
        workplace.closeFiles();
      });
    }
  });
});
