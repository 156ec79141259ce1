// The balloon on driven rings, over real memory: what the guest gives up is gone from this process, as the kernel sees it.

import { describe, expect, test } from '@jest/globals';
import { BalloonDevice } from '../../../src/devices/balloon/device.js';
import { PageReturn } from '../../../src/devices/balloon/page-return.js';
import {
  BALLOON_COUNTERS,
  balloonIdentity,
  VIRTIO_BALLOON_F_MUST_TELL_HOST_BIT,
  VIRTIO_BALLOON_F_PAGE_POISON_BIT,
  VIRTIO_BALLOON_F_PAGE_REPORTING_BIT,
  VIRTIO_BALLOON_F_STATS_VQ_BIT,
} from '../../../src/devices/balloon/settings.js';
import { hasFeature } from '../../../src/devices/virtio/device.js';
import { GuestMemory, type MemoryChunk } from '../../../src/platform/guest-memory.js';
import { libc } from '../../../src/platform/libc.js';
import { GIB, guestAddress, MIB, PAGE_SIZE } from '../../../src/platform/units.js';
import { DeviceHost, DrivenDevice } from '../../support/driven-device.js';
import { TestMemory, type UsedEntry } from '../../support/driven-ring.js';
import { allocateRam } from '../../support/guest-ram.js';
import { residentBytes } from '../../support/mappings.js';

const INFLATE = 0;
const DEFLATE = 1;
const STATISTICS = 2;
const REPORTING = 3;
const SIZE = 8 * MIB;
/** Rings and requests are below; pages from here on are the test's to give up. */
const FREE = 256;

const FEATURES = [
  VIRTIO_BALLOON_F_MUST_TELL_HOST_BIT,
  VIRTIO_BALLOON_F_STATS_VQ_BIT,
  VIRTIO_BALLOON_F_PAGE_REPORTING_BIT,
];

class BalloonGuest extends DrivenDevice<BalloonDevice> {
  constructor(features: readonly number[] = FEATURES, size = 0) {
    const host = new DeviceHost(BALLOON_COUNTERS);
    super(
      new BalloonDevice({ kind: 'balloon', size }, host.context),
      host,
      new TestMemory(SIZE / 2, SIZE / 2),
      5,
      features,
    );
    this.ram.memory.chunks.forEach(({ bytes }, index) => bytes.fill(0xa5, index === 0 ? FREE * PAGE_SIZE : 0));
  }

  name(queue: number, pfns: readonly number[]): UsedEntry[] {
    const address = this.ram.allocate(4 * pfns.length);
    pfns.forEach((pfn, index) => {
      this.ram.view.setUint32(address + 4 * index, pfn, true);
    });
    return this.send(queue, [{ address, length: 4 * pfns.length }]);
  }

  /** Bytes of page `pfn` that are in memory. */
  resident(pfn: number, pages = 1): number {
    return Array.from({ length: pages }, (_, index) => {
      const chunk = this.ram.memory.chunkOf((pfn + index) * PAGE_SIZE, PAGE_SIZE);
      return residentBytes(chunk.hostAddress + (pfn + index) * PAGE_SIZE - chunk.guestAddress, PAGE_SIZE);
    }).reduce((sum, bytes) => sum + bytes, 0);
  }

  get residentRam(): number {
    return this.ram.memory.chunks.reduce((sum, { hostAddress, size }) => sum + residentBytes(hostAddress, size), 0);
  }

  tellActual(pages: number): void {
    new DataView(this.host.config.buffer).setUint32(4, pages, true);
    this.device.configWritten(this.host.config);
  }
}

/** Counts the calls that give memory back. */
function countingDiscards<T>(action: () => T): { calls: number; result: T } {
  const calls = libc as { -readonly [K in 'madvise']: (typeof libc)[K] };
  const { madvise } = calls;
  let count = 0;
  calls.madvise = (address, length, advice) => {
    if (advice === 4) count++;
    return madvise(address, length, advice);
  };
  try {
    return { result: action(), calls: count };
  } finally {
    calls.madvise = madvise;
  }
}

const pagesFrom = (first: number, count: number): number[] =>
  Array.from({ length: count }, (_, index) => first + index);

