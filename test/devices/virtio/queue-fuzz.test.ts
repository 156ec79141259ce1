// Malformed rings against the queue: whatever a driver writes, and whenever it rewrites it, a popped chain lies inside
// guest RAM, and nothing outside it is touched.

import { expect, test } from '@jest/globals';
import { DescriptorChain, MAX_CHAIN_SEGMENTS } from '../../../src/devices/virtio/chain.js';
import { BAD_CHAIN, BROKEN, CHAIN, EMPTY, QueueLayoutError, SplitQueue } from '../../../src/devices/virtio/queue.js';
import { GIB, KIB, TWO_POW_32 } from '../../../src/platform/units.js';
import { GuardedRam } from '../../support/guarded-ram.js';
import { forEachCase, fuzzRun, type Random } from '../../support/random.js';

/** Where the rings are. Adjacent pieces, since a buffer may cross from one to the next, and one above 4 GiB. */
const LOW_SIZE = 16 * KIB;
const NEXT_SIZE = 8 * KIB;
const HIGH_BASE = 4 * GIB;
const HIGH_SIZE = 8 * KIB;
const TABLE = 0;
const AVAIL = 0x800;
const USED = 0xa00;
const MAX_SIZE = 64;
const POOL = 0x1000;

const CASES = 110_000;

/** An address that a hostile driver would try: in RAM, at its edges, beyond, or anything. */
function address(random: Random): [low: number, high: number] {
  switch (random.below(8)) {
    case 0:
      return [LOW_SIZE - random.size(64), 0];
    case 1:
      return [LOW_SIZE + NEXT_SIZE - random.size(64), 0];
    case 2:
      return [random.below(HIGH_SIZE), HIGH_BASE / TWO_POW_32];
    case 3:
      return [HIGH_SIZE - random.size(64), HIGH_BASE / TWO_POW_32];
    case 4:
      return [random.bits(), random.oneIn(2) ? 0 : random.bits()];
    case 5:
      return [0xffff_ffff - random.below(64), random.pick([0, 0, 1, 0xffff_ffff])];
    default:
      return [POOL + random.below(LOW_SIZE - POOL), 0];
  }
}

function length(random: Random): number {
  switch (random.below(8)) {
    case 0:
      return 0;
    case 1:
      return random.bits();
    case 2:
      return 0xffff_ffff - random.below(4);
    case 3:
      return 16 * random.between(1, 80);
    default:
      return random.size(4096);
  }
}

class Driver {
  readonly random: Random;
  readonly view: DataView;
  readonly size: number;
  availIndex: number;

  constructor(random: Random, ram: GuardedRam) {
    this.random = random;
    const chunk = ram.chunks[0];
    this.view = new DataView(chunk.buffer, chunk.bufferOffset, chunk.size);
    this.size = 2 ** (random.oneIn(10) ? random.between(0, 6) : random.between(0, 4));
    this.availIndex = random.oneIn(2) ? 0 : random.below(0x1_0000);
  }

  /** A descriptor that is right in most of its fields. */
  describe(table: number, index: number, count: number): void {
    const { random, view } = this;
    const at = table + 16 * index;
    if (at + 16 > LOW_SIZE) return;
    const [low, high] = random.oneIn(6) ? address(random) : [POOL + random.below(LOW_SIZE - POOL), 0];
    view.setUint32(at, low, true);
    view.setUint32(at + 4, high, true);
    view.setUint32(at + 8, random.oneIn(6) ? length(random) : random.size(256), true);
    const more = index + 1 < count && !random.oneIn(4);
    let flags = (more ? 1 : 0) | (random.oneIn(3) ? 2 : 0);
    if (random.oneIn(8)) flags = random.below(8);
    if (random.oneIn(40)) flags = random.below(0x1_0000);
    view.setUint16(at + 12, flags, true);
    view.setUint16(at + 14, random.oneIn(10) ? random.below(0x1_0000) : (index + 1) % count, true);
  }

