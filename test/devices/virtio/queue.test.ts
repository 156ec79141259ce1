import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { DescriptorChain, MAX_CHAIN_SEGMENTS } from '../../../src/devices/virtio/chain.js';
import { BAD_CHAIN, BROKEN, CHAIN, EMPTY, QueueLayoutError, SplitQueue } from '../../../src/devices/virtio/queue.js';
import { MIB, PAGE_SIZE } from '../../../src/platform/units.js';
import { DrivenRing, TestMemory, type TestBuffer } from '../../support/driven-ring.js';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

let ram: TestMemory;
let ring: DrivenRing;
let queue: SplitQueue;
let chain: DescriptorChain;

function start(size = 8, features = { eventIdx: true, indirect: true }, ...memory: number[]): void {
  ram = new TestMemory(...(memory.length > 0 ? memory : [MIB]));
  ring = new DrivenRing(ram, size);
  queue = ring.device(features);
  chain = new DescriptorChain(ram.memory);
}

beforeEach(() => {
  start();
});

afterEach(() => {
  ram.release();
});

/** What the chain says, as plain values. */
function segments(): { address: number; length: number; writable: boolean }[] {
  return Array.from({ length: chain.count }, (_, index) => ({
    address: ram.memory.chunks[chain.chunks[index]].guestAddress + chain.offsets[index],
    length: chain.lengths[index],
    writable: index >= chain.readableCount,
  }));
}

describe('taking chains', () => {
  test('an empty ring gives nothing', () => {
    expect(queue.pop(chain)).toBe(EMPTY);
    expect(queue.pending()).toBe(0);
  });

  test('a chain of readable and writable buffers arrives in order', () => {
    const head = ring.add([
      { address: 0x8000, length: 44 },
      { address: 0x9000, length: 100 },
      { address: 0xa000, length: 4096, writable: true },
    ]);
    expect(queue.pending()).toBe(1);
    expect(queue.pop(chain)).toBe(CHAIN);
    expect(chain.head).toBe(head);
    expect([chain.readableBytes, chain.writableBytes, chain.readableCount]).toEqual([144, 4096, 2]);
    expect(segments()).toEqual([
      { address: 0x8000, length: 44, writable: false },
      { address: 0x9000, length: 100, writable: false },
      { address: 0xa000, length: 4096, writable: true },
    ]);
    expect(queue.pop(chain)).toBe(EMPTY);
  });

  test('an indirect table is followed', () => {
    ring.addIndirect([
      { address: 0x8000, length: 44 },
      { address: 0x9000, length: 10, writable: true },
    ]);
    expect(queue.pop(chain)).toBe(CHAIN);
    expect(segments()).toEqual([
      { address: 0x8000, length: 44, writable: false },
      { address: 0x9000, length: 10, writable: true },
    ]);
  });

  test('direct descriptors may lead to an indirect one', () => {
    const table = ram.allocate(16);
    ring.describe(0, 0x9000, 20, 0, 0, table);
    ring.describe(3, 0x8000, 10, NEXT, 5);
    ring.describe(5, table, 16, INDIRECT, 0);
    ring.offerHead(3);
    expect(queue.pop(chain)).toBe(CHAIN);
    expect(segments().map((segment) => segment.length)).toEqual([10, 20]);
  });

  test('an indirect table as long as the queue allows is taken, one segment more is not', () => {
    const buffer = { address: 0x8000, length: 1 };
    ring.addIndirect(Array<TestBuffer>(MAX_CHAIN_SEGMENTS).fill(buffer));
    expect(queue.pop(chain)).toBe(CHAIN);
    expect(chain.count).toBe(MAX_CHAIN_SEGMENTS);
    ring.addIndirect(Array<TestBuffer>(MAX_CHAIN_SEGMENTS + 1).fill(buffer));
    expect(queue.pop(chain)).toBe(BAD_CHAIN);
  });

  test('buffers without a byte are skipped', () => {
    ring.add([
      { address: 0x8000, length: 0 },
      { address: 0x9000, length: 5 },
    ]);
    expect(queue.pop(chain)).toBe(CHAIN);
    expect(segments()).toEqual([{ address: 0x9000, length: 5, writable: false }]);
  });

  test('a buffer that crosses two chunks of memory becomes two segments, host addresses included', () => {
    ram.release();
    start(8, { eventIdx: true, indirect: true }, MIB, MIB, MIB);
    ring.add([{ address: MIB - 100, length: MIB + 200 }]);
    expect(queue.pop(chain)).toBe(CHAIN);
    expect(segments().map(({ address, length }) => [address, length])).toEqual([
      [MIB - 100, 100],
      [MIB, MIB],
      [2 * MIB, 100],
    ]);
    expect(chain.hostAddress(1, 7)).toBe(ram.memory.chunks[1].hostAddress + 7);
  });

  test('unpop makes the next pop take the same chain again', () => {
    const first = ring.add([{ address: 0x8000, length: 1 }]);
    const second = ring.add([{ address: 0x9000, length: 1 }]);
    queue.pop(chain);
    queue.pop(chain);
    expect(chain.head).toBe(second);
    queue.unpop();
    queue.unpop();
    queue.pop(chain);
    expect(chain.head).toBe(first);
    expect(queue.pending()).toBe(1);
  });
});

