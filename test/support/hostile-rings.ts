// The driver's half of any device's rings, in the hands of a guest that keeps to the protocol where it likes and breaks it
// everywhere else. What is in the buffers is the test's affair.

import { SplitQueue, type QueueFeatures } from '../../src/devices/virtio/queue.js';
import { GIB, KIB, TWO_POW_32 } from '../../src/platform/units.js';
import { GuardedRam } from './guarded-ram.js';
import type { Random } from './random.js';

const LOW_SIZE = 192 * KIB;
const NEXT_SIZE = 32 * KIB;
const HIGH_BASE = 4 * GIB;
const HIGH_SIZE = 64 * KIB;

const RING_SPACE = 0x1000;
const AVAILABLE_RING = 0x800;
const USED_RING = 0xa00;
const TABLE_SLOT = 1024;
const TABLE_SLOTS = 16;

const { min } = Math;

/** RAM in three pieces, two of them adjacent, the third above 4 GiB. */
export function hostileRam(): GuardedRam {
  return new GuardedRam(
    { gpa: 0, size: LOW_SIZE },
    { gpa: LOW_SIZE, size: NEXT_SIZE },
    { gpa: HIGH_BASE, size: HIGH_SIZE },
  );
}

/** A buffer of a chain that is being made. */
export interface HostilePart {
  readonly address: number;
  readonly length: number;
  readonly writable?: boolean;
}

interface Ring {
  readonly base: number;
  readonly size: number;
  availIndex: number;
  nextDescriptor: number;
}

export class HostileRings {
  readonly features: QueueFeatures;
  readonly view: DataView;
  /** Where the test's buffers may be, in the first piece of RAM. */
  readonly buffers: number;
  private readonly random: Random;
  private readonly ram: GuardedRam;
  private readonly count: number;
  private readonly tables: number;
  private rings: Ring[] = [];
  /** Once in how many times something is broken: some guests are barely out of step, others throw anything. */
  private readonly rarity: number;
  private nextBuffer = 0;
  private nextTable = 0;

  constructor(random: Random, ram: GuardedRam, count: number) {
    const [chunk] = ram.chunks;
    this.random = random;
    this.ram = ram;
    this.count = count;
    this.view = new DataView(chunk.buffer, chunk.bufferOffset, chunk.size);
    this.tables = count * RING_SPACE;
    this.buffers = this.tables + TABLE_SLOT * TABLE_SLOTS;
    this.rarity = random.pick([2, 8, 40]);
    this.features = { eventIdx: random.oneIn(2), indirect: !random.oneIn(4) };
  }

  /** New rings, zeroed as a driver's are, and the device's halves of them. */
  makeQueues(): SplitQueue[] {
    this.ram.memory.chunks[0].bytes.fill(0, 0, this.buffers);
    this.rings = Array.from({ length: this.count }, (_, index) => ({
      base: index * RING_SPACE,
      size: 2 ** this.random.between(1, 6),
      availIndex: 0,
      nextDescriptor: 0,
    }));
    return this.rings.map(({ base, size }) => {
      const layout = { size, descriptorTable: base, availableRing: base + AVAILABLE_RING, usedRing: base + USED_RING };
      return new SplitQueue(this.ram.memory, layout, this.features);
    });
  }

  /** Whether something that is broken once in `often` times, for the most hostile guest, is broken now. */
  breaks(often: number): boolean {
    return this.random.oneIn(often * this.rarity);
  }

  nastyWord(): number {
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

  /** Where `length` bytes go: one after the other, at any alignment. */
  place(length: number): number {
    const space = LOW_SIZE - this.buffers - length;
    this.nextBuffer = (this.nextBuffer + length + this.random.below(64)) % space;
    return this.buffers + this.nextBuffer;
  }

  /** Makes a chain of `parts` available, in the ring or behind a table, some of them corrupted. */
  offer(queue: number, parts: readonly HostilePart[]): void {
    const { random } = this;
    const ring = this.rings[queue];
    const chain = parts.map((part) => (this.breaks(3) ? this.corrupt(part) : part));
    const indirect = chain.length > ring.size || (this.features.indirect ? random.oneIn(3) : this.breaks(10));
    const head = ring.nextDescriptor % ring.size;
    if (indirect) {
      const table = this.tables + TABLE_SLOT * (this.nextTable++ % TABLE_SLOTS);
      chain.forEach((part, index) => this.describe(table, index, part, index + 1 < chain.length, index + 1));
      const length = this.breaks(8) ? this.nastyWord() : 16 * chain.length;
      this.describe(ring.base, head, { address: table, length, writable: random.oneIn(20) }, false, 0, 4);
      ring.nextDescriptor++;
    } else {
      chain.forEach((part, index) => {
        const slot = (head + index) % ring.size;
        this.describe(ring.base, slot, part, index + 1 < chain.length, (slot + 1) % ring.size);
      });
      ring.nextDescriptor += chain.length;
    }
    const slot = ring.base + AVAILABLE_RING + 4 + 2 * (ring.availIndex & (ring.size - 1));
    this.view.setUint16(slot, this.breaks(50) ? random.bits() : head, true);
    ring.availIndex = (ring.availIndex + (this.breaks(50) ? random.bits() : 1)) & 0xffff;
    this.view.setUint16(ring.base + AVAILABLE_RING + 2, ring.availIndex, true);
  }

  /** Writes where a driver has no business while the device is at work. */
  scribble(): void {
    const { random, view } = this;
    if (random.oneIn(2)) view.setUint32(4 * random.below(this.buffers / 4), this.nastyWord(), true);
    else view.setUint32(this.buffers + 4 * random.below((LOW_SIZE - this.buffers) / 4), this.nastyWord(), true);
  }

  private corrupt(part: HostilePart): HostilePart {
    const { random } = this;
    switch (random.below(6)) {
      case 0:
        return { ...part, address: this.nastyWord() };
      case 1:
        return { ...part, address: part.address + (random.oneIn(2) ? HIGH_BASE : random.bits() * TWO_POW_32) };
      case 2:
        return { ...part, length: this.nastyWord() };
      case 3:
        return { ...part, writable: part.writable !== true };
      case 4: // across the seam of two pieces of RAM, which is legal
        return { ...part, address: LOW_SIZE - random.between(1, min(part.length + 1, 200)) };
      default: // across the end of RAM, which is not
        return { ...part, address: LOW_SIZE + NEXT_SIZE - random.between(1, min(part.length + 1, 200)) };
    }
  }

  private describe(table: number, index: number, part: HostilePart, more: boolean, next: number, extra = 0): void {
    const { random, view } = this;
    const at = table + 16 * index;
    view.setUint32(at, part.address % TWO_POW_32, true);
    view.setUint32(at + 4, Math.floor(part.address / TWO_POW_32), true);
    view.setUint32(at + 8, part.length, true);
    let flags = (more ? 1 : 0) | (part.writable === true ? 2 : 0) | extra;
    if (this.breaks(25)) flags = random.below(16);
    view.setUint16(at + 12, flags, true);
    view.setUint16(at + 14, this.breaks(25) ? random.bits() : next, true);
  }
}
