// The ring half of a hostile driver: it knows how to lay out rings and chains, and breaks them everywhere: descriptors,
// tables, indices, timing. What a device's requests look like is for its subclass to say.

import { GIB, KIB, TWO_POW_32 } from '../../src/platform/units.js';
import { CountingInterrupt } from './driven-ring.js';
import { SplitQueue, type QueueFeatures, type QueueLayout } from '../../src/devices/virtio/queue.js';
import type { GuardedRam } from './guarded-ram.js';
import type { Random } from './random.js';

/** The RAM that such a driver expects: two adjacent pieces from 0 on, and one above 4 GiB. */
export const LOW_SIZE = 192 * KIB;
export const NEXT_SIZE = 32 * KIB;
export const HIGH_BASE = 4 * GIB;
export const HIGH_SIZE = 64 * KIB;

const RING_SPACE = 0x1000;
const MAX_RINGS = 5;
const TABLES = MAX_RINGS * RING_SPACE;
const TABLE_SLOT = 1024;
const TABLE_SLOTS = 32;
const BUFFERS = TABLES + TABLE_SLOT * TABLE_SLOTS;

const { min } = Math;

export interface Ring {
  readonly base: number;
  readonly size: number;
  availIndex: number;
  usedIndex: number;
  nextDescriptor: number;
}

/** A buffer of a chain that is being made. */
export interface Part {
  readonly low: number;
  readonly high: number;
  readonly length: number;
  readonly writable: boolean;
}

export class HostileDriver {
  readonly interrupt = new CountingInterrupt();
  readonly features: QueueFeatures;
  protected readonly random: Random;
  protected readonly view: DataView;
  protected rings: Ring[] = [];
  private readonly ram: GuardedRam;
  private readonly ringCount: number;
  /** Once in how many times something is broken: some guests are barely out of step, others throw anything. */
  private readonly rarity: number;
  private nextBuffer = 0;
  private nextTable = 0;

  /** `ringCount` is at most MAX_RINGS. */
  constructor(random: Random, ram: GuardedRam, ringCount: number) {
    this.random = random;
    this.ram = ram;
    this.ringCount = ringCount;
    const chunk = ram.chunks[0];
    this.view = new DataView(chunk.buffer, chunk.bufferOffset, chunk.size);
    this.rarity = random.pick([2, 8, 40]);
    this.features = { eventIdx: random.oneIn(2), indirect: !random.oneIn(4) };
  }

  /** New rings, zeroed as a driver's are. */
  makeRings(): QueueLayout[] {
    const { random } = this;
    this.ram.memory.chunks[0].bytes.fill(0, 0, TABLES);
    this.rings = Array.from({ length: this.ringCount }, (_, index) => ({
      base: index * RING_SPACE,
      size: 2 ** random.between(2, 6),
      availIndex: 0,
      usedIndex: 0,
      nextDescriptor: 0,
    }));
    return this.rings.map(({ base, size }) => ({
      size,
      descriptorTable: base,
      availableRing: base + 0x800,
      usedRing: base + 0xa00,
    }));
  }

  /** New rings, and the device's halves of them. */
  makeQueues(): SplitQueue[] {
    return this.makeRings().map((layout) => new SplitQueue(this.ram.memory, layout, this.features));
  }

  /** Writes where a driver has no business while the device is at work. */
  scribble(): void {
    const { random, view } = this;
    switch (random.below(5)) {
      case 0: // an address or a length
        view.setUint32(random.below(this.ringCount) * RING_SPACE + 4 * random.below(256), this.nastyWord(), true);
        return;
      case 1: // flags and next
        view.setUint32(random.below(this.ringCount) * RING_SPACE + 16 * random.below(64) + 12, random.below(8), true);
        return;
      case 2: // an indirect table
        view.setUint32(TABLES + 4 * random.below(TABLE_SLOT), this.nastyWord(), true);
        return;
      case 3: // a ring, its index, its event
        view.setUint16(
          random.below(this.ringCount) * RING_SPACE + 0x800 + 2 * random.below(0x200),
          random.bits(),
          true,
        );
        return;
      case 4: // a header or payload
        view.setUint32(BUFFERS + 4 * random.below((LOW_SIZE - BUFFERS) / 4), this.nastyWord(), true);
        return;
    }
  }

  /** Whether something that is broken once in `often` times, for the most hostile guest, is broken now. */
  protected breaks(often: number): boolean {
    return this.random.oneIn(often * this.rarity);
  }