describe('inflating', () => {
  test('takes the pages out of this process, and no others', () => {
    using guest = new BalloonGuest();
    const before = guest.residentRam;
    expect(guest.name(INFLATE, pagesFrom(FREE, 128))).toHaveLength(1);
    expect(guest.resident(FREE, 128)).toBe(0);
    expect(guest.resident(FREE + 128)).toBe(PAGE_SIZE);
    // The request itself has taken a page at most.
    expect(guest.residentRam).toBeLessThanOrEqual(before - 127 * PAGE_SIZE);
    expect(guest.host.count('inflatedPages')).toBe(128);
    expect(guest.host.count('returnedBytes')).toBe(128 * PAGE_SIZE);
    expect(guest.interrupt.used).toBe(1);
  });

  test.each([
    ['ascending', pagesFrom(FREE, 256), 1],
    ['descending', pagesFrom(FREE, 256).reverse(), 1],
    ['twice the same', [FREE, FREE, FREE + 1, FREE + 1], 1],
    ['every other', pagesFrom(FREE, 8).map((pfn) => 2 * pfn), 8],
    ['two runs, mixed', [FREE, FREE + 10, FREE + 1, FREE + 11], 2],
    ['across two chunks of memory', pagesFrom(SIZE / 2 / PAGE_SIZE - 2, 4), 2],
  ])('pages side by side go back in one call: %s', (_name, pfns, expected) => {
    using guest = new BalloonGuest();
    const { calls } = countingDiscards(() => guest.name(INFLATE, pfns));
    expect(calls).toBe(expected);
    for (const pfn of pfns) expect(guest.resident(pfn)).toBe(0);
  });

  test('pages outside RAM are ignored and counted; those beside them go', () => {
    using guest = new BalloonGuest();
    const outside = [SIZE / PAGE_SIZE, SIZE / PAGE_SIZE + 1, 0xffff_ffff, 0x10_0000];
    expect(guest.name(INFLATE, [FREE, ...outside, FREE + 1])).toHaveLength(1);
    expect(guest.host.count('ignoredPages')).toBe(4);
    expect(guest.host.count('faults')).toBe(1);
    expect(guest.resident(FREE, 2)).toBe(0);
    expect(guest.host.logged).toEqual(['the guest driver named pages that are no RAM (4)']);
  });

  test('a list that is no list of page numbers takes nothing', () => {
    using guest = new BalloonGuest();
    const address = guest.ram.allocate(8);
    guest.ram.view.setUint32(address, FREE, true);
    expect(guest.send(INFLATE, [{ address, length: 3 }])).toHaveLength(1);
    expect(guest.send(INFLATE, [{ address, length: 4, writable: true }])).toHaveLength(1);
    expect(guest.resident(FREE)).toBe(PAGE_SIZE);
    // What is left over at the end is no page number either.
    expect(guest.send(INFLATE, [{ address, length: 7 }])).toHaveLength(1);
    expect(guest.resident(FREE)).toBe(0);
    expect(guest.host.count('inflatedPages')).toBe(1);
  });

  test('a list of more pages than any driver names is looked at in part', () => {
    using guest = new BalloonGuest();
    const length = MIB;
    guest.send(INFLATE, [{ address: SIZE / 2, length }]);
    expect(guest.host.count('inflatedPages')).toBe(65_536);
    expect(guest.host.count('faults')).toBeGreaterThanOrEqual(1);
  });

  test('a page that the guest takes back reads as zeroes and can be written', () => {
    using guest = new BalloonGuest();
    guest.name(INFLATE, [FREE]);
    expect(guest.name(DEFLATE, [FREE])).toHaveLength(1);
    expect(guest.host.count('deflatedPages')).toBe(1);
    expect(guest.ram.bytes[FREE * PAGE_SIZE]).toBe(0);
    guest.ram.bytes[FREE * PAGE_SIZE] = 1;
    expect(guest.resident(FREE)).toBe(PAGE_SIZE);
  });

  test('a guest that gives up the rings under the device is asked to reset', () => {
    using guest = new BalloonGuest();
    guest.name(INFLATE, pagesFrom(0, 64));
    guest.name(INFLATE, [FREE]);
    expect(guest.interrupt.resets).toBeLessThanOrEqual(1);
    guest.device.reset();
    guest.activate(FEATURES);
    guest.name(INFLATE, [FREE]);
    expect(guest.resident(FREE)).toBe(0);
  });
});

