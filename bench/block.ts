// What a request to the block device costs, without a VM: a driver's half of the ring in this process offers requests, the
// device carries them out on a raw image in the page cache, in turns of its worker's event loop.
//
// The reference is a C program that makes the same transfers of the same file with one call each; past the page cache
// (O_DIRECT), where the disk decides, one that has them under way through io_uring. The last figures compare io_uring with
// preadv in C: they are why the device uses the one there and the other here.

import { execFileSync } from 'node:child_process';
import { closeSync, constants, fsyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { HostFileSettings } from '../src/devices/block/settings.js';
import { KIB, MIB, PAGE_SIZE, type Fd } from '../src/platform/units.js';
import { BlockRing, type Load } from './block-ring.js';
import { buildReference, compared, median, type Bench, type Figure } from './harness.js';

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

/** Past the page cache: random reads of 4 KiB. */
const DIRECT_DEPTHS = [1, DEPTH];

function makeFile(path: string): HostFileSettings {
  const fd = openSync(path, 'w+') as Fd;
  const block = Buffer.alloc(MIB, 0xa5);
  for (let offset = 0; offset < FILE_SIZE; offset += MIB) writeSync(fd, block, 0, MIB, offset);
  fsyncSync(fd);
  return { fd, path, size: FILE_SIZE, readOnly: false, alignment: 1, isBlockDevice: false };
}

/** The same file, opened with O_DIRECT; undefined where its file system has no such thing. */
function openDirect(file: HostFileSettings): HostFileSettings | undefined {
  try {
    const fd = openSync(file.path, constants.O_RDWR | constants.O_DIRECT) as Fd;
    return { ...file, fd, alignment: PAGE_SIZE };
  } catch {
    return undefined;
  }
}

/** Requests a second of the C program that knows both ways; undefined without io_uring. */
function engine(
  program: string,
  path: string,
  how: 'preadv' | 'uring',
  cache: string,
  depth: number,
): number | undefined {
  const args = [path, how, cache, 4 * KIB, depth, SECONDS].map(String);
  const answer = execFileSync(program, args, { encoding: 'utf8' }).trim();
  return answer === 'none' ? undefined : Number(answer);
}

function measureDirect(file: HostFileSettings, program: string): Figure[] {
  const direct = openDirect(file);
  if (direct === undefined) return [];
  const ring = new BlockRing(direct);
  try {
    return DIRECT_DEPTHS.flatMap((depth) => {
      const ours: number[] = [];
      const theirs: number[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        ours.push(ring.run({ writing: false, random: true, bytes: 4 * KIB, depth }, SECONDS));
        theirs.push(engine(program, file.path, depth === 1 ? 'preadv' : 'uring', 'direct', depth) ?? NaN);
      }
      return [compared(`direct random reads of 4 KiB, ${depth} at once`, 'requests/s', median(ours), median(theirs))];
    });
  } finally {
    ring.close();
    closeSync(direct.fd);
  }
}

function compareEngines(file: HostFileSettings, program: string): Figure[] {
  return ['cached', 'direct'].flatMap((cache) =>
    DIRECT_DEPTHS.map((depth) => {
      const [uring, preadv] = (['uring', 'preadv'] as const).map((how) =>
        median(Array.from({ length: ROUNDS }, () => engine(program, file.path, how, cache, depth) ?? NaN)),
      );
      return compared(`C: io_uring against preadv, ${cache}, ${depth} at once`, 'requests/s', uring, preadv);
    }),
  );
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
      const engines = buildReference(work, 'block-engine');
      return Promise.resolve([...figures, ...measureDirect(file, engines), ...compareEngines(file, engines)]);
    } finally {
      ring.close();
      closeSync(file.fd);
    }
  },
};
