// Whatever an image's bytes are: opening it throws a QcowError or nothing, a request answers 0 or an errno, and nothing
// hangs, grows without bound or writes to another place than the image.

import { ftruncateSync, statSync, writeSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { HostFile } from '../../../../src/devices/block/host-file.js';
import { openImage } from '../../../../src/devices/block/images.js';
import { openChain } from '../../../../src/devices/block/qcow2/chain.js';
import { QcowError } from '../../../../src/devices/block/qcow2/errors.js';
import type { DiskImage } from '../../../../src/devices/block/disk-image.js';
import type { HostFileSettings } from '../../../../src/devices/block/settings.js';
import { IovecArray } from '../../../../src/platform/iovec.js';
import { NativeBuffer } from '../../../../src/platform/native-buffer.js';
import { forEachCase, fuzzRun, type Random } from '../../../support/random.js';
import { CLUSTER, FIRST_DATA, L1_TABLE, L2_TABLE, makeImage, REFCOUNT_BLOCK, REFCOUNT_TABLE } from './handmade.js';
import { Workplace } from './workplace.js';

const OPERATIONS = 40;
const MAX_REQUEST = 64 * CLUSTER;
/** What an image of a few KiB may come to: guest data, and tables of what wrong numbers can ask for. */
const MOST_BYTES_ON_DISK = 64 * 1024 * 1024;

const memory = new NativeBuffer(MAX_REQUEST);
const vector = new IovecArray();
let workplace: Workplace;
let file: HostFileSettings;

beforeAll(() => {
  // Barriers cost the disk's time and change nothing that is looked at here.
  jest.spyOn(HostFile.prototype, 'flush').mockReturnValue(0);
  workplace = new Workplace();
  file = workplace.create('fuzzed.qcow2');
});
afterAll(() => {
  jest.restoreAllMocks();
  workplace.remove();
});

/** Offsets worth pointing to, and numbers at the edges. */
const INTERESTING = [
  0n,
  1n,
  511n,
  512n,
  1n << 31n,
  1n << 32n,
  1n << 40n,
  1n << 53n,
  1n << 62n,
  1n << 63n,
  (1n << 64n) - 1n,
];
for (let cluster = 0; cluster < 16; cluster++)
  INTERESTING.push(BigInt(cluster * CLUSTER), (1n << 63n) | BigInt(cluster * CLUSTER));

function damage(bytes: Buffer, random: Random): void {
  for (let times = random.size(8); times > 0; times--) {
    switch (random.below(4)) {
      case 0: // A bit of the header or of a table.
        bytes[random.below(FIRST_DATA)] ^= 1 << random.below(8);
        break;
      case 1: // A bit anywhere.
        bytes[random.below(bytes.length)] ^= 1 << random.below(8);
        break;
      case 2: {
        // A field of the header.
        const at = random.below(28) * 4;
        if (random.oneIn(2)) bytes.writeUInt32BE(random.bits(), at);
        else bytes.writeBigUInt64BE(random.pick(INTERESTING), at - (at % 8));
        break;
      }
      default: {
        // An entry of a table.
        const table = random.pick([L1_TABLE, L2_TABLE, L2_TABLE + CLUSTER, REFCOUNT_TABLE, REFCOUNT_BLOCK]);
        bytes.writeBigUInt64BE(random.pick(INTERESTING), table + random.below(8) * 8);
      }
    }
  }
}

function open(readOnly: boolean): DiskImage | undefined {
  try {
    const settings = { ...file, size: statSync(file.path).size, readOnly };
    const openBacking = (path: string): never => {
      throw new QcowError('backing-file', path, 'not here', 'no');
    };
    return openImage(openChain(settings, { backingFiles: true, openBacking }).settings, () => undefined);
  } catch (error) {
    if (error instanceof QcowError) return undefined;
    throw error;
  }
}

function request(image: DiskImage, random: Random): number {
  const sectors = image.size / CLUSTER;
  const at =
    (random.oneIn(2) ? random.below(Math.min(sectors, 300)) : random.below(Math.min(sectors, 2 ** 32))) * CLUSTER;
  const length = Math.min(random.size(MAX_REQUEST / CLUSTER) * CLUSTER, image.size - at);
  vector.clear();
  vector.add(memory.address, length);
  switch (random.below(8)) {
    case 0:
      return image.flush();
    case 1:
      return image.discard(at, length);
    case 2:
      return image.writeZeroes(at, length, random.oneIn(2));
    case 3:
    case 4:
      return image.readv(vector, at);
    default:
      return image.writev(vector, at);
  }
}

describe('damaged qcow2 images', () => {
  test('are refused or do no harm', () => {
    const sound = makeImage().bytes;
    let opened = 0;
    forEachCase('qcow2 images', fuzzRun(1500), (random) => {
      const bytes = Buffer.from(sound);
      damage(bytes, random);
      ftruncateSync(file.fd, 0);
      writeSync(
        file.fd,
        bytes.subarray(0, random.oneIn(8) ? random.below(bytes.length) : bytes.length),
        0,
        undefined,
        0,
      );
      const readOnly = random.oneIn(3);
      const image = open(readOnly);
      if (image === undefined) return;
      opened++;
      for (let done = 0; done < OPERATIONS; done++) {
        const result = readOnly ? image.readv(one(), random.below(200) * CLUSTER) : request(image, random);
        expect(Number.isInteger(result) && result <= 0).toBe(true);
      }
      expect(image.close()).toBeLessThanOrEqual(0);
      expect(statSync(file.path).blocks * 512).toBeLessThan(MOST_BYTES_ON_DISK);
    });
    expect(opened).toBeGreaterThan(0);
  });
});

function one(): IovecArray {
  vector.clear();
  vector.add(memory.address, CLUSTER);
  return vector;
}
