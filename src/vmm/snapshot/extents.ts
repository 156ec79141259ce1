// Runs of pages in a memory file: what a diff has of its own. Main thread.
//
// In state.json they are bulk, so base64: for each run the number of its first page and how many there are, le32 each.

import { PAGE_SIZE } from '../../platform/units.js';

/** Bytes [offset, offset + length) of a memory file; both are multiples of 4096. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

const ENTRY_SIZE = 8;

/** Collects runs that are told in order; runs side by side become one. */
export class ExtentList {
  private readonly list: { offset: number; length: number }[] = [];

  add(offset: number, length: number): void {
    const last = this.list.at(-1);
    if (last !== undefined && last.offset + last.length === offset) last.length += length;
    else this.list.push({ offset, length });
  }

  get extents(): readonly Extent[] {
    return this.list;
  }
}

export function encodeExtents(extents: readonly Extent[]): string {
  const bytes = Buffer.alloc(extents.length * ENTRY_SIZE);
  extents.forEach(({ offset, length }, index) => {
    bytes.writeUInt32LE(offset / PAGE_SIZE, index * ENTRY_SIZE);
    bytes.writeUInt32LE(length / PAGE_SIZE, index * ENTRY_SIZE + 4);
  });
  return bytes.toString('base64');
}

/** Undefined for what is not a list of runs, in order and apart, of a file of `fileSize` bytes. */
export function decodeExtents(text: string, fileSize: number): readonly Extent[] | undefined {
  const bytes = Buffer.from(text, 'base64');
  if (bytes.length % ENTRY_SIZE !== 0) return undefined;
  const extents: Extent[] = [];
  let end = 0;
  for (let at = 0; at < bytes.length; at += ENTRY_SIZE) {
    const offset = bytes.readUInt32LE(at) * PAGE_SIZE;
    const length = bytes.readUInt32LE(at + 4) * PAGE_SIZE;
    if (offset < end || length === 0 || offset + length > fileSize) return undefined;
    extents.push({ offset, length });
    end = offset + length;
  }
  return extents;
}

/** What of `extents` lies in [start, start + size), counted from `start`. */
export function extentsWithin(extents: readonly Extent[], start: number, size: number): Extent[] {
  return extents.flatMap(({ offset, length }) => {
    const from = Math.max(offset, start);
    const to = Math.min(offset + length, start + size);
    return from < to ? [{ offset: from - start, length: to - from }] : [];
  });
}
