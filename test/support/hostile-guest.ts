// A vsock driver that keeps to the protocol where it likes, and breaks it everywhere else: rings, headers, timing.
//
// It knows enough to get connections going, so that what it breaks is broken in every state a connection has.

import { GIB, KIB, TWO_POW_32 } from '../../src/platform/units.js';
import { CountingInterrupt } from './driven-ring.js';
import { SplitQueue, type QueueFeatures, type QueueLayout } from '../../src/devices/virtio/queue.js';
import type { GuardedRam } from './guarded-ram.js';
import type { Random } from './random.js';

export const HOSTILE_CID = 3;
export const LOW_SIZE = 192 * KIB;
export const NEXT_SIZE = 32 * KIB;
export const HIGH_BASE = 4 * GIB;
export const HIGH_SIZE = 64 * KIB;

const HEADER_SIZE = 44;
const HOST_CID = 2;
const RING_SPACE = 0x1000;
const TABLES = 4 * RING_SPACE;
const TABLE_SLOT = 1024;
const TABLE_SLOTS = 32;
const BUFFERS = TABLES + TABLE_SLOT * TABLE_SLOTS;

const OP_REQUEST = 1;
const OP_RESPONSE = 2;
const OP_RW = 5;
const OPS = [OP_REQUEST, OP_RESPONSE, 3, 4, OP_RW, OP_RW, OP_RW, 6, 7];
/** Few, so that packets meet connections that are there. */
const GUEST_PORTS = [1000, 1001, 1002];

const { min } = Math;

interface Ring {
  readonly base: number;
  readonly size: number;
  availIndex: number;
  usedIndex: number;
  nextDescriptor: number;
}

/** A buffer of a chain that is being made. */
interface Part {
  readonly low: number;
  readonly high: number;
  readonly length: number;
  readonly writable: boolean;
}

export class HostileGuest {
  readonly interrupt = new CountingInterrupt();
  /** Ports of the host side that lead somewhere. */
  hostPorts: readonly number[] = [];
  private readonly random: Random;
  private readonly ram: GuardedRam;
  private readonly view: DataView;
  readonly features: QueueFeatures;
  private rings: Ring[] = [];
  /** Once in how many times something is broken: some guests are barely out of step, others throw anything. */
  private readonly rarity: number;
  /** What the device asked for, and what is up: guest port and host port by turns. */
  private readonly asked: number[] = [];
  private readonly established: number[] = [];
  private nextBuffer = 0;
  private nextTable = 0;

  constructor(random: Random, ram: GuardedRam) {
    this.random = random;
    this.ram = ram;
    const chunk = ram.chunks[0];
    this.view = new DataView(chunk.buffer, chunk.bufferOffset, chunk.size);
    this.rarity = random.pick([2, 8, 40]);
    this.features = { eventIdx: random.oneIn(2), indirect: !random.oneIn(4) };
  }

