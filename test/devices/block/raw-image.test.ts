// Raw images, and the header that a guest may not give to one that was only detected to be raw.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { formatOf } from '../../../src/devices/block/image-formats.js';
import { RawImage } from '../../../src/devices/block/raw-image.js';
import { EPERM } from '../../../src/platform/errno.js';
import { pattern } from './block-guest.js';
import { ScratchDirectory, ScratchMemory } from './scratch.js';

const QCOW2 = [0x51, 0x46, 0x49, 0xfb];

let scratch: ScratchDirectory;
beforeEach(() => {
  scratch = new ScratchDirectory();
});
afterEach(() => {
  scratch[Symbol.dispose]();
});

describe('formats', () => {
  test.each([
    ['qcow2', QCOW2],
    ['VMDK', [...Buffer.from('KDMV\x01')]],
    ['VMDK', [...Buffer.from('# Disk DescriptorFile\nversion=1')]],
    ['VHDX', [...Buffer.from('vhdxfile')]],
    ['VDI', [...Buffer.from('<<< Oracle VM VirtualBox Disk Image >>>')]],
    [undefined, [0xeb, 0x63, 0x90]],
    [undefined, []],
    [undefined, [0x51, 0x46, 0x49]],
  ])('%s is told by its first bytes', (name, bytes) => {
    const header = new Uint8Array(512);
    header.set(bytes);
    expect(formatOf(header)).toBe(name);
  });
});

describe('raw images', () => {
  test('are the bytes of their file', () => {
    const image = new RawImage({ file: scratch.file('a', pattern(8192, 1)), guardHeader: true });
    const memory = new ScratchMemory(8192);
    expect(image.size).toBe(8192);
    expect(image.readv(memory.over([0, 1024], [4096, 512]), 512)).toBe(0);
    expect(memory.bytes.slice(4096, 4608)).toEqual(pattern(8192, 1).slice(1536, 2048));
    expect([image.flush(), image.discard(4096, 4096), image.writeZeroes(0, 512, true), image.close()]).toEqual([
      0, 0, 0, 0,
    ]);
    expect(
      scratch
        .bytes('a')
        .slice(0, 512)
        .every((byte) => byte === 0),
    ).toBe(true);
  });

  test.each([
    ['in one piece', [[0, 1024]]],
    [
      'spread over the smallest pieces',
      [
        [0, 1],
        [1, 1],
        [2, 1],
        [3, 700],
        [703, 321],
      ],
    ],
    ['and nothing after it', [[0, 512]]],
  ] as [string, [number, number][]][])(
    'when only detected to be raw, take no header of another format: %s',
    (_name, pieces) => {
      const image = new RawImage({ file: scratch.file('a', pattern(8192, 1)), guardHeader: true });
      const memory = new ScratchMemory(4096);
      memory.bytes.set(pattern(1024, 2));
      expect(image.writev(memory.over(...pieces), 0)).toBe(0);
      const length = pieces.reduce((sum, [, size]) => sum + size, 0);
      expect(scratch.bytes('a').slice(0, length)).toEqual(pattern(1024, 2).slice(0, length));
      memory.bytes.set(QCOW2);
      expect(image.writev(memory.over(...pieces), 0)).toBe(-EPERM);
      expect(scratch.bytes('a').slice(0, length)).toEqual(pattern(1024, 2).slice(0, length));
      // Elsewhere the same bytes mean nothing.
      expect(image.writev(memory.over(...pieces), 512)).toBe(0);
    },
  );

  test('when said to be raw, take anything', () => {
    const image = new RawImage({ file: scratch.file('a', pattern(8192, 1)), guardHeader: false });
    const memory = new ScratchMemory(512);
    memory.bytes.set(QCOW2);
    expect(image.writev(memory.over([0, 512]), 0)).toBe(0);
    expect([...scratch.bytes('a').slice(0, 4)]).toEqual(QCOW2);
  });

  test('the guard works where the file wants alignment', () => {
    const image = new RawImage({ file: scratch.file('a', pattern(8192, 1), 4096), guardHeader: true });
    const memory = new ScratchMemory(8192);
    memory.bytes.set(pattern(8192, 3));
    expect(image.writev(memory.over([0, 8192]), 0)).toBe(0);
    expect(scratch.bytes('a')).toEqual(pattern(8192, 3));
  });
});
