// Hostile guests against the entropy device, the balloon and persistent memory: malformed rings, descriptors that change
// under way, lists of pages that are none, resets at any time. Nothing is thrown, nothing outside guest RAM is touched or
// given back, nothing is leaked.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { BalloonDevice } from '../../src/devices/balloon/device.js';
import { BALLOON_COUNTERS } from '../../src/devices/balloon/settings.js';
import { PmemDevice } from '../../src/devices/pmem/device.js';
import { PMEM_COUNTERS } from '../../src/devices/pmem/settings.js';
import { RngDevice } from '../../src/devices/rng/device.js';
import { RNG_COUNTERS } from '../../src/devices/rng/settings.js';
import { featureWords, type VirtioDevice } from '../../src/devices/virtio/device.js';
import { GuestMemory, type MemoryChunk } from '../../src/platform/guest-memory.js';
import { close, libc, O_NONBLOCK, O_RDONLY, O_RDWR, open } from '../../src/platform/libc.js';
import { PAGE_SIZE, type Fd } from '../../src/platform/units.js';
import { AddressGuard } from '../support/address-guard.js';
import { DeviceHost } from '../support/driven-device.js';
import { CountingInterrupt } from '../support/driven-ring.js';
import type { GuardedRam } from '../support/guarded-ram.js';
import { hostileRam, HostileRings } from '../support/hostile-rings.js';
import { openDescriptors } from '../support/process-state.js';
import { forEachCase, fuzzRun, type Random } from '../support/random.js';

/** A device under attack. */
interface Target {
  readonly name: string;
  readonly queues: number;
  readonly cases: number;
  readonly counters: readonly string[];
  make(host: DeviceHost, random: Random): VirtioDevice;
  /** Feature bits that the driver accepts. */
  features(random: Random): number[];
  /** Makes a request, good but for what the rings break. */
  request(rings: HostileRings, random: Random): void;
  /** Something else that happens to the device. */
  disturb?(device: VirtioDevice, host: DeviceHost, rings: HostileRings, random: Random): void;
  /** Counters that are not 0 after all cases: the generator reaches what it is meant to reach. */
  readonly reaches: readonly string[];
}

/** The memory as GuardedRam has it, in a file; private; or made of larger pages. */
function memoryOf(ram: GuardedRam, random: Random): GuestMemory {
  const shape = random.below(3);
  return new GuestMemory(
    ram.chunks.map((chunk): MemoryChunk => {
      const { backing } = chunk;
      if (shape === 0 || backing.kind !== 'memory-file') return chunk;
      if (shape === 1) return { ...chunk, backing: { kind: 'anonymous' } };
      return { ...chunk, backing: { ...backing, pageSize: 4 * PAGE_SIZE } };
    }),
  );
}

/** Checks that what is given back to the host is the guest's. */
class DiscardGuard implements Disposable {
  checked = 0;
  private readonly real = { madvise: libc.madvise, fallocate: libc.fallocate };

  constructor(ram: GuardedRam) {
    const { madvise, fallocate } = this.real;
    const holds = (what: string, held: boolean, from: number, length: number): void => {
      this.checked++;
      if (!held) throw new Error(`${what} of ${length} bytes at ${from}, which is not guest RAM`);
    };
    Object.assign(libc, {
      madvise: (address: number, length: number, advice: number) => {
        holds('madvise', ram.holds(address, length), address, length);
        return madvise(address, length, advice);
      },
      fallocate: (fd: number, mode: number, offset: number, length: number) => {
        const held = ram.chunks.some(
          ({ backing, size }) =>
            backing.kind === 'memory-file' &&
            backing.fd === (fd as Fd) &&
            offset >= backing.offset &&
            offset + length <= backing.offset + size,
        );
        holds('fallocate', held, offset, length);
        return fallocate(fd, mode, offset, length);
      },
    });
  }

  [Symbol.dispose](): void {
    Object.assign(libc, this.real);
  }
}

function attack(target: Target): void {
  using ram = hostileRam();
  using addresses = new AddressGuard(ram);
  using discards = new DiscardGuard(ram);
  const descriptors = openDescriptors();
  const totals = new Map<string, number>();
  const host = new DeviceHost(target.counters);
  let broken = 0;

  forEachCase(target.name, fuzzRun(target.cases), (random, index) => {
    ram.clear();
    const memory = memoryOf(ram, random);
    const device = target.make(host, random);
    const rings = new HostileRings(random, ram, target.queues);
    const interrupt = new CountingInterrupt();
    const activate = (): void => {
      const queues = rings.makeQueues().map((queue) => (random.oneIn(30) ? undefined : queue));
      device.activate({ memory, queues, features: featureWords(target.features(random)), interrupt });
    };
    activate();
    for (let step = random.between(4, 30); step > 0; step--) {
      switch (random.below(10)) {
        case 0:
          if (random.oneIn(6)) rings.scribble();
          break;
        case 1:
          if (!random.oneIn(8)) break;
          device.reset();
          if (!random.oneIn(4)) activate();
          break;
        case 2:
          host.loop.turn(0);
          break;
        case 3:
          target.disturb?.(device, host, rings, random);
          break;
        case 4:
        case 5:
        case 6:
          device.queueNotified(random.below(target.queues + 1));
          break;
        default:
          for (let count = random.between(1, 4); count > 0; count--) target.request(rings, random);
      }
    }
    for (let turns = 0; turns < 3; turns++) host.loop.turn(0);
    device.close();
    broken += interrupt.resets;
    if (host.loop.watched !== 0) throw new Error(`${host.loop.watched} descriptors are still watched`);
    ram.check();
    if (index % 5000 === 0) expect(openDescriptors()).toBe(descriptors + 1); // The loop's own.
  });

  host.loop.close();
  expect(openDescriptors()).toBe(descriptors);
  for (const name of target.counters) totals.set(name, host.count(name));
  const checked = addresses.checked + discards.checked;
  // A single case, run again, need not reach everything.
  if (broken > 10) for (const name of target.reaches) expect([name, totals.get(name)]).not.toEqual([name, 0]);
  process.stdout.write(`${target.name}: ${JSON.stringify({ ...Object.fromEntries(totals), broken, checked })}\n`);
}

