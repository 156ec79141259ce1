// What the kernel says of the pages of this process: which are in use, and which are no longer those of the file that they
// were mapped from. Asked, not found by reading: looking at a page brings it into being. Main thread.
//
// Documentation/admin-guide/mm/pagemap.rst: one u64 a page, with bit 63 (present), 62 (swapped) and 61 (of a file, or
// shared). /proc/self/maps: what each range is a mapping of; anonymous ones have inode 0.

import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { PAGE_SIZE } from '../../platform/units.js';

const ENTRY_SIZE = 8;
/** Bits of the upper half of an entry. */
const IN_USE = 0xc000_0000;
const OF_A_FILE = 0x2000_0000;

export class PageStates {
  private readonly fd: number;
  private maps: readonly { readonly from: number; readonly to: number }[] | undefined;

  constructor() {
    this.fd = openSync('/proc/self/pagemap', 'r');
  }

  close(): void {
    closeSync(this.fd);
  }

  /** Sets `pages`, a byte for each from `address` on, where there may be something in a page. */
  markInUse(address: number, pages: Uint8Array): void {
    this.mark(address, pages, (state) => (state & IN_USE) !== 0);
  }

  /**
   * The same where a page of a private mapping is not the file's any more: it was written to, or others were mapped in its
   * place. Mappings are looked up once.
   */
  markReplaced(address: number, pages: Uint8Array): void {
    this.mark(address, pages, (state) => (state & IN_USE) !== 0 && (state & OF_A_FILE) === 0);
    const end = address + pages.length * PAGE_SIZE;
    this.maps ??= anonymousRanges();
    for (const { from, to } of this.maps) {
      if (to <= address || from >= end) continue;
      pages.fill(1, Math.max(0, (from - address) / PAGE_SIZE), (Math.min(to, end) - address) / PAGE_SIZE);
    }
  }

  private mark(address: number, pages: Uint8Array, wanted: (state: number) => boolean): void {
    const entries = Buffer.alloc(pages.length * ENTRY_SIZE);
    readSync(this.fd, entries, 0, entries.length, (address / PAGE_SIZE) * ENTRY_SIZE);
    for (let page = 0; page < pages.length; page++) {
      if (wanted(entries.readUInt32LE(page * ENTRY_SIZE + 4))) pages[page] = 1;
    }
  }
}

function anonymousRanges(): { from: number; to: number }[] {
  const ranges: { from: number; to: number }[] = [];
  for (const line of readFileSync('/proc/self/maps', 'latin1').split('\n')) {
    // address-address permissions offset device inode path
    const match = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ 0(?: |$)/.exec(line);
    if (match !== null) ranges.push({ from: parseInt(match[1], 16), to: parseInt(match[2], 16) });
  }
  return ranges;
}
