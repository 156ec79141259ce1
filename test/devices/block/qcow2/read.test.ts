// Images that QEMU made are read as QEMU reads them.

import { readFileSync, writeFileSync } from 'node:fs';
import * as zlib from 'node:zlib';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Random } from '../../../support/random.js';
import { contentsByQemu, describeQemu, qemuImg, qemuIo } from './qemu.js';
import { Workplace } from './workplace.js';

const KIB = 1024;
const MIB = 1024 * KIB;

let workplace: Workplace;

beforeEach(() => {
  workplace = new Workplace();
});
afterEach(() => workplace.remove());

function expectSameContents(path: string): void {
  const ours = workplace.openDisk(path, true).readAll();
  expect(ours.equals(contentsByQemu(path, 'expected'))).toBe(true);
}

/** A raw file: some of it text, some noise, some zeroes. */
function makeRaw(path: string, size: number): void {
  const random = new Random(size);
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size;) {
    const length = Math.min(random.size(256 * KIB), size - at);
    const kind = random.below(3);
    if (kind === 0) for (let index = 0; index < length; index++) bytes[at + index] = random.bits();
    if (kind === 1) bytes.fill(`at ${at} there is text; `, at, at + length);
    at += length;
  }
  writeFileSync(path, bytes);
}

describeQemu('qcow2 images made by QEMU', () => {
  test.each([
    ['version 2', ['compat=0.10']],
    ['version 3', ['compat=1.1']],
    ['512 byte clusters', ['cluster_size=512']],
    ['4 KiB clusters', ['cluster_size=4096']],
    ['2 MiB clusters', ['cluster_size=2M']],
    ['1 bit refcounts', ['refcount_bits=1']],
    ['64 bit refcounts', ['refcount_bits=64']],
    ['metadata preallocated', ['preallocation=metadata']],
    ['everything preallocated', ['preallocation=falloc']],
    ['lazy refcounts', ['lazy_refcounts=on']],
  ])('%s', (_, options) => {
    makeRaw(workplace.path('a.raw'), 5 * MIB + 1536);
    const path = workplace.path('a.qcow2');
    const preallocated = options.some((option) => option.startsWith('preallocation'));
    qemuImg('create', '-f', 'qcow2', '-o', options.join(), path, `${5 * MIB + 1536}`);
    // Converting into an image that is there keeps what was preallocated.
    qemuImg(
      'convert',
      ...(preallocated ? [] : ['-o', options.join()]),
      ...(preallocated ? ['-n'] : []),
      '-O',
      'qcow2',
      workplace.path('a.raw'),
      path,
    );
    expectSameContents(path);
  });

  test.each(['512', '64k', '2M'])('compressed clusters of %s', (clusterSize) => {
    makeRaw(workplace.path('a.raw'), 5 * MIB + 512);
    const path = workplace.path('a.qcow2');
    qemuImg('convert', '-c', '-o', `cluster_size=${clusterSize}`, '-O', 'qcow2', workplace.path('a.raw'), path);
    expectSameContents(path);
  });

  test('zstd, where Node.js has it', () => {
    makeRaw(workplace.path('a.raw'), 5 * MIB + 512);
    const path = workplace.path('a.qcow2');
    qemuImg('convert', '-c', '-o', 'compression_type=zstd', '-O', 'qcow2', workplace.path('a.raw'), path);
    if ('zstdDecompressSync' in zlib) expectSameContents(path);
    else expect(() => workplace.openDisk(path, true)).toThrow(/compression is zstd.*Node\.js 22\.15 or newer/);
  });

  test('chains: raw, then compressed, then plain with another cluster size, each as long as it likes', () => {
    makeRaw(workplace.path('base.raw'), 3 * MIB + 512);
    const [a, b, c] = ['a', 'b', 'c'].map((name) => workplace.path(`${name}.qcow2`));
    qemuImg('create', '-f', 'qcow2', '-F', 'raw', '-b', 'base.raw', a, `${5 * MIB}`);
    qemuIo(a, 'write -P 1 1M 70k', 'write -P 2 4000k 100k', 'write -z 2M 64k');
    qemuImg(
      'create',
      '-f',
      'qcow2',
      '-o',
      'cluster_size=4k,compat=0.10',
      '-F',
      'qcow2',
      '-b',
      'a.qcow2',
      b,
      `${4 * MIB}`,
    );
    qemuIo(b, 'write -c -P 3 512k 64k', 'write -P 4 3500k 3k');
    qemuImg('create', '-f', 'qcow2', '-o', 'cluster_size=2M', '-F', 'qcow2', '-b', 'b.qcow2', c, `${9 * MIB}`);
    for (const path of [a, b, c]) expectSameContents(path);
    qemuIo(c, 'write -P 5 8500k 10k', 'write -z 0 2M');
    expectSameContents(c);
  });

  test('zero clusters, and what is behind a discard', () => {
    const path = workplace.path('a.qcow2');
    makeRaw(workplace.path('base.raw'), 4 * MIB);
    qemuImg('create', '-f', 'qcow2', '-F', 'raw', '-b', 'base.raw', path);
    qemuIo(path, 'write -P 7 0 1M', 'write -z 128k 256k', 'write -z -u 512k 128k', 'discard 2M 1M', 'discard 64k 64k');
    expectSameContents(path);
  });

  test('snapshots: the active state is read', () => {
    const path = workplace.path('a.qcow2');
    qemuImg('create', '-f', 'qcow2', path, '4M');
    qemuIo(path, 'write -P 1 0 2M');
    qemuImg('snapshot', '-c', 'first', path);
    qemuIo(path, 'write -P 2 1M 2M');
    qemuImg('snapshot', '-c', 'second', path);
    expectSameContents(path);
    qemuImg('snapshot', '-a', 'first', path);
    expectSameContents(path);
  });

  test('a file that was cut off does not read as zeroes', () => {
    const path = workplace.path('a.qcow2');
    qemuImg('create', '-f', 'qcow2', path, '4M');
    qemuIo(path, 'write -P 1 0 4M');
    const cut = workplace.path('cut.qcow2');
    writeFileSync(cut, readFileSync(path).subarray(0, 2 * MIB));
    const disk = workplace.openDisk(cut, true);
    expect(disk.read(0, 512)[0]).toBe(1);
    expect(() => disk.read(3 * MIB, 512)).toThrow('readv: -5');
  });
});