describe('rule 3: malformed chains are refused, and the ring goes on', () => {
  const refused = (name: string, make: () => void): void => {
    test(name, () => {
      make();
      ring.add([{ address: 0x8000, length: 1 }]);
      expect(queue.pop(chain)).toBe(BAD_CHAIN);
      queue.addUsed(chain.head, 0);
      expect(queue.pop(chain)).toBe(CHAIN);
    });
  };
  // The tests take descriptors from the top; DrivenRing hands out those from the bottom.
  const bad = (address: number | bigint, length: number, flags = 0, next = 0): void => {
    ring.describe(7, address, length, flags, next);
    ring.offerHead(7);
  };
  refused('an address outside RAM', () => {
    bad(MIB, 1);
  });
  refused('a buffer that ends outside RAM', () => {
    bad(MIB - 1, 2);
  });
  refused('an address near 2^64', () => {
    bad(0xffff_ffff_ffff_fff0n, 0x20);
  });
  refused('an address whose upper half alone is wrong', () => {
    bad(0x1_0000_8000n, 4);
  });
  refused('a length near 2^32', () => {
    bad(0x8000, 0xffff_ffff);
  });
  refused('a loop of one', () => {
    bad(0x8000, 1, NEXT, 7);
  });
  refused('a loop of two', () => {
    ring.describe(6, 0x8000, 1, NEXT, 7);
    bad(0x8000, 1, NEXT, 6);
  });
  refused('a next descriptor outside the table', () => {
    bad(0x8000, 1, NEXT, 8);
  });
  refused('a readable buffer after a writable one', () => {
    ring.describe(6, 0x8000, 1, 0, 0);
    bad(0x8000, 1, NEXT | WRITE, 6);
  });
  refused('an indirect descriptor with NEXT', () => {
    bad(0x8000, 16, NEXT | INDIRECT, 6);
  });
  refused('an indirect table of no entries', () => {
    bad(0x8000, 0, INDIRECT);
  });
  refused('an indirect table of one entry and a half', () => {
    bad(0x8000, 24, INDIRECT);
  });
  refused('an indirect table outside RAM', () => {
    bad(MIB, 16, INDIRECT);
  });
  refused('an indirect table that ends outside RAM', () => {
    bad(MIB - 16, 32, INDIRECT);
  });
  refused('an indirect table at an odd address', () => {
    bad(0x8002, 16, INDIRECT);
  });
  refused('an indirect table within an indirect table', () => {
    const table = ram.allocate(16);
    ring.describe(0, 0x8000, 16, INDIRECT, 0, table);
    bad(table, 16, INDIRECT);
  });
  refused('a loop inside an indirect table', () => {
    const table = ram.allocate(32);
    ring.describe(0, 0x8000, 1, NEXT, 1, table);
    ring.describe(1, 0x8000, 1, NEXT, 0, table);
    bad(table, 32, INDIRECT);
  });
  refused('a next entry outside the indirect table', () => {
    const table = ram.allocate(32);
    ring.describe(0, 0x8000, 1, NEXT, 2, table);
    bad(table, 32, INDIRECT);
  });

  test('an indirect descriptor when the driver did not accept the feature', () => {
    const plain = ring.device({ eventIdx: false, indirect: false });
    ring.addIndirect([{ address: 0x8000, length: 1 }]);
    expect(plain.pop(chain)).toBe(BAD_CHAIN);
  });
});

describe('rule 3: a ring that makes no sense is broken', () => {
  test('a head outside the table', () => {
    ring.offerHead(8);
    expect(queue.pop(chain)).toBe(BROKEN);
  });

  test.each([9, 100, 0x8000, 0xffff])('an available index that is %i ahead', (ahead) => {
    ram.view.setUint16(ring.layout.availableRing + 2, ahead, true);
    expect(queue.pop(chain)).toBe(BROKEN);
  });

  test('an available index that is too far ahead, when pending() was asked first', () => {
    ram.view.setUint16(ring.layout.availableRing + 2, 9, true);
    expect(queue.pending()).toBeGreaterThan(queue.size);
    expect(queue.pop(chain)).toBe(BROKEN);
  });

  test('an available index that goes back', () => {
    ring.add([{ address: 0x8000, length: 1 }]);
    queue.pop(chain);
    ram.view.setUint16(ring.layout.availableRing + 2, 0, true);
    expect(queue.pop(chain)).toBe(BROKEN);
  });
});

