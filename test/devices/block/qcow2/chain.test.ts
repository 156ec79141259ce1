// Backing files: which are opened, and which are refused and how.

import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { MAX_CHAIN_LENGTH, openChain } from '../../../../src/devices/block/qcow2/chain.js';
import { QcowError, type QcowErrorCode } from '../../../../src/devices/block/qcow2/errors.js';
import type { HostFileSettings } from '../../../../src/devices/block/settings.js';
import { CLUSTER, DISK_SIZE, guestCluster, makeImage } from './handmade.js';
import { describeQemu, qemuImg } from './qemu.js';
import { Workplace } from './workplace.js';

const BACKING_FORMAT = 0xe279_2aca;
const NAME_OFFSET = 300;

let workplace: Workplace;

beforeEach(() => {
  workplace = new Workplace();
});
afterEach(() => workplace.remove());

/** An image by hand with guest cluster 0 not there, so that it comes from the backing file. */
function makeOverlay(name: string, backing: string, format?: string): string {
  const image = makeImage();
  image
    .u64(4 * CLUSTER, 0)
    .u64(8, NAME_OFFSET)
    .u32(16, Buffer.byteLength(backing))
    .text(NAME_OFFSET, backing);
  if (format !== undefined) image.u32(104, BACKING_FORMAT).u32(108, format.length).text(112, format);
  writeFileSync(workplace.path(name), image.bytes);
  return workplace.path(name);
}

function makeRawFile(name: string): string {
  writeFileSync(workplace.path(name), Buffer.concat([guestCluster(90), guestCluster(91)]));
  return workplace.path(name);
}

function open(path: string, backingFiles = true): { readonly opened: readonly string[] } {
  const opened: string[] = [];
  const openBacking = (backing: string, image: string): HostFileSettings => {
    expect(image).not.toBe(backing);
    opened.push(backing);
    return workplace.open(backing, true);
  };
  openChain(workplace.open(path, true), { backingFiles, openBacking });
  return { opened };
}

function refusal(path: string, backingFiles = true): QcowError {
  try {
    open(path, backingFiles);
  } catch (error) {
    if (error instanceof QcowError) return error;
    throw error;
  }
  throw new Error('the chain was opened');
}

