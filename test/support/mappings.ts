// What the kernel says of this process's memory: /proc/self/smaps and /proc/self/pagemap.

import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { PAGE_SIZE } from '../../src/platform/units.js';

/** The mappings that hold any of [address, address + length). */
export interface MappedRange {
  /** The flags of each, for instance `rd wr mr`. */
  readonly flags: readonly string[];
  /** The first line of each. */
  readonly headers: readonly string[];
  /** The size of the pages of the first, in KiB. */
  readonly pageSize: number;
}

export function mappedRange(address: number, length: number): MappedRange {
  const mappings = readFileSync('/proc/self/smaps', 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const within = mappings.filter((mapping) => {
    const [start, end] = (/^([0-9a-f]+)-([0-9a-f]+) /.exec(mapping) ?? ['', '0', '0']).slice(1);
    return parseInt(start, 16) < address + length && parseInt(end, 16) > address;
  });
  return {
    flags: within.map((mapping) => /^VmFlags: (.*?) *$/m.exec(mapping)?.[1] ?? ''),
    headers: within.map((mapping) => mapping.slice(0, mapping.indexOf('\n'))),
    pageSize: Number(/^KernelPageSize:\s+(\d+) kB$/m.exec(within[0] ?? '')?.[1]),
  };
}

/** Bytes of [address, address + length) that this process has in memory. Both are multiples of 4096. */
export function residentBytes(address: number, length: number): number {
  const entries = Buffer.alloc((length / PAGE_SIZE) * 8);
  const fd = openSync('/proc/self/pagemap', 'r');
  try {
    readSync(fd, entries, 0, entries.length, (address / PAGE_SIZE) * 8);
  } finally {
    closeSync(fd);
  }
  let pages = 0;
  // Bit 63: the page is present.
  for (let at = 7; at < entries.length; at += 8) pages += entries[at] >>> 7;
  return pages * PAGE_SIZE;
}
