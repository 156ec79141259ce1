// Overlays of disks are images as QEMU knows them, and leave what is under them alone.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { overlaidDisk } from '../../src/boottest/overlay.js';
import { contentsByQemu, describeQemu, qemuImg, qemuIo } from '../devices/block/qcow2/qemu.js';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-overlay-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

describeQemu('the overlay of a disk', () => {
  test('has what a raw image has, and takes what is written', () => {
    const base = join(directory, 'base.img');
    const bytes = Buffer.alloc(1_000_000, 'base');
    writeFileSync(base, bytes);
    const { path } = overlaidDisk({ path: base }, 0, directory);
    expect(qemuImg('check', path)).toContain('No errors');
    const before = contentsByQemu(path, 'before');
    expect(before.subarray(0, bytes.length)).toEqual(bytes);
    expect(before.length).toBe(1_000_448);
    qemuIo(path, 'write -P 7 4096 512');
    expect(contentsByQemu(path, 'after').subarray(4096, 4608)).toEqual(Buffer.alloc(512, 7));
    expect(readFileSync(base)).toEqual(bytes);
  });

  test('goes on top of a qcow2 image, too, and of a large one', () => {
    const base = join(directory, 'base.qcow2');
    qemuImg('create', '-f', 'qcow2', base, '5T');
    qemuIo(base, 'write -P 9 1M 512');
    const { path } = overlaidDisk({ path: base }, 3, directory);
    expect(qemuImg('check', path)).toContain('No errors');
    const info = JSON.parse(qemuImg('info', '--output=json', path)) as Record<string, unknown>;
    expect(info).toMatchObject({ 'virtual-size': 5 * 2 ** 40, 'backing-filename-format': 'qcow2' });
  });

  test('a disk that is not there, or is no file, is refused', () => {
    expect(() => overlaidDisk({ path: join(directory, 'none') }, 0, directory)).toThrow('cannot be used');
    expect(() => overlaidDisk({ path: '/dev/null' }, 0, directory)).toThrow('it is no file');
  });
});
