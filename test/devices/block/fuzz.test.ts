// A hostile guest against the block device over a real file: malformed rings and chains, requests with wrong fields,
// descriptors that change under way, resets at any time. Nothing is thrown, nothing outside guest RAM is touched or
// handed to the image, no byte of the file changes that no write asked for, and none behind the end of the disk.

import { readSync, writeSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { BlockDevice } from '../../../src/devices/block/device.js';
import type { DiskImage, TransferBatch } from '../../../src/devices/block/disk-image.js';
import { RawImage } from '../../../src/devices/block/raw-image.js';
import {
  BLOCK_COUNTERS,
  VIRTIO_BLK_F_CONFIG_WCE_BIT,
  VIRTIO_BLK_F_FLUSH_BIT,
  type BlockSettings,
} from '../../../src/devices/block/settings.js';
import { featureWords } from '../../../src/devices/virtio/device.js';
import type { EventLoop } from '../../../src/platform/event-loop.js';
import type { IovecArray } from '../../../src/platform/iovec.js';
import { KIB } from '../../../src/platform/units.js';
import { FakeClock } from '../../support/fake-clock.js';
import { GuardedRam } from '../../support/guarded-ram.js';
import { HIGH_BASE, HIGH_SIZE, HostileDriver, LOW_SIZE, NEXT_SIZE } from '../../support/hostile-driver.js';
import { openDescriptors } from '../../support/process-state.js';
import { forEachCase, fuzzRun, type Random } from '../../support/random.js';
import { pattern } from './block-guest.js';
import { ScratchDirectory } from './scratch.js';

const CASES = 20_000;
const QUEUES = 2;

const DISK = 32 * KIB;
const SECTORS = DISK / 512;
/** The file goes on behind the disk, as one that grew while it was in use. */
const FILE = DISK + 16 * KIB;
const ORIGINAL = pattern(FILE, 1);

const HEADER_SIZE = 16;
const TYPES = [0, 0, 0, 1, 1, 1, 4, 8, 11, 13];

class HostileBlockGuest extends HostileDriver {
  constructor(random: Random, ram: GuardedRam) {
    super(random, ram, QUEUES);
  }

  /** A request that is right but for what `random` changes. */
  sendRequest(): void {
    const { random, view } = this;
    let type = random.pick(TYPES);
    const bytes = random.oneIn(20) ? random.size(20_000) : 512 * random.between(0, 8);
    let data = type === 1 ? bytes : 0;
    let space = type === 0 ? bytes : type === 8 ? 20 : 0;
    if (type === 11 || type === 13) data = 16 * random.between(1, 3);
    if (this.breaks(3)) data = random.size(6000);
    if (this.breaks(3)) space = random.size(6000);
    if (this.breaks(6)) type = this.nastyWord();
    const at = this.place(HEADER_SIZE + data);
    const words = [type, 0, random.below(SECTORS), 0];
    if (this.breaks(3)) words[random.below(4)] = this.nastyWord();
    for (let range = 0; (type === 11 || type === 13) && range < data / 16; range++) {
      words.push(random.below(SECTORS), 0, random.below(16), type === 13 ? random.below(2) : 0);
      if (this.breaks(3)) words[words.length - 1 - random.below(4)] = this.nastyWord();
    }
    words
      .slice(0, (HEADER_SIZE + data) >>> 2)
      .forEach((word, index) => view.setUint32(at + 4 * index, word >>> 0, true));
    const header = this.breaks(8) ? random.size(HEADER_SIZE + data) : HEADER_SIZE + data;
    const cuts = (): number => (random.oneIn(4) ? random.between(1, 20) : random.between(1, 3));
    const readable = this.cut(at, header, cuts(), false);
    const writable = this.cut(this.place(space + 1), space + 1, cuts(), true);
    this.offer(random.below(QUEUES), this.breaks(20) ? [...writable, ...readable] : [...readable, ...writable]);
  }
}

/** Holds the device to what the seam says, and keeps account of what may have changed. */
class WatchedImage implements DiskImage {
  readonly size = DISK;
  /** Per sector: something asked for a change. */
  readonly touched = new Uint8Array(SECTORS);
  calls = 0;
  closed = 0;
  private readonly inner: DiskImage;
  private readonly ram: GuardedRam;
  private readonly readOnly: boolean;
  private readonly random: Random;

  constructor(inner: DiskImage, ram: GuardedRam, readOnly: boolean, random: Random) {
    this.inner = inner;
    this.ram = ram;
    this.readOnly = readOnly;
    this.random = random;
  }

  readv(iovecs: IovecArray, offset: number): number {
    this.checkVector(iovecs, offset);
    return this.fails() ? -5 : this.inner.readv(iovecs, offset);
  }

  writev(iovecs: IovecArray, offset: number): number {
    this.checkVector(iovecs, offset);
    this.change(offset, iovecs.totalBytes);
    return this.fails() ? -28 : this.inner.writev(iovecs, offset);
  }

  flush(): number {
    // Not to the disk: that takes longer than everything else together.
    this.calls++;
    return this.fails() ? -5 : 0;
  }

  discard(offset: number, length: number): number {
    this.change(offset, length);
    return this.inner.discard(offset, length);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): number {
    this.change(offset, length);
    return this.inner.writeZeroes(offset, length, unmap);
  }

  /** What goes through it is looked at as everything else is. */
  get batch(): TransferBatch | undefined {
    const { batch } = this.inner;
    return batch === undefined ? undefined : new WatchedBatch(batch, this);
  }

  /** As `readv` or `writev` would look at it. */
  check(reading: boolean, iovecs: IovecArray, offset: number): void {
    this.checkVector(iovecs, offset);
    if (!reading) this.change(offset, iovecs.totalBytes);
  }

  close(): number {
    this.closed++;
    return this.inner.close();
  }

  private fails(): boolean {
    return this.random.oneIn(50);
  }

  private checkVector(iovecs: IovecArray, offset: number): void {
    if (iovecs.count > iovecs.capacity) throw new Error('a vector beyond its array');
    let total = 0;
    for (let entry = 0; entry < iovecs.count; entry++) {
      const length = iovecs.lengthAt(entry);
      total += length;
      if (!this.ram.holds(iovecs.addressAt(entry), length)) throw new Error('a vector that leaves guest RAM');
    }
    if (total !== iovecs.totalBytes) throw new Error('a vector whose sum is wrong');
    this.checkRange(offset, total);
  }

  private change(offset: number, length: number): void {
    if (this.readOnly) throw new Error('a read-only image was asked to change');
    this.checkRange(offset, length);
    this.touched.fill(1, offset / 512, (offset + length) / 512);
  }

  private checkRange(offset: number, length: number): void {
    this.calls++;
    if (offset % 512 !== 0 || length % 512 !== 0 || length <= 0 || offset < 0 || offset + length > DISK) {
      throw new Error(`the device called with ${offset}+${length}, against what the seam says`);
    }
  }
}

class WatchedBatch implements TransferBatch {
  readonly capacity: number;
  private readonly inner: TransferBatch;
  private readonly image: WatchedImage;

  constructor(inner: TransferBatch, image: WatchedImage) {
    this.inner = inner;
    this.image = image;
    this.capacity = inner.capacity;
  }

  add(reading: boolean, iovecs: IovecArray, offset: number): boolean {
    this.image.check(reading, iovecs, offset);
    return this.inner.add(reading, iovecs, offset);
  }

  execute(results: Int32Array): void {
    this.inner.execute(results);
  }
}

test("no guest, however hostile, makes the device throw, or touch what is not the guest's", () => {
  using ram = new GuardedRam(
    { gpa: 0, size: LOW_SIZE },
    { gpa: LOW_SIZE, size: NEXT_SIZE },
    { gpa: HIGH_BASE, size: HIGH_SIZE },
  );
  using scratch = new ScratchDirectory();
  const plain = scratch.file('disk', ORIGINAL);
  const descriptors = openDescriptors();
  const now = Buffer.alloc(FILE);
  const original = Buffer.from(ORIGINAL);
  const counters = new Float64Array(BLOCK_COUNTERS.length);
  let broken = 0;
  let calls = 0;

  forEachCase('block', fuzzRun(CASES), (random) => {
    ram.clear();
    const readOnly = random.oneIn(5);
    // The alignment is kept to, even where this descriptor does not ask for it.
    const alignment = random.pick([1, 1, 512, 4096]);
    const file = { ...plain, size: DISK, alignment, readOnly };
    const raw = { format: 'raw', file, guardHeader: random.oneIn(2) } as const;
    const image = new WatchedImage(new RawImage(raw), ram, readOnly, random);
    const clock = new FakeClock();
    const loop = Object.assign(clock, { addPoller: () => undefined, removePoller: () => undefined });
    const settings: BlockSettings = {
      kind: 'block',
      image: raw,
      readOnly,
      serial: 'fuzz',
      rateLimiter: random.oneIn(4)
        ? { ops: { size: 3, refillTime: 10 }, bandwidth: { size: 4096, refillTime: 10 } }
        : undefined,
    };
    const config = new Uint8Array(60);
    const device = new BlockDevice(
      settings,
      {
        loop: loop as unknown as EventLoop,
        log: () => undefined,
        updateConfig: (offset, bytes) => {
          config.set(bytes, offset);
        },
        counters,
      },
      image,
    );
    const guest = new HostileBlockGuest(random, ram);
    const activate = (): void => {
      const queues = guest.makeQueues();
      const bits = [VIRTIO_BLK_F_FLUSH_BIT, VIRTIO_BLK_F_CONFIG_WCE_BIT].filter(() => !random.oneIn(3));
      device.activate({
        memory: ram.memory,
        queues: random.oneIn(10) ? [undefined, queues[1]] : queues,
        features: featureWords(bits),
        interrupt: guest.interrupt,
      });
    };
    activate();
    for (let step = random.between(4, 30); step > 0; step--) {
      switch (random.below(10)) {
        case 0:
          if (random.oneIn(4)) guest.scribble();
          break;
        case 1:
          clock.advance(random.below(20));
          break;
        case 2:
          if (random.oneIn(3)) {
            config[32] = random.below(256);
            device.configWritten(config);
          }
          break;
        case 3:
          if (!random.oneIn(10)) break;
          device.reset();
          if (!random.oneIn(4)) activate();
          break;
        case 4:
        case 5:
          // A broken ring may never be empty.
          for (let polls = 0; polls < 4 && device.poll(); polls++);
          device.armBeforeSleep();
          break;
        default:
          guest.sendRequest();
      }
    }
    for (let polls = 0; polls < 4 && device.poll(); polls++);
    device.close();
    expect(clock.pending).toBe(0);
    expect(image.closed).toBe(1);
    calls += image.calls;
    broken += guest.interrupt.resets;
    ram.check();
    readSync(plain.fd, now, 0, FILE, 0);
    if (now.equals(original)) return;
    if (now.compare(original, DISK, FILE, DISK, FILE) !== 0) throw new Error('what is behind the disk has changed');
    for (let sector = 0; sector < SECTORS; sector++) {
      const start = 512 * sector;
      if (image.touched[sector] === 0 && now.compare(original, start, start + 512, start, start + 512) !== 0) {
        throw new Error(`sector ${sector} has changed, and nothing asked for that`);
      }
    }
    writeSync(plain.fd, ORIGINAL, 0, FILE, 0);
  });

  expect(openDescriptors()).toBe(descriptors);
  const totals = Object.fromEntries(BLOCK_COUNTERS.map((name, index) => [name, Math.round(counters[index])]));
  // The generator reaches what it is meant to reach; a single case, run again, need not.
  if (totals['read_ops'] > 100) {
    const times = new Set(['read_us', 'write_us', 'flush_us']);
    for (const [name, total] of Object.entries(totals))
      if (!times.has(name)) expect([name, total > 0]).toEqual([name, true]);
    expect(broken).toBeGreaterThan(0);
  }
  process.stdout.write(`block: ${JSON.stringify({ ...totals, broken, calls })}\n`);
});
