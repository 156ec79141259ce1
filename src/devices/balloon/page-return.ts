// Gives pages of guest RAM back to the host, in as few calls as there are runs of them. Runs in the I/O worker.
//
// What a guest names need not be RAM: then it is counted and left alone. Memory made of huge pages can only be given
// back a whole huge page at a time, while a balloon takes 4096 bytes here and there; so for such memory it is noted
// which small pages the guest has given up, and a huge page goes when the last of its small ones has.

import { NO_CHUNK, type ChunkView, type GuestMemory } from '../../platform/guest-memory.js';
import { discardPages, discardUnit } from '../../platform/memory-backing.js';
import { PAGE_SIZE } from '../../platform/units.js';
import { VIRTIO_BALLOON_PFN_SHIFT } from './settings.js';

/** Which small pages of a chunk of huge pages the guest has given up. */
class GivenUpPages {
  private readonly given: Uint8Array;
  /** How many of each huge page. */
  private readonly counts: Uint32Array;
  private readonly perHugePage: number;

  constructor(size: number, hugePageSize: number) {
    this.perHugePage = hugePageSize / PAGE_SIZE;
    this.given = new Uint8Array(size / PAGE_SIZE);
    this.counts = new Uint32Array(size / hugePageSize);
  }

  /** Notes that `page` was given up; returns whether its huge page is complete by that. */
  add(page: number): boolean {
    if (this.given[page] !== 0) return false;
    this.given[page] = 1;
    return ++this.counts[Math.floor(page / this.perHugePage)] === this.perHugePage;
  }

  remove(page: number): void {
    if (this.given[page] === 0) return;
    this.given[page] = 0;
    this.counts[Math.floor(page / this.perHugePage)]--;
  }
}

const NO_RUN = -1;

/** Made at activation: what was given up before, a driver that comes up does not know. */
export class PageReturn {
  /** Bytes that went back to the host. */
  returnedBytes = 0;
  /** Pages that were named and are no RAM. */
  ignoredPages = 0;
  /** Calls that failed, and the errno of the last. */
  failures = 0;
  lastErrno = 0;
  private readonly memory: GuestMemory;
  private readonly toldBeforeUse: boolean;
  private readonly units: readonly number[];
  private readonly givenUp: (GivenUpPages | undefined)[] = [];
  // The run under way: bytes [runStart, runEnd) of chunk `runChunk`.
  private runChunk = NO_RUN;
  private runStart = 0;
  private runEnd = 0;

  /** `toldBeforeUse`: the guest says `takeBack` before it uses a page again, not at any time after that. */
  constructor(memory: GuestMemory, toldBeforeUse: boolean) {
    this.memory = memory;
    this.toldBeforeUse = toldBeforeUse;
    this.units = memory.chunks.map((chunk) => discardUnit(chunk));
  }

  /** The guest gives up page `pfn`. In ascending order, pages that lie side by side go back in one call. */
  giveUp(pfn: number): void {
    const index = this.chunkOf(pfn);
    if (index === NO_CHUNK) {
      this.ignoredPages++;
      return;
    }
    const offset = this.offsetIn(this.memory.chunks[index], pfn);
    const unit = this.units[index];
    if (unit === PAGE_SIZE) this.addToRun(index, offset, offset + PAGE_SIZE);
    // A huge page must not go while a small one of it is in use again, unknown to the device.
    else if (this.toldBeforeUse && this.pagesOf(index).add(offset / PAGE_SIZE)) {
      const start = offset - (offset % unit);
      this.addToRun(index, start, start + unit);
    }
  }

  /** The guest uses page `pfn` again. */
  takeBack(pfn: number): void {
    const index = this.chunkOf(pfn);
    if (index === NO_CHUNK) {
      this.ignoredPages++;
      return;
    }
    if (this.units[index] === PAGE_SIZE) return;
    this.givenUp[index]?.remove(this.offsetIn(this.memory.chunks[index], pfn) / PAGE_SIZE);
  }

  /** The guest does not use bytes [offset, offset + length) of a chunk at present. */
  returnRange(index: number, offset: number, length: number): void {
    const unit = this.units[index];
    if (unit === 0) {
      this.ignoredPages += Math.ceil(length / PAGE_SIZE);
      return;
    }
    const start = Math.ceil(offset / unit) * unit;
    const end = Math.floor((offset + length) / unit) * unit;
    if (start < end) this.addToRun(index, start, end);
  }

  /** Hands the run under way to the host. */
  flush(): void {
    if (this.runChunk === NO_RUN) return;
    const length = this.runEnd - this.runStart;
    const result = discardPages(this.memory.chunks[this.runChunk], this.runStart, length);
    this.runChunk = NO_RUN;
    if (result === 0) {
      this.returnedBytes += length;
      return;
    }
    this.failures++;
    this.lastErrno = -result;
  }

  /** The chunk of RAM that page `pfn` is in. */
  private chunkOf(pfn: number): number {
    const index = this.memory.chunkIndex(
      (pfn << VIRTIO_BALLOON_PFN_SHIFT) >>> 0,
      pfn >>> (32 - VIRTIO_BALLOON_PFN_SHIFT),
    );
    return index === NO_CHUNK || this.units[index] === 0 ? NO_CHUNK : index;
  }

  private offsetIn(chunk: ChunkView, pfn: number): number {
    return pfn * PAGE_SIZE - chunk.guestAddress;
  }

  private pagesOf(index: number): GivenUpPages {
    return (this.givenUp[index] ??= new GivenUpPages(this.memory.chunks[index].size, this.units[index]));
  }

  private addToRun(index: number, start: number, end: number): void {
    if (this.runChunk === index && this.runEnd === start) {
      this.runEnd = end;
      return;
    }
    this.flush();
    this.runChunk = index;
    this.runStart = start;
    this.runEnd = end;
  }
}