describe('layout', () => {
  const layout = { size: 8, descriptorTable: 0x1000, availableRing: 0x2000, usedRing: 0x3000 };
  const features = { eventIdx: true, indirect: true };
  test.each([
    ['a size of 0', { size: 0 }],
    ['a size that is no power of two', { size: 12 }],
    ['a size beyond 32768', { size: 65536 }],
    ['a misaligned descriptor table', { descriptorTable: 0x1008 }],
    ['a misaligned available ring', { availableRing: 0x2001 }],
    ['a misaligned used ring', { usedRing: 0x3002 }],
    ['a descriptor table outside RAM', { descriptorTable: MIB }],
    ['an available ring that ends outside RAM', { availableRing: MIB - 16 }],
    ['a used ring that ends outside RAM', { usedRing: MIB - 64 }],
  ])('%s is refused', (_name, change) => {
    expect(() => new SplitQueue(ram.memory, { ...layout, ...change }, features)).toThrow(QueueLayoutError);
  });

  test('a ring across two chunks is refused: it is read without looking at chunks', () => {
    ram.release();
    start(8, features, MIB, MIB);
    expect(() => new SplitQueue(ram.memory, { ...layout, descriptorTable: MIB - 16 }, features)).toThrow(
      QueueLayoutError,
    );
  });
});

describe('giving chains back', () => {
  test('staged entries become visible with publish, all at once', () => {
    const heads = [1, 2, 3].map((length) => ring.add([{ address: 0x8000, length }]));
    for (const head of heads) {
      queue.pop(chain);
      queue.addUsed(head, head + 10);
    }
    expect(ring.collect()).toEqual([]);
    queue.publish();
    expect(ring.collect()).toEqual(heads.map((id) => ({ id, length: id + 10 })));
  });

  test('publishing nothing wants no interrupt', () => {
    expect(queue.publish()).toBe(false);
  });

  test('without EVENT_IDX: VIRTQ_AVAIL_F_NO_INTERRUPT decides', () => {
    const plain = ring.device({ eventIdx: false, indirect: false });
    plain.addUsed(0, 0);
    expect(plain.publish()).toBe(true);
    ring.setAvailFlags(1);
    plain.addUsed(0, 0);
    expect(plain.publish()).toBe(false);
  });

  test('without EVENT_IDX: suppressing and arming set and clear VIRTQ_USED_F_NO_NOTIFY', () => {
    const plain = ring.device({ eventIdx: false, indirect: false });
    plain.suppressNotifications();
    expect(ring.usedFlags).toBe(1);
    expect(plain.armNotifications()).toBe(false);
    expect(ring.usedFlags).toBe(0);
  });

  test('with EVENT_IDX: arming publishes the next index to be taken', () => {
    ring.add([{ address: 0x8000, length: 1 }]);
    queue.pop(chain);
    expect(queue.armNotifications()).toBe(false);
    expect(ring.availEvent).toBe(1);
  });

  test('arming reports a chain that came meanwhile', () => {
    ring.add([{ address: 0x8000, length: 1 }]);
    expect(queue.armNotifications()).toBe(true);
  });

  test('with EVENT_IDX: an interrupt exactly when the used index passes used_event, wherever the indices stand', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 0xffff }),
        fc.integer({ min: 1, max: 8 }),
        fc.integer({ min: -20, max: 20 }),
        (start, count, distance) => {
          const device = ring.device();
          ring.startAt(start, device);
          ring.setUsedEvent(start + distance);
          for (let index = 0; index < count; index++) device.addUsed(0, 0);
          // The entry with index used_event is among those just published.
          expect(device.publish()).toBe(distance >= 0 && distance < count);
        },
      ),
    );
  });
});