describe('the size', () => {
  const numPages = (guest: BalloonGuest): number => new DataView(guest.host.config.buffer).getUint32(0, true);

  test('a resize is written to the configuration space', () => {
    using guest = new BalloonGuest();
    guest.device.command({ type: 'resize-balloon', size: 3 * MIB });
    expect(numPages(guest)).toBe((3 * MIB) / PAGE_SIZE);
    expect(guest.host.count('targetBytes')).toBe(3 * MIB);
  });

  test('what the guest says that it gave up can be read, until it resets', () => {
    using guest = new BalloonGuest();
    guest.tellActual(100);
    expect(guest.host.count('actualBytes')).toBe(100 * PAGE_SIZE);
    guest.device.reset();
    expect(guest.host.count('actualBytes')).toBe(0);
    expect([...guest.host.config.subarray(4, 8)]).toEqual([0, 0, 0, 0]);
  });

  test('the initial size is in the configuration space, and only `actual` may be written', () => {
    const identity = balloonIdentity({ size: 2 * MIB, deflateOnOom: true, freePageReporting: false });
    expect(new DataView(identity.config.buffer).getUint32(0, true)).toBe(512);
    expect(identity.writableConfig).toEqual([{ offset: 4, length: 4 }]);
    expect(hasFeature(identity.features, 2)).toBe(true);
    expect(hasFeature(identity.features, VIRTIO_BALLOON_F_PAGE_REPORTING_BIT)).toBe(false);
  });

  test('reporting is offered with the means to say what free pages are filled with', () => {
    const identity = balloonIdentity({ size: 0, deflateOnOom: false, freePageReporting: true });
    expect(hasFeature(identity.features, VIRTIO_BALLOON_F_PAGE_REPORTING_BIT)).toBe(true);
    expect(hasFeature(identity.features, VIRTIO_BALLOON_F_PAGE_POISON_BIT)).toBe(true);
    expect(identity.writableConfig).toContainEqual({ offset: 12, length: 4 });
  });
});

describe('statistics', () => {
  function tell(guest: BalloonGuest, entries: readonly (readonly [number, bigint])[]): UsedEntry[] {
    const address = guest.ram.allocate(10 * entries.length);
    entries.forEach(([tag, value], index) => {
      guest.ram.view.setUint16(address + 10 * index, tag, true);
      guest.ram.view.setBigUint64(address + 10 * index + 2, value, true);
    });
    return guest.send(STATISTICS, [{ address, length: 10 * entries.length }]);
  }

  test('the buffer is kept until new ones are asked for; the last can be read', () => {
    using guest = new BalloonGuest();
    expect(
      tell(guest, [
        [4, 123_456n],
        [5, 999_999n],
        [77, 5n],
        [6, 0xffff_ffff_ffff_ffffn],
      ]),
    ).toEqual([]);
    expect(guest.host.count('freeBytes')).toBe(123_456);
    expect(guest.host.count('totalBytes')).toBe(999_999);
    expect(guest.host.count('availableBytes')).toBe(0);
    expect(guest.host.count('statisticsUpdates')).toBe(1);

    guest.device.command({ type: 'refresh-balloon-statistics' });
    expect(guest.rings[STATISTICS].collect()).toHaveLength(1);
    expect(guest.interrupt.used).toBe(1);
    // Nothing is kept now: there is nothing to give back.
    guest.device.command({ type: 'refresh-balloon-statistics' });
    expect(guest.rings[STATISTICS].collect()).toEqual([]);
    tell(guest, [[4, 7n]]);
    expect(guest.host.count('freeBytes')).toBe(7);
    expect(guest.host.count('statisticsUpdates')).toBe(2);
  });

  test('they are renewed when the guest has given up what was asked for', () => {
    using guest = new BalloonGuest(FEATURES, 4 * PAGE_SIZE);
    tell(guest, [[4, 1n]]);
    guest.tellActual(3);
    expect(guest.rings[STATISTICS].collect()).toEqual([]);
    guest.tellActual(4);
    expect(guest.rings[STATISTICS].collect()).toHaveLength(1);
  });

  test('a driver that sends more buffers gets the older ones back', () => {
    using guest = new BalloonGuest();
    tell(guest, [[4, 1n]]);
    expect(tell(guest, [[4, 2n]])).toHaveLength(1);
    expect(guest.host.count('freeBytes')).toBe(2);
  });

  test('a machine that is paused has every buffer back, and what the balloon knows can be kept', () => {
    using guest = new BalloonGuest();
    tell(guest, [[4, 1n]]);
    guest.device.command({ type: 'resize-balloon', size: MIB });
    guest.tellActual(7);
    guest.device.quiesce();
    expect(guest.rings[STATISTICS].collect()).toHaveLength(1);
    const state = guest.device.save();
    using restored = new BalloonGuest();
    restored.device.restore(state);
    expect(restored.host.count('targetBytes')).toBe(MIB);
    expect(restored.host.count('actualBytes')).toBe(7 * PAGE_SIZE);
    expect(() => {
      restored.device.restore({});
    }).toThrow('a balloon has its target');
  });

  test('a buffer that was kept over a reset is not given to the next driver', () => {
    using guest = new BalloonGuest();
    tell(guest, [[4, 1n]]);
    guest.device.reset();
    guest.activate(FEATURES);
    guest.device.command({ type: 'refresh-balloon-statistics' });
    expect(guest.rings[STATISTICS].collect()).toEqual([]);
  });
});

