// What may be on a disk after a crash: what was flushed, and of what was written since then any sector or none.

import type { Random } from '../../../support/random.js';
import type { Disk } from './workplace.js';

const SECTOR = 512;

export type Operation =
  | { readonly type: 'flush' }
  | { readonly type: 'write'; readonly offset: number; readonly bytes: Buffer }
  | { readonly type: 'discard' | 'zero' | 'unmap'; readonly offset: number; readonly length: number };

/** The next operation of a guest that does anything anywhere; `index` tells its data from all others. */
export function nextOperation(random: Random, size: number, index: number): Operation {
  if (random.oneIn(10)) return { type: 'flush' };
  const sectors = size / SECTOR;
  // Half of it in one corner, so that things happen more than once.
  const at = random.below(random.oneIn(2) ? Math.min(sectors, 64) : sectors);
  const length = Math.min(random.size(200), sectors - at) * SECTOR;
  const offset = at * SECTOR;
  const type = random.pick(['write', 'write', 'write', 'discard', 'zero', 'unmap'] as const);
  if (type !== 'write') return { type, offset, length };
  const bytes = Buffer.alloc(length);
  for (let position = 0; position < length; position += 4)
    bytes.writeUInt32LE(((index + 1) << 16) | (position / 4), position);
  return { type, offset, bytes };
}

export function perform(disk: Disk, operation: Operation): void {
  switch (operation.type) {
    case 'flush':
      disk.flush();
      return;
    case 'write':
      disk.write(operation.offset, operation.bytes);
      return;
    case 'discard':
      disk.discard(operation.offset, operation.length);
      return;
    case 'zero':
    case 'unmap':
      disk.writeZeroes(operation.offset, operation.length, operation.type === 'unmap');
  }
}

export class CrashModel {
  /** What every sector may hold: first what is certain when nothing came after it. */
  private readonly candidates: Buffer[][] = [];

  constructor(contents: Buffer) {
    for (let at = 0; at < contents.length; at += SECTOR) this.candidates.push([contents.subarray(at, at + SECTOR)]);
  }

  copy(): CrashModel {
    const copy = new CrashModel(Buffer.alloc(0));
    for (const sector of this.candidates) copy.candidates.push([...sector]);
    return copy;
  }

  /** To be called before the operation starts, since a crash may come in the middle of it. */
  start(operation: Operation): void {
    if (operation.type === 'flush') return;
    const length = operation.type === 'write' ? operation.bytes.length : operation.length;
    for (let at = 0; at < length; at += SECTOR) {
      const value = operation.type === 'write' ? operation.bytes.subarray(at, at + SECTOR) : Buffer.alloc(SECTOR);
      this.candidates[(operation.offset + at) / SECTOR].push(value);
    }
  }

  /** A flush has ended: what is on the `disk` now stays there. */
  flushed(disk: Disk): void {
    const contents = disk.readAll();
    for (let index = 0; index < this.candidates.length; index++) {
      this.candidates[index] = [contents.subarray(index * SECTOR, (index + 1) * SECTOR)];
    }
  }

  /** The first sector that holds what it cannot; `undefined` when there is none. */
  firstWrongSector(contents: Buffer): number | undefined {
    const wrong = this.candidates.findIndex((values, index) => {
      const sector = contents.subarray(index * SECTOR, (index + 1) * SECTOR);
      return !values.some((value) => value.equals(sector));
    });
    return wrong === -1 ? undefined : wrong;
  }
}