  protected nastyWord(): number {
    const { random } = this;
    switch (random.below(6)) {
      case 0:
        return 0;
      case 1:
        return 0xffff_ffff - random.below(3);
      case 2:
        return random.bits();
      case 3:
        return 0x8000_0000 + random.between(-2, 2);
      case 4:
        return LOW_SIZE + random.between(-64, 64);
      default:
        return random.size(0x1_0000);
    }
  }

  /** Where `length` bytes go: mostly one after the other, at any alignment, sometimes across a seam of RAM. */
  protected place(length: number): number {
    const { random } = this;
    const space = LOW_SIZE - BUFFERS - length;
    this.nextBuffer = (this.nextBuffer + length + random.below(64)) % space;
    return BUFFERS + (random.oneIn(4) ? this.nextBuffer : this.nextBuffer & ~3);
  }

  /** Cuts a buffer into parts, and corrupts some. */
  protected cut(at: number, total: number, cuts: number, writable: boolean): Part[] {
    const { random } = this;
    const parts: Part[] = [];
    for (let done = 0; done < total;) {
      const last = parts.length + 1 === cuts;
      const length = last ? total - done : min(total - done, random.size(total));
      parts.push({ low: at + done, high: 0, length, writable });
      done += length;
    }
    if (this.breaks(2)) {
      const which = random.below(parts.length);
      parts[which] = this.corrupt(parts[which]);
    }
    if (this.breaks(8)) parts.splice(random.below(parts.length + 1), 0, { low: at, high: 0, length: 0, writable });
    return parts;
  }

  private corrupt(part: Part): Part {
    const { random } = this;
    switch (random.below(6)) {
      case 0:
        return { ...part, low: this.nastyWord() };
      case 1:
        return { ...part, high: random.oneIn(2) ? HIGH_BASE / TWO_POW_32 : random.bits() };
      case 2:
        return { ...part, length: this.nastyWord() };
      case 3:
        return { ...part, writable: !part.writable };
      case 4: // across the seam of two pieces of RAM, which is legal
        return { ...part, low: LOW_SIZE - random.between(1, min(part.length, 200)) };
      default: // across the end of RAM, which is not
        return { ...part, low: LOW_SIZE + NEXT_SIZE - random.between(1, min(part.length, 200)) };
    }
  }

  /** Makes a chain of `parts` available, in the ring or behind a table. */
  protected offer(queue: number, parts: readonly Part[]): void {
    const { random } = this;
    const ring = this.rings[queue];
    const indirect = parts.length > ring.size || (this.features.indirect ? random.oneIn(3) : this.breaks(10));
    const head = ring.nextDescriptor % ring.size;
    if (indirect) {
      const table = TABLES + TABLE_SLOT * (this.nextTable++ % TABLE_SLOTS);
      parts.forEach((part, index) => this.describe(table, index, part, index + 1 < parts.length, index + 1));
      const length = this.breaks(8) ? this.nastyWord() : 16 * parts.length;
      this.describe(ring.base, head, { low: table, high: 0, length, writable: random.oneIn(20) }, false, 0, 4);
      ring.nextDescriptor++;
    } else {
      parts.forEach((part, index) => {
        const slot = (head + index) % ring.size;
        this.describe(ring.base, slot, part, index + 1 < parts.length, (slot + 1) % ring.size);
      });
      ring.nextDescriptor += parts.length;
    }
    const slot = ring.base + 0x804 + 2 * (ring.availIndex & (ring.size - 1));
    this.view.setUint16(slot, this.breaks(50) ? random.bits() : head, true);
    ring.availIndex = (ring.availIndex + (this.breaks(50) ? random.bits() : 1)) & 0xffff;
    this.view.setUint16(ring.base + 0x802, ring.availIndex, true);
  }

  private describe(table: number, index: number, part: Part, more: boolean, next: number, extraFlags = 0): void {
    const { random, view } = this;
    const at = table + 16 * index;
    view.setUint32(at, part.low, true);
    view.setUint32(at + 4, part.high, true);
    view.setUint32(at + 8, part.length, true);
    let flags = (more ? 1 : 0) | (part.writable ? 2 : 0) | extraFlags;
    if (this.breaks(25)) flags = random.below(16);
    view.setUint16(at + 12, flags, true);
    view.setUint16(at + 14, this.breaks(25) ? random.bits() : next, true);
  }
}