  /** New rings, zeroed as a driver's are. */
  makeRings(): QueueLayout[] {
    const { random } = this;
    this.ram.memory.chunks[0].bytes.fill(0, 0, TABLES);
    this.asked.length = 0;
    this.established.length = 0;
    this.rings = [0, 1, 2].map((index) => ({
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

  /** Looks at what the device delivered, for ports that it asks for. Tolerates anything: it rewrote the rings itself. */
  look(): void {
    const [rx] = this.rings;
    const { view } = this;
    const published = view.getUint16(rx.base + 0xa02, true);
    for (let seen = 0; rx.usedIndex !== published && seen < rx.size; seen++) {
      const head = view.getUint32(rx.base + 0xa04 + 8 * (rx.usedIndex & (rx.size - 1)), true);
      rx.usedIndex = (rx.usedIndex + 1) & 0xffff;
      if (head >= rx.size) continue;
      let at = view.getUint32(rx.base + 16 * head, true);
      const indirect = (view.getUint16(rx.base + 16 * head + 12, true) & 4) !== 0;
      if (indirect && at <= LOW_SIZE - 4) at = view.getUint32(at, true);
      if (at + HEADER_SIZE > LOW_SIZE) continue;
      const op = view.getUint16(at + 30, true);
      const ports = [view.getUint32(at + 20, true), view.getUint32(at + 16, true)];
      if (op === OP_REQUEST) this.asked.push(...ports);
      if (op === OP_RESPONSE) this.established.push(...ports);
    }
  }

  postRx(): void {
    const { random } = this;
    const total = random.oneIn(6) ? random.size(100) : random.between(HEADER_SIZE + 1, 5000);
    const cuts = random.oneIn(3) ? random.between(1, 50) : random.between(1, 3);
    this.offer(0, this.cut(this.place(total), total, cuts, true));
  }

  /** A packet whose header is right but for what `random` changes. */
  sendPacket(): void {
    const { random, view, asked, established } = this;
    const length = random.oneIn(2) ? random.size(6000) : 0;
    const at = this.place(HEADER_SIZE + length);
    let op = OP_REQUEST;
    let ports = [random.pick(GUEST_PORTS), random.pick(this.hostPorts)];
    if (asked.length > 0 && !random.oneIn(4)) {
      ports = asked.splice(0, 2);
      op = OP_RESPONSE;
      established.push(...ports);
    } else if (established.length > 0 && !random.oneIn(4)) {
      const which = 2 * random.below(established.length / 2);
      ports = established.slice(which, which + 2);
      op = random.oneIn(6) ? random.pick(OPS) : OP_RW;
    }
    if (this.breaks(4)) op = random.pick(OPS);
    const [guestPort, hostPort] = ports;
    const words = [
      HOSTILE_CID,
      0,
      HOST_CID,
      0,
      guestPort,
      hostPort,
      op === OP_RW ? length : 0,
      1 | (op << 16),
      op === 4 ? random.below(4) : 0,
      random.oneIn(4) ? random.size(262144) : 262144,
      random.oneIn(10) ? random.size(100_000) : 0,
    ];
    for (let mutations = this.breaks(2) ? random.between(1, 3) : 0; mutations > 0; mutations--) {
      words[random.below(words.length)] = this.nastyWord();
    }
    words.forEach((word, index) => view.setUint32(at + 4 * index, word >>> 0, true));
    const total = this.breaks(6) ? random.size(HEADER_SIZE + length) : HEADER_SIZE + length;
    this.offer(1, this.cut(at, total, random.oneIn(4) ? random.between(1, 46) : random.between(1, 3), false));
  }

  /** Writes where a driver has no business while the device is at work. */
  scribble(): void {
    const { random, view } = this;
    switch (random.below(5)) {
      case 0: // an address or a length
        view.setUint32(random.below(3) * RING_SPACE + 4 * random.below(256), this.nastyWord(), true);
        return;
      case 1: // flags and next
        view.setUint32(random.below(3) * RING_SPACE + 16 * random.below(64) + 12, random.below(8), true);
        return;
      case 2: // an indirect table
        view.setUint32(TABLES + 4 * random.below(TABLE_SLOT), this.nastyWord(), true);
        return;
      case 3: // a ring, its index, its event
        view.setUint16(random.below(3) * RING_SPACE + 0x800 + 2 * random.below(0x200), random.bits(), true);
        return;
      case 4: // a header or payload
        view.setUint32(BUFFERS + 4 * random.below((LOW_SIZE - BUFFERS) / 4), this.nastyWord(), true);
        return;
    }
  }

  /** Whether something that is broken once in `often` times, for the most hostile guest, is broken now. */
  private breaks(often: number): boolean {
    return this.random.oneIn(often * this.rarity);
  }

  private nastyWord(): number {
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
  private place(length: number): number {
    const { random } = this;
    const space = LOW_SIZE - BUFFERS - length;
    this.nextBuffer = (this.nextBuffer + length + random.below(64)) % space;
    return BUFFERS + (random.oneIn(4) ? this.nextBuffer : this.nextBuffer & ~3);
  }

  /** Cuts a buffer into parts, and corrupts some. */
  private cut(at: number, total: number, cuts: number, writable: boolean): Part[] {
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
  private offer(queue: number, parts: readonly Part[]): void {
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
