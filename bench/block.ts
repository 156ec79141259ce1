// What a request to the block device costs, without a VM: a driver's half of the ring in this process offers requests, the
// device carries them out on a raw image in the page cache, in turns of its worker's event loop.
//
// The reference is a C program that makes the same transfers of the same file with one call each.

import { execFileSync } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { HostFileSettings } from '../src/devices/block/settings.js';
import { KIB, MIB, type Fd } from '../src/platform/units.js';
import { BlockRing, type Load } from './block-ring.js';
import { buildReference, compared, median, type Bench } from './harness.js';

const ROUNDS = 5;
const SECONDS = 0.4;
/** Fits the page cache of any host, and no processor's cache. */
const FILE_SIZE = 256 * MIB;
const DEPTH = 32;

const SIZES = [4 * KIB, 128 * KIB];

const LOADS: readonly Load[] = [
  ...SIZES.flatMap((bytes) =>
    [false, true].flatMap((random) => [false, true].map((writing) => ({ writing, random, bytes, depth: DEPTH }))),
  ),
  { writing: false, random: true, bytes: 4 * KIB, depth: 1 },
];

function nameOf({ writing, random, bytes, depth }: Load): string {
  const what = `${random ? 'random' : 'sequential'} ${writing ? 'writes' : 'reads'} of ${bytes / KIB} KiB`;
  return `${what}, ${depth} at once`;
}

function makeFile(path: string): HostFileSettings {
  const fd = openSync(path, 'w+') as Fd;
  const block = Buffer.alloc(MIB, 0xa5);
  for (let offset = 0; offset < FILE_SIZE; offset += MIB) writeSync(fd, block, 0, MIB, offset);
  return { fd, path, size: FILE_SIZE, readOnly: false, alignment: 1, isBlockDevice: false };
}

export const block: Bench = {
  name: 'block',
  description: 'requests a second of the block device on its ring, against a C loop around preadv and pwritev',
  run(work) {
    const program = buildReference(work, 'block');
    const path = join(work, 'disk.img');
    const file = makeFile(path);
    const ring = new BlockRing(file);
    try {
      const figures = LOADS.map((load) => {
        const { writing, random, bytes, depth } = load;
        const args = [path, writing ? 'write' : 'read', random ? 'random' : 'sequential', bytes, depth, SECONDS];
        const ours: number[] = [];
        const theirs: number[] = [];
        for (let round = 0; round < ROUNDS; round++) {
          ours.push(ring.run(load, SECONDS));
          theirs.push(Number(execFileSync(program, args.map(String), { encoding: 'utf8' })));
        }
        return compared(nameOf(load), 'requests/s', median(ours), median(theirs));
      });
      return Promise.resolve(figures);
    } finally {
      ring.close();
      closeSync(file.fd);
    }
  },
};