describe('backing files', () => {
  test('what the image does not have is read from them', () => {
    makeRawFile('base.raw');
    const path = makeOverlay('top.qcow2', 'base.raw', 'raw');
    const disk = workplace.openDisk(path);
    expect(disk.read(0, CLUSTER).equals(guestCluster(90))).toBe(true);
    expect(disk.read(CLUSTER, CLUSTER).equals(guestCluster(1))).toBe(true);
    expect(disk.read(DISK_SIZE - CLUSTER, CLUSTER).equals(Buffer.alloc(CLUSTER))).toBe(true);
  });

  test('a raw one may end inside a sector: what is missing of it reads as zeroes', () => {
    truncateSync(makeRawFile('base.raw'), 100);
    const disk = workplace.openDisk(makeOverlay('top.qcow2', 'base.raw', 'raw'));
    const expected = Buffer.alloc(CLUSTER);
    guestCluster(90).copy(expected, 0, 0, 100);
    expect(disk.read(0, CLUSTER).equals(expected)).toBe(true);
  });

  test('relative names start at the folder of the image, absolute ones do not', () => {
    const base = makeRawFile('base.raw');
    mkdirSync(workplace.path('sub'));
    const top = makeOverlay('sub/top.qcow2', '../base.raw', 'raw');
    expect(open(top).opened).toEqual([base]);
    expect(open(makeOverlay('sub/other.qcow2', base, 'raw')).opened).toEqual([base]);
  });

  test('every image of the chain is opened once, for reading', () => {
    const base = makeRawFile('base.raw');
    const middle = makeOverlay('middle.qcow2', 'base.raw', 'raw');
    expect(open(makeOverlay('top.qcow2', 'middle.qcow2', 'qcow2')).opened).toEqual([middle, base]);
  });

  test('without a format a file is raw, and one that looks like qcow2 is refused', () => {
    makeRawFile('base.raw');
    makeOverlay('middle.qcow2', '/etc/passwd', 'raw');
    expect(open(makeOverlay('top.qcow2', 'base.raw')).opened).toHaveLength(1);
    const error = refusal(makeOverlay('top.qcow2', 'middle.qcow2'));
    expect(error.detail).toBe('it does not say in which format its backing file "middle.qcow2" is');
    expect(error.mend).toContain(`qemu-img rebase -u -F qcow2 -b middle.qcow2 ${error.path}`);
  });

  test.each<[QcowErrorCode, string, string, string]>([
    [
      'backing-file',
      'vmdk',
      'base.raw',
      'its backing file "base.raw" is said to be "vmdk" (raw and qcow2 can be read)',
    ],
    ['backing-file', 'raw', 'nbd://host/x', 'its backing file "nbd://host/x" is not named by a path'],
    ['backing-file', 'raw', 'json:{}', 'its backing file "json:{}" is not named by a path'],
    ['not-qcow2', 'qcow2', 'base.raw', 'this is not a qcow2 image'],
  ])('%s: format %s, name %s', (code, format, name, detail) => {
    makeRawFile('base.raw');
    const error = refusal(makeOverlay('top.qcow2', name, format));
    expect(error.code).toBe(code);
    expect(error.detail).toBe(detail);
  });

  test('one that is not there is for whoever opens it to name', () => {
    expect(() => open(makeOverlay('top.qcow2', 'nowhere', 'raw'))).toThrow('ENOENT');
  });

  test('none with backing_files=off', () => {
    makeRawFile('base.raw');
    const error = refusal(makeOverlay('top.qcow2', 'base.raw', 'raw'), false);
    expect(error.code).toBe('backing-refused');
    expect(error.detail).toBe('it has a backing file, "base.raw", and backing_files=off');
  });

  test('loops, also by another name', () => {
    expect(refusal(makeOverlay('top.qcow2', 'top.qcow2', 'qcow2')).code).toBe('backing-loop');
    const top = makeOverlay('top.qcow2', 'link.qcow2', 'qcow2');
    makeOverlay('middle.qcow2', 'top.qcow2', 'qcow2');
    symlinkSync('middle.qcow2', workplace.path('link.qcow2'));
    const error = refusal(top);
    expect(error.code).toBe('backing-loop');
    expect(error.path).toBe(workplace.path('link.qcow2'));
  });

  test('chains that are too long', () => {
    makeRawFile('0');
    for (let index = 1; index <= MAX_CHAIN_LENGTH; index++) {
      makeOverlay(`${index}`, `${index - 1}`, index === 1 ? 'raw' : 'qcow2');
    }
    expect(open(workplace.path(`${MAX_CHAIN_LENGTH - 1}`)).opened).toHaveLength(MAX_CHAIN_LENGTH - 1);
    expect(refusal(workplace.path(`${MAX_CHAIN_LENGTH}`)).code).toBe('backing-depth');
  });

  test('an image behind another may be dirty: nobody writes to it', () => {
    const image = makeImage().u64(72, 1);
    writeFileSync(workplace.path('base.qcow2'), image.bytes);
    expect(open(makeOverlay('top.qcow2', 'base.qcow2', 'qcow2')).opened).toHaveLength(1);
  });
});

describeQemu('backing files by QEMU', () => {
  test('the names and formats that qemu-img writes are understood', () => {
    const base = workplace.path('a:b.raw');
    writeFileSync(base, Buffer.alloc(4096, 'x'));
    const top = workplace.path('top.qcow2');
    qemuImg('create', '-f', 'qcow2', '-F', 'raw', '-b', base, top);
    expect(open(top).opened).toEqual([base]);
  });
});