describe('free page reporting', () => {
  test.each([
    ['with the number that Linux gives the queue', FEATURES, REPORTING],
    ['with the specification’s number', FEATURES, 4],
    ['without a statistics queue', [VIRTIO_BALLOON_F_PAGE_REPORTING_BIT], 2],
  ])('returns what is reported, %s', (_name, features, queue) => {
    using guest = new BalloonGuest(features);
    const report = [
      { address: FREE * PAGE_SIZE, length: 16 * PAGE_SIZE, writable: true },
      { address: (FREE + 16) * PAGE_SIZE, length: 16 * PAGE_SIZE, writable: true },
      { address: SIZE / 2 + MIB, length: MIB, writable: true },
    ];
    const { calls, result } = countingDiscards(() => guest.send(queue, report));
    expect(result).toHaveLength(1);
    expect(calls).toBe(2);
    expect(guest.resident(FREE, 32)).toBe(0);
    expect(guest.resident((SIZE / 2 + MIB) / PAGE_SIZE, 256)).toBe(0);
    expect(guest.host.count('reportedBytes')).toBe(MIB + 32 * PAGE_SIZE);
  });

  test('of what is no whole page, only whole pages go', () => {
    using guest = new BalloonGuest();
    guest.send(REPORTING, [{ address: FREE * PAGE_SIZE + 1, length: 3 * PAGE_SIZE, writable: true }]);
    expect([0, 1, 2, 3].map((index) => guest.resident(FREE + index))).toEqual([PAGE_SIZE, 0, 0, PAGE_SIZE]);
    guest.send(REPORTING, [{ address: (FREE + 8) * PAGE_SIZE + 1, length: 100, writable: true }]);
    expect(guest.resident(FREE + 8)).toBe(PAGE_SIZE);
  });

  test('a guest that fills free pages with a pattern keeps them', () => {
    using guest = new BalloonGuest([...FEATURES, VIRTIO_BALLOON_F_PAGE_POISON_BIT]);
    const report = [{ address: FREE * PAGE_SIZE, length: PAGE_SIZE, writable: true }];
    new DataView(guest.host.config.buffer).setUint32(12, 0xaaaa_aaaa, true);
    guest.device.configWritten(guest.host.config);
    expect(guest.send(REPORTING, report)).toHaveLength(1);
    expect(guest.resident(FREE)).toBe(PAGE_SIZE);
    // Zeroes are what it would find.
    new DataView(guest.host.config.buffer).setUint32(12, 0, true);
    guest.device.configWritten(guest.host.config);
    guest.send(REPORTING, report);
    expect(guest.resident(FREE)).toBe(0);
  });
});