  /** Puts a table of its own behind a descriptor of the ring. */
  describeIndirect(index: number): void {
    const { random, view } = this;
    const count = random.between(1, 12);
    const table = POOL + (random.oneIn(8) ? random.below(4096) : 16 * random.below(256));
    for (let entry = 0; entry < count; entry++) this.describe(table, entry, count);
    const at = TABLE + 16 * index;
    view.setUint32(at, table, true);
    view.setUint32(at + 4, random.oneIn(30) ? random.bits() : 0, true);
    view.setUint32(at + 8, random.oneIn(8) ? length(random) : 16 * count, true);
    view.setUint16(at + 12, random.oneIn(10) ? random.below(8) : 4, true);
  }

  offer(): void {
    const { random, view, size } = this;
    const head = random.oneIn(30) ? random.below(0x1_0000) : random.below(size);
    view.setUint16(AVAIL + 4 + 2 * (this.availIndex & (size - 1)), head, true);
    this.availIndex = (this.availIndex + (random.oneIn(40) ? random.below(0x1_0000) : 1)) & 0xffff;
    view.setUint16(AVAIL + 2, this.availIndex, true);
  }

  /** What a driver writes that does not keep to anything. */
  scribble(): void {
    const { random, view } = this;
    const at = random.oneIn(2) ? 2 * random.below(POOL / 2) : 4 * random.below(LOW_SIZE / 4 - 1);
    view.setUint16(at, random.oneIn(2) ? random.below(8) : random.bits(), true);
  }
}

const scratch = new Uint8Array(64);
const words = new Uint32Array(11);

/** A device that checks all it is given and writes into all it may. */
function consume(random: Random, ram: GuardedRam, queue: SplitQueue, chain: DescriptorChain): void {
  for (let turn = random.between(1, 2 * MAX_SIZE); turn > 0; turn--) {
    const result = queue.pop(chain);
    if (result === EMPTY || result === BROKEN) break;
    if (chain.head >= queue.size) throw new Error(`head ${chain.head} in a queue of ${queue.size}`);
    if (result === CHAIN) {
      checkChain(ram, chain);
      chain.copyFromReadable(random.below(100), scratch, scratch.length);
      chain.copyToWritable(random.below(100), scratch, random.between(0, scratch.length));
      chain.copyWordsFromReadable(words);
    }
    if (random.oneIn(20)) queue.unpop();
    else queue.addUsed(chain.head, result === BAD_CHAIN ? 0 : Math.min(64, chain.writableBytes));
  }
  queue.publish();
}

function checkChain(ram: GuardedRam, chain: DescriptorChain): void {
  if (chain.count > MAX_CHAIN_SEGMENTS || chain.readableCount > chain.count) throw new Error('too many segments');
  let readable = 0;
  let writable = 0;
  for (let index = 0; index < chain.count; index++) {
    if (!ram.holds(chain.hostAddress(index), chain.lengths[index])) throw new Error(`segment ${index} is not RAM`);
    if (chain.lengths[index] === 0) throw new Error(`segment ${index} is empty`);
    if (index < chain.readableCount) readable += chain.lengths[index];
    else writable += chain.lengths[index];
  }
  if (readable !== chain.readableBytes || writable !== chain.writableBytes) throw new Error('wrong totals');
  // 2.7.5.2: no chain is longer than 2^32 bytes, which is what 32-bit counters of a device rely on.
  if (readable + writable > TWO_POW_32) throw new Error('a chain of more than 2^32 bytes');
}