/** Cuts `length` bytes at `address` into up to three parts. */
function cut(random: Random, address: number, length: number, writable: boolean) {
  const parts: { address: number; length: number; writable: boolean }[] = [];
  for (let done = 0; done < length;) {
    const piece = parts.length === 2 ? length - done : Math.min(length - done, random.size(length));
    parts.push({ address: address + done, length: piece, writable });
    done += piece;
  }
  return parts;
}

test('no guest, however hostile, gets anything but random bytes in its own RAM from the entropy device', () => {
  const zero = open('/dev/zero', O_RDONLY | O_NONBLOCK);
  attack({
    name: 'rng',
    queues: 1,
    cases: 10_000,
    counters: RNG_COUNTERS,
    make: (host, random) =>
      new RngDevice({ kind: 'rng', fd: random.oneIn(10) ? (-1 as Fd) : zero, path: 'source' }, host.context),
    features: () => [],
    request: (rings, random) => {
      const length = random.size(6000);
      rings.offer(0, cut(random, rings.place(length), length, true));
    },
    reaches: ['bytes', 'requests', 'waits', 'faults'],
  });
  close(zero);
});

test('no guest, however hostile, gives back what is not its own through the balloon', () => {
  const REPORTS = 3;
  attack({
    name: 'balloon',
    queues: 5,
    cases: 10_000,
    counters: BALLOON_COUNTERS,
    make: (host) => new BalloonDevice({ kind: 'balloon', size: 0 }, host.context),
    features: (random) => [0, 1, 2, 4, 5].filter(() => !random.oneIn(5)),
    request: (rings, random) => {
      const queue = random.below(5);
      if (queue >= REPORTS) {
        // Anywhere in RAM, the device's own rings included now and then.
        const from = random.oneIn(8) ? 0 : rings.buffers;
        const length = random.oneIn(3) ? random.size(100_000) : PAGE_SIZE * random.between(1, 8);
        rings.offer(queue, cut(random, from + random.below(50_000), length, true));
        return;
      }
      const words = random.size(600);
      const at = rings.place(4 * words);
      let page = random.below(64);
      for (let index = 0; index < words; index++) {
        page = random.oneIn(4) ? random.below(80) : page + 1;
        // Of the first pages, where the rings are, few.
        const pfn = random.oneIn(50) ? rings.nastyWord() : random.oneIn(20) ? 0x10_0000 + random.below(20) : page;
        rings.view.setUint32(at + 4 * index, pfn < 12 && !random.oneIn(200) ? pfn + 20 : pfn, true);
      }
      rings.offer(queue, cut(random, at, 4 * words, false));
    },
    disturb: (device, host, rings, random) => {
      switch (random.below(3)) {
        case 0:
          new DataView(host.config.buffer).setUint32(4 * random.below(4), rings.nastyWord(), true);
          device.configWritten?.(host.config);
          return;
        case 1:
          device.command?.({ type: 'resize-balloon', size: random.below(64) * PAGE_SIZE });
          return;
        default:
          device.command?.({ type: 'refresh-balloon-statistics' });
      }
    },
    reaches: [
      'inflatedPages',
      'deflatedPages',
      'reportedBytes',
      'returnedBytes',
      'ignoredPages',
      'faults',
      'statisticsUpdates',
    ],
  });
});

test('no guest, however hostile, disturbs persistent memory', () => {
  const directory = mkdtempSync(join(tmpdir(), 'tsvmm-pmem-fuzz-'));
  writeFileSync(join(directory, 'file'), 'contents');
  const fd = open(join(directory, 'file'), O_RDWR);
  // The file system is not the test's subject, and slow.
  const real = libc.fdatasync;
  Object.assign(libc, { fdatasync: (file: number) => (file === fd ? 0 : real(file)) });
  try {
    attack({
      name: 'pmem',
      queues: 1,
      cases: 10_000,
      counters: PMEM_COUNTERS,
      make: (host, random) => {
        const file = random.pick([fd, undefined, -1 as Fd]);
        return new PmemDevice({ kind: 'pmem', fd: file, path: 'file' }, host.context);
      },
      features: () => [],
      request: (rings, random) => {
        const at = rings.place(8);
        rings.view.setUint32(at, random.oneIn(5) ? rings.nastyWord() : 0, true);
        rings.offer(0, [
          { address: at, length: rings.breaks(5) ? random.size(8) : 4 },
          { address: at + 4, length: rings.breaks(5) ? random.size(8) : 4, writable: true },
        ]);
      },
      reaches: ['flushes', 'failedFlushes', 'faults'],
    });
  } finally {
    Object.assign(libc, { fdatasync: real });
    close(fd);
    rmSync(directory, { recursive: true });
  }
});