describe('as a whole', () => {
  test('any sequence of chains, in any grouping, comes through in order and comes back in order', () => {
    const chunk = 64 * 1024;
    const buffers = fc.array(fc.record({ length: fc.integer({ min: 1, max: 3000 }), writable: fc.boolean() }), {
      minLength: 1,
      maxLength: 4,
    });
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 0xffff }),
        fc.array(fc.record({ buffers, indirect: fc.boolean(), batch: fc.integer({ min: 1, max: 4 }) }), {
          minLength: 1,
          maxLength: 40,
        }),
        (startIndex, chains) => {
          using memory = new TestMemory(chunk, MIB);
          const driver = new DrivenRing(memory, 16);
          const device = driver.device();
          driver.startAt(startIndex, device);
          const popped = new DescriptorChain(memory.memory);
          const expected: { id: number; length: number }[] = [];
          const returned: { id: number; length: number }[] = [];
          let sinceTaken = 0;
          for (const { buffers: wanted, indirect, batch } of chains) {
            // Around the border of the chunks, readable ones first.
            const placed = [...wanted]
              .sort((a, b) => Number(a.writable) - Number(b.writable))
              .map((buffer, index) => ({ ...buffer, address: chunk - 2000 + index * 700 }));
            if (indirect) driver.addIndirect(placed);
            else driver.add(placed);
            if (++sinceTaken < batch) continue;
            sinceTaken = 0;
            while (device.pop(popped) === CHAIN) {
              expect(popped.readableBytes + popped.writableBytes).toBe(
                popped.lengths.subarray(0, popped.count).reduce((sum, length) => sum + length, 0),
              );
              device.addUsed(popped.head, popped.writableBytes);
              expected.push({ id: popped.head, length: popped.writableBytes });
            }
            device.publish();
            returned.push(...driver.collect());
          }
          expect(returned).toEqual(expected);
        },
      ),
      { numRuns: 100 },
    );
  });

  test('rule 3: random descriptors never throw, never name memory outside RAM, and never take for ever', () => {
    const descriptor = fc.record({
      address: fc.oneof(fc.integer({ min: 0, max: 2 * MIB }), fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn })),
      length: fc.oneof(fc.integer({ min: 0, max: 8192 }), fc.integer({ min: 0, max: 0xffff_ffff })),
      flags: fc.integer({ min: 0, max: 7 }),
      next: fc.integer({ min: 0, max: 9 }),
    });
    fc.assert(
      fc.property(
        fc.array(descriptor, { minLength: 8, maxLength: 8 }),
        fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 12 }),
        (descriptors, heads) => {
          const device = ring.device();
          ring.startAt(0, device);
          descriptors.forEach(({ address, length, flags, next }, index) => {
            ring.describe(index, address, length, flags, next);
          });
          for (const head of heads) ring.offerHead(head);
          for (let taken = 0; taken < 20; taken++) {
            const result = device.pop(chain);
            if (result === EMPTY || result === BROKEN) break;
            if (result === BAD_CHAIN) continue;
            for (const { address, length } of segments()) {
              expect(ram.memory.contains(address, length)).toBe(true);
            }
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe('copying', () => {
  const pattern = Uint8Array.from({ length: 256 }, (_, index) => index);

  test('copyFromReadable joins what is spread over many segments, from any place', () => {
    const lengths = [1, 3, 40, 5, 51];
    let address = 3 * PAGE_SIZE + 1;
    let done = 0;
    const buffers = lengths.map((length) => {
      ram.bytes.set(pattern.subarray(done, done + length), address);
      const buffer = { address, length };
      address += length + 13;
      done += length;
      return buffer;
    });
    ring.add(buffers);
    queue.pop(chain);
    const target = new Uint8Array(100);
    for (const skip of [0, 1, 2, 30, 44, 99]) {
      target.fill(0);
      expect(chain.copyFromReadable(skip, target, 100)).toBe(100 - skip);
      expect([...target.subarray(0, 100 - skip)]).toEqual([...pattern.subarray(skip, 100)]);
    }
    expect(chain.copyFromReadable(100, target, 1)).toBe(0);
  });

  test('copyToWritable spreads over many segments, and leaves readable ones alone', () => {
    ring.add([
      { address: 0x8000, length: 10 },
      { address: 0x9000, length: 3, writable: true },
      { address: 0xa000, length: 5, writable: true },
    ]);
    queue.pop(chain);
    expect(chain.copyToWritable(1, pattern.subarray(100), 20)).toBe(7);
    expect([...ram.bytes.subarray(0x9000, 0x9003)]).toEqual([0, 100, 101]);
    expect([...ram.bytes.subarray(0xa000, 0xa005)]).toEqual([102, 103, 104, 105, 106]);
    expect([...ram.bytes.subarray(0x8000, 0x800a)]).toEqual(Array(10).fill(0));
  });

  test('copyWordsFromReadable takes aligned words of one segment, and nothing else', () => {
    const target = new Uint32Array(2);
    ram.bytes.set(pattern.subarray(0, 8), 0x8000);
    ring.add([{ address: 0x8000, length: 8 }]);
    ring.add([{ address: 0x8002, length: 8 }]);
    ring.add([{ address: 0x8000, length: 7 }]);
    ring.add([{ address: 0x8000, length: 8, writable: true }]);
    queue.pop(chain);
    expect(chain.copyWordsFromReadable(target)).toBe(true);
    expect([...target]).toEqual([0x03020100, 0x07060504]);
    for (let refusedOnes = 0; refusedOnes < 3; refusedOnes++) {
      queue.pop(chain);
      expect(chain.copyWordsFromReadable(target)).toBe(false);
    }
  });
});
