// The host's pools of huge pages, as /sys/kernel/mm/hugepages shows them.

import { readdirSync, readFileSync } from 'node:fs';
import { KIB } from './units.js';

const POOLS = '/sys/kernel/mm/hugepages';

/** A pool of huge pages of one size. */
export interface HugePagePool {
  readonly pageSize: number;
  /** Pages that the pool has. */
  readonly pages: number;
  /** Those that nobody uses and nobody has reserved. */
  readonly available: number;
  /** Path of the file that sets `pages`. */
  readonly sizeFile: string;
}

/** Page sizes of the host's pools, ascending; none when the kernel has no huge pages. */
export function hugePageSizes(): number[] {
  let names: string[];
  try {
    names = readdirSync(POOLS);
  } catch {
    return [];
  }
  return names
    .map((name) => Number(/^hugepages-(\d+)kB$/.exec(name)?.[1]) * KIB)
    .filter((size) => size > 0)
    .sort((a, b) => a - b);
}

/** The size of huge pages that are asked for without a size; undefined when the kernel has none. */
export function defaultHugePageSize(): number | undefined {
  const size = /^Hugepagesize:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'latin1'))?.[1];
  return size === undefined ? undefined : Number(size) * KIB;
}

/** The pool of pages of `pageSize` bytes, one of `hugePageSizes`. */
export function hugePagePool(pageSize: number): HugePagePool {
  const directory = `${POOLS}/hugepages-${pageSize / KIB}kB`;
  const read = (name: string): number => Number(readFileSync(`${directory}/${name}`, 'latin1'));
  return {
    pageSize,
    pages: read('nr_hugepages'),
    // Surplus pages that an administrator allows on top (nr_overcommit_hugepages) are not counted: the kernel may not
    // find any.
    available: read('free_hugepages') - read('resv_hugepages'),
    sizeFile: `${directory}/nr_hugepages`,
  };
}