describe('memory in other shapes', () => {
  test('a memory file has holes where pages were given up', () => {
    using ram = allocateRam({ gpa: 0, size: MIB }, { gpa: 4 * GIB, size: MIB });
    for (const { bytes } of ram.memory.chunks) bytes.fill(1);
    const pages = new PageReturn(ram.memory, true);
    pages.giveUp(3);
    pages.giveUp((4 * GIB) / PAGE_SIZE + 5);
    pages.flush();
    expect(pages.returnedBytes).toBe(2 * PAGE_SIZE);
    expect(ram.memory.read(3 * PAGE_SIZE - 1, PAGE_SIZE + 2)).toEqual(
      Uint8Array.from({ length: PAGE_SIZE + 2 }, (_, index) => (index === 0 || index === PAGE_SIZE + 1 ? 1 : 0)),
    );
    expect(ram.memory.read(4 * GIB + 5 * PAGE_SIZE, PAGE_SIZE).every((byte) => byte === 0)).toBe(true);
  });

  test('a huge page goes when the last of its small pages was given up, and not before', () => {
    using ram = allocateRam({ gpa: 0, size: 8 * MIB });
    const chunk = ram.map[0];
    // A memory file can be punched at any page; that it is done by huge pages is what counts here.
    const huge: MemoryChunk = {
      ...chunk,
      backing: { kind: 'memory-file', fd: ram.fd, offset: 0, pageSize: 2 * MIB },
    };
    const memory = new GuestMemory([huge]);
    memory.chunks[0].bytes.fill(1);
    const pages = new PageReturn(memory, true);
    const order = pagesFrom(512, 512).sort((a, b) => ((a * 37) % 512) - ((b * 37) % 512));
    for (const pfn of order.slice(0, -1)) pages.giveUp(pfn);
    pages.flush();
    expect(pages.returnedBytes).toBe(0);
    // One comes back, and one is given up twice: still not all.
    pages.takeBack(order[0]);
    pages.giveUp(order[511]);
    pages.giveUp(order[511]);
    pages.flush();
    expect(pages.returnedBytes).toBe(0);
    pages.giveUp(order[0]);
    pages.flush();
    expect(pages.returnedBytes).toBe(2 * MIB);
    expect(residentBytes(chunk.hostAddress + 2 * MIB, 2 * MIB)).toBe(0);
    expect(residentBytes(chunk.hostAddress, 2 * MIB)).toBe(2 * MIB);
    // A report goes by whole ones, too.
    pages.returnRange(0, 3 * MIB, 4 * MIB);
    pages.flush();
    expect(pages.returnedBytes).toBe(4 * MIB);
    expect(residentBytes(chunk.hostAddress + 4 * MIB, 2 * MIB)).toBe(0);
    expect(residentBytes(chunk.hostAddress + 6 * MIB, 2 * MIB)).toBe(2 * MIB);
  });

  test('a guest that may use pages before it says so keeps its huge pages', () => {
    using ram = allocateRam({ gpa: 0, size: 4 * MIB });
    const memory = new GuestMemory([
      { ...ram.map[0], backing: { kind: 'memory-file', fd: ram.fd, offset: 0, pageSize: 2 * MIB } },
    ]);
    const pages = new PageReturn(memory, false);
    for (const pfn of pagesFrom(512, 512)) pages.giveUp(pfn);
    pages.flush();
    expect(pages.returnedBytes).toBe(0);
    // What it reports as free it does not use until it has its answer.
    pages.returnRange(0, 2 * MIB, 2 * MIB);
    pages.flush();
    expect(pages.returnedBytes).toBe(2 * MIB);
  });

  test('the memory of another device is never given back', () => {
    using ram = allocateRam({ gpa: 0, size: MIB }, { gpa: GIB, size: MIB });
    const device: MemoryChunk = { ...ram.map[1], backing: { kind: 'device' } };
    const memory = new GuestMemory([ram.map[0], device]);
    memory.chunks[1].bytes.fill(1);
    const pages = new PageReturn(memory, true);
    pages.giveUp(GIB / PAGE_SIZE);
    pages.takeBack(GIB / PAGE_SIZE);
    pages.returnRange(1, 0, MIB);
    pages.flush();
    expect(pages.returnedBytes).toBe(0);
    expect(pages.ignoredPages).toBe(2 + MIB / PAGE_SIZE);
    expect(memory.read(guestAddress(GIB), 1)[0]).toBe(1);
  });

  test('what the host refuses is counted', () => {
    using ram = allocateRam({ gpa: 0, size: MIB });
    const memory = new GuestMemory([
      { ...ram.map[0], backing: { kind: 'memory-file', fd: -1 as typeof ram.fd, offset: 0, pageSize: PAGE_SIZE } },
    ]);
    const pages = new PageReturn(memory, true);
    pages.giveUp(1);
    pages.flush();
    expect([pages.failures, pages.returnedBytes]).toEqual([1, 0]);
    expect(pages.lastErrno).toBeGreaterThan(0);
  });
});
