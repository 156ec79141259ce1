// A monitor that is killed in the middle of its writes: what a guest was told is flushed is in the file.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { truncateSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { sectorBytes, SECTORS_OF_CRASH_DISK, writesOf } from './crash-plan.js';
import { ScratchDirectory } from './scratch.js';

const WRITER = fileURLToPath(new URL('crash-writer.js', import.meta.url));

/** Runs the writer until it has said `flushes` times that it flushed, kills it, and returns what it said last. */
async function killWriter(path: string, mode: string, seed: number, flushes: number): Promise<number> {
  const child = spawn(process.execPath, [WRITER, path, mode, String(seed)], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout.on('data', (text: Buffer) => {
    said += text.toString();
    if (said.split('\n').length > flushes) child.kill('SIGKILL');
  });
  const [, signal] = (await once(child, 'close')) as [number | null, string | null];
  expect(signal).toBe('SIGKILL');
  // The last line may be half a number.
  return Number(said.split('\n').at(-2));
}

test.each([
  ['cached', 3],
  ['cached', 40],
  ['direct', 20],
])('everything before a flush that was answered survives the monitor (%s, %i flushes)', async (mode, flushes) => {
  using scratch = new ScratchDirectory();
  const path = scratch.at('disk');
  writeFileSync(path, '');
  truncateSync(path, SECTORS_OF_CRASH_DISK * 512);
  const seed = flushes;
  const flushed = await killWriter(path, mode, seed, flushes);
  expect(flushed).toBeGreaterThanOrEqual(flushes);

  const expected = new Map<number, number>();
  for (let generation = 1; generation <= flushed; generation++) {
    for (const { sector, count } of writesOf(seed, generation)) {
      for (let index = 0; index < count; index++) expected.set(sector + index, generation);
    }
  }
  // What came after the last flush is anyone's guess.
  const undecided = new Set<number>();
  for (const { sector, count } of writesOf(seed, flushed + 1)) {
    for (let index = 0; index < count; index++) undecided.add(sector + index);
  }
  const file = scratch.bytes('disk');
  const wrong: number[] = [];
  for (let sector = 0; sector < SECTORS_OF_CRASH_DISK; sector++) {
    if (undecided.has(sector)) continue;
    const generation = expected.get(sector);
    const should = generation === undefined ? new Uint8Array(512) : sectorBytes(sector, generation);
    if (Buffer.compare(file.subarray(512 * sector, 512 * (sector + 1)), should) !== 0) wrong.push(sector);
  }
  expect(wrong).toEqual([]);
  expect(expected.size).toBeGreaterThan(0);
});