test('no ring, however malformed or rewritten under way, makes the queue throw or leave guest RAM', () => {
  using ram = new GuardedRam(
    { gpa: 0, size: LOW_SIZE },
    { gpa: LOW_SIZE, size: NEXT_SIZE },
    { gpa: HIGH_BASE, size: HIGH_SIZE },
  );
  const chain = new DescriptorChain(ram.memory);
  let chains = 0;
  forEachCase('queue', fuzzRun(CASES), (random) => {
    ram.memory.chunks[0].bytes.fill(0);
    const driver = new Driver(random, ram);
    const layout = { size: driver.size, descriptorTable: TABLE, availableRing: AVAIL, usedRing: USED };
    const queue = new SplitQueue(ram.memory, layout, { eventIdx: random.oneIn(2), indirect: !random.oneIn(4) });
    const start = driver.availIndex;
    Object.assign(queue, { nextAvail: start, knownAvail: start, nextUsed: start, publishedUsed: start });
    for (let round = random.between(1, 3); round > 0; round--) {
      for (let index = 0; index < driver.size; index++) {
        if (random.oneIn(3)) driver.describeIndirect(index);
        else driver.describe(TABLE, index, driver.size);
      }
      for (let offers = random.between(1, Math.min(8, driver.size)); offers > 0; offers--) driver.offer();
      if (random.oneIn(3)) driver.scribble();
      if (random.oneIn(4)) queue.pending();
      if (random.oneIn(4)) queue.suppressNotifications();
      consume(random, ram, queue, chain);
      chains += chain.count;
      if (random.oneIn(4)) queue.armNotifications();
    }
    ram.check();
  });
  expect(chains).toBeGreaterThan(0); // Else the generator makes nothing that a device would take.
});

test('a chain of more than 2^32 bytes is malformed', () => {
  using ram = new GuardedRam({ gpa: 0, size: 8192 * KIB });
  const view = new DataView(ram.chunks[0].buffer, ram.chunks[0].bufferOffset, ram.chunks[0].size);
  const entries = MAX_CHAIN_SEGMENTS;
  const cases: [length: number, result: number][] = [
    [4096 * KIB, CHAIN],
    [4096 * KIB + 1, BAD_CHAIN],
    [8192 * KIB, BAD_CHAIN],
  ];
  for (const [each, result] of cases) {
    const queue = new SplitQueue(
      ram.memory,
      { size: 1, descriptorTable: TABLE, availableRing: AVAIL, usedRing: USED },
      { eventIdx: true, indirect: true },
    );
    for (let entry = 0; entry < entries; entry++) {
      view.setUint32(POOL + 16 * entry + 8, each, true);
      view.setUint16(POOL + 16 * entry + 12, 2 | (entry + 1 < entries ? 1 : 0), true);
      view.setUint16(POOL + 16 * entry + 14, entry + 1, true);
    }
    view.setUint32(TABLE, POOL, true);
    view.setUint32(TABLE + 8, 16 * entries, true);
    view.setUint16(TABLE + 12, 4, true);
    view.setUint16(AVAIL + 2, 1, true);
    expect([each, queue.pop(new DescriptorChain(ram.memory))]).toEqual([each, result]);
  }
});

test('no layout that a driver may write makes a queue that reaches outside guest RAM', () => {
  using ram = new GuardedRam({ gpa: 0, size: LOW_SIZE }, { gpa: HIGH_BASE, size: HIGH_SIZE });
  const place = (random: Random): number => {
    const [low, high] = address(random);
    const exact = low + high * TWO_POW_32;
    return random.oneIn(3) ? exact : exact - (exact % 16);
  };
  let usable = 0;
  forEachCase('layout', fuzzRun(20_000), (random) => {
    const size = random.oneIn(4) ? random.below(0x1_0000) : 2 ** random.below(17);
    const layout = { size, descriptorTable: place(random), availableRing: place(random), usedRing: place(random) };
    let queue: SplitQueue;
    try {
      queue = new SplitQueue(ram.memory, layout, { eventIdx: true, indirect: true });
    } catch (error) {
      if (!(error instanceof QueueLayoutError)) throw error;
      return;
    }
    usable++;
    for (let entry = 0; entry < size; entry++) queue.addUsed(entry, 0xffff_ffff);
    queue.publish();
    queue.armNotifications();
    ram.check();
    ram.clear();
  });
  expect(usable).toBeGreaterThan(0);
});
