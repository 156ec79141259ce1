// The block device on a driven ring, with a qcow2 image behind it.

import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { BlockGuest, DISCARD, FLUSH, IN, IOERR, OK, OUT, pattern, ranges, WRITE_ZEROES } from '../block-guest.js';
import { CLUSTER, DISK_SIZE, expectedContents, guestCluster, L2_TABLE, makeImage } from './handmade.js';
import { checkImage, contentsByQemu, describeQemu } from './qemu.js';
import { Workplace } from './workplace.js';

const SECTORS = DISK_SIZE / 512;

let workplace: Workplace;
let guest: BlockGuest | undefined;

beforeEach(() => {
  workplace = new Workplace();
});
afterEach(() => {
  guest?.[Symbol.dispose]();
  guest = undefined;
  workplace.remove();
});

function start(bytes: Uint8Array): { readonly guest: BlockGuest; readonly path: string } {
  const file = workplace.create('image.qcow2', bytes);
  guest = new BlockGuest({ queueSize: 1024, settings: { image: { format: 'qcow2', file, backing: undefined } } });
  return { guest, path: file.path };
}

describeQemu('a block device with a qcow2 image', () => {
  test('reads, writes, discards and zeroes, and QEMU sees the same', () => {
    const { guest, path } = start(makeImage().bytes);
    const expected = Buffer.from(expectedContents());
    expect(guest.do({ type: IN, sector: 0, space: 128 * 512 }).data).toEqual(
      new Uint8Array(expected.subarray(0, 128 * 512)),
    );
    for (const [sector, sectors] of [
      [0, 3],
      [4, 90],
      [SECTORS - 1, 1],
    ]) {
      const data = pattern(sectors * 512, sector);
      expect(guest.do({ type: OUT, sector, data, readableCut: [16, 700, 100] })).toMatchObject({ status: OK });
      expected.set(data, sector * 512);
    }
    expect(guest.do({ type: WRITE_ZEROES, data: ranges({ sector: 50, sectors: 10 }) }).status).toBe(OK);
    expect(guest.do({ type: DISCARD, data: ranges({ sector: 70, sectors: 5 }) }).status).toBe(OK);
    expected.fill(0, 50 * 512, 60 * 512).fill(0, 70 * 512, 75 * 512);
    expect(guest.do({ type: FLUSH }).status).toBe(OK);
    expect(checkImage(path).corruptions).toBe(0);
    expect(contentsByQemu(path, 'flushed').equals(expected)).toBe(true);
    guest.device.close();
    expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0 });
  });

  test('a pause brings what is held back to the file', () => {
    const { guest, path } = start(makeImage().bytes);
    expect(guest.do({ type: OUT, sector: 100, data: guestCluster(100) }).status).toBe(OK);
    guest.device.quiesce();
    const expected = expectedContents();
    guestCluster(100).copy(expected, 100 * CLUSTER);
    expect(contentsByQemu(path, 'paused').equals(expected)).toBe(true);
  });

  test('a damaged image fails the request that meets the damage, and says so once', () => {
    const { guest, path } = start(makeImage().u64(L2_TABLE, (1n << 63n) | BigInt(L2_TABLE)).bytes);
    expect(guest.do({ type: OUT, sector: 0, data: guestCluster(0) }).status).toBe(IOERR);
    expect(guest.do({ type: OUT, sector: 200, data: guestCluster(0) }).status).toBe(IOERR);
    expect(guest.do({ type: IN, sector: 1, space: 512 }).data).toEqual(new Uint8Array(guestCluster(1)));
    const complaints = guest.logged.filter((line) => line.includes('the qcow2 image is corrupt'));
    expect(complaints).toEqual([
      expect.stringContaining(`${path}: the qcow2 image is corrupt: guest cluster 0 is where`),
    ]);
    expect(readFileSync(path)[79] & 2).toBe(2);
  });
});
