// The length of a Zstandard frame, by its headers alone.

import { describe, expect, test } from '@jest/globals';
import { zstdFrameLength } from '../../../../src/devices/block/qcow2/zstd-frame.js';

const MAGIC = [0x28, 0xb5, 0x2f, 0xfd];
/** Block headers: the last one, its type, its size. */
const block = (last: boolean, type: number, size: number): number[] => {
  const header = (size << 3) | (type << 1) | (last ? 1 : 0);
  return [header & 0xff, (header >>> 8) & 0xff, header >>> 16];
};
const [RAW, RLE, COMPRESSED] = [0, 1, 2];

describe('zstdFrameLength', () => {
  test.each<[string, number[]]>([
    ['a window, one raw block', [0x00, 0x58, ...block(true, RAW, 3), 1, 2, 3]],
    ['a single segment with a size of one byte', [0x20, 200, ...block(true, RLE, 200), 7]],
    ['a size of two bytes', [0x60, 0, 1, ...block(true, COMPRESSED, 2), 1, 2]],
    ['a size of four bytes', [0xa0, 0, 0, 1, 0, ...block(true, RAW, 0)]],
    ['a size of eight bytes', [0xe0, 0, 0, 1, 0, 0, 0, 0, 0, ...block(true, RAW, 0)]],
    ['a dictionary and a checksum', [0x27, 1, 2, 3, 4, 9, ...block(true, RAW, 1), 5, 0, 0, 0, 0]],
    [
      'several blocks',
      [0x20, 9, ...block(false, RAW, 2), 1, 2, ...block(false, RLE, 1000), 3, ...block(true, COMPRESSED, 1), 4],
    ],
  ])('%s', (_, rest) => {
    const frame = Uint8Array.from([...MAGIC, ...rest]);
    expect(zstdFrameLength(frame)).toBe(frame.length);
    expect(zstdFrameLength(Uint8Array.from([...frame, 1, 2, 3]))).toBe(frame.length);
    for (let length = 0; length < frame.length; length++) {
      expect(zstdFrameLength(frame.subarray(0, length))).toBeUndefined();
    }
  });

  test('something else', () => {
    expect(zstdFrameLength(new Uint8Array(100))).toBeUndefined();
  });
});
