// The block device on a driven ring: every request, refusals, order, cache modes, limits.

import { afterEach, describe, expect, test } from '@jest/globals';
import { VIRTIO_BLK_F_CONFIG_WCE_BIT, VIRTIO_BLK_F_FLUSH_BIT } from '../../../src/devices/block/settings.js';
import {
  BlockGuest,
  DISCARD,
  FLUSH,
  GET_ID,
  IN,
  IOERR,
  OK,
  OUT,
  pattern,
  ranges,
  UNSUPP,
  WRITE_ZEROES,
  type BlockGuestOptions,
} from './block-guest.js';
import { MemoryImage } from './memory-image.js';

const SECTORS = 256;
const SIZE = SECTORS * 512;

const guests: BlockGuest[] = [];
afterEach(() => {
  for (const guest of guests.splice(0)) guest[Symbol.dispose]();
});

function guestWith(options: BlockGuestOptions = {}) {
  const image = new MemoryImage(SIZE);
  const guest = new BlockGuest({ image, ...options });
  guests.push(guest);
  return { image, guest };
}

describe('transfers', () => {
  test('a write puts the bytes on the disk, a read gives them back', () => {
    const { image, guest } = guestWith();
    const data = pattern(4096, 1);
    expect(guest.do({ type: OUT, sector: 8, data })).toMatchObject({ status: OK, used: 1 });
    expect(image.bytes.slice(4096, 8192)).toEqual(data);
    expect(image.bytes.slice(0, 4096).every((byte) => byte === 0)).toBe(true);
    const read = guest.do({ type: IN, sector: 8, space: 4096 });
    expect(read).toMatchObject({ status: OK, used: 4097 });
    expect(read.data).toEqual(data);
  });

  test.each([
    ['header and data in one descriptor', [4112]],
    ['a header in pieces', [3, 5, 8, 4096]],
    ['a header that ends inside a descriptor', [20, 100, 512]],
    ['descriptors of one byte', [1]],
  ])('the driver cuts requests as it likes: %s', (_name, cuts) => {
    const { image, guest } = guestWith({ queueSize: 1024 });
    const data = pattern(512, 2);
    expect(guest.do({ type: OUT, sector: 3, data, readableCut: cuts })).toMatchObject({ status: OK });
    expect(image.bytes.slice(1536, 2048)).toEqual(data);
    for (const writableCut of [[513], [512, 1], [1], [100, 412, 1], [511, 2]]) {
      const read = guest.do({ type: IN, sector: 3, space: 512, writableCut });
      expect(read).toMatchObject({ status: OK, used: 513 });
      expect(read.data).toEqual(data);
    }
  });

  test('indirect descriptors', () => {
    const { image, guest } = guestWith();
    const data = pattern(2048, 3);
    expect(guest.do({ type: OUT, sector: 0, data, indirect: true })).toMatchObject({ status: OK });
    expect(image.bytes.slice(0, 2048)).toEqual(data);
  });

  test('the last sector is in range, and the one after it is not', () => {
    const { guest } = guestWith();
    expect(guest.do({ type: IN, sector: SECTORS - 1, space: 512 }).status).toBe(OK);
    expect(guest.do({ type: IN, sector: SECTORS, space: 512 })).toMatchObject({ status: IOERR, used: 0 });
    expect(guest.do({ type: IN, sector: SECTORS - 1, space: 1024 }).status).toBe(IOERR);
  });

  test.each([2n ** 32n, 2n ** 53n, 2n ** 55n, 2n ** 63n, 2n ** 64n - 1n])('sector %s is out of range', (sector) => {
    const { image, guest } = guestWith();
    expect(guest.do({ type: OUT, sector, data: new Uint8Array(512) }).status).toBe(IOERR);
    expect(guest.do({ type: IN, sector, space: 512 }).status).toBe(IOERR);
    expect(image.calls).toEqual([]);
  });

  test.each([1, 511, 513, 4095])('%i bytes are no sectors', (length) => {
    const { image, guest } = guestWith();
    expect(guest.do({ type: OUT, data: new Uint8Array(length) }).status).toBe(IOERR);
    expect(guest.do({ type: IN, space: length }).status).toBe(IOERR);
    expect(image.calls).toEqual([]);
    expect(guest.count('guest_faults')).toBe(2);
  });

  test('a transfer of nothing moves nothing and is answered', () => {
    const { image, guest } = guestWith();
    expect(guest.do({ type: IN })).toMatchObject({ status: OK, used: 1 });
    expect(guest.do({ type: OUT })).toMatchObject({ status: OK, used: 1 });
    expect(image.calls).toEqual([]);
  });

  test('a read-only disk is read, and not changed in any way', () => {
    const { image, guest } = guestWith({ settings: { readOnly: true } });
    expect(guest.do({ type: IN, space: 512 }).status).toBe(OK);
    expect(guest.do({ type: OUT, data: pattern(512, 1) }).status).toBe(IOERR);
    expect(guest.do({ type: DISCARD, data: ranges({ sector: 0, sectors: 8 }) }).status).toBe(IOERR);
    expect(guest.do({ type: WRITE_ZEROES, data: ranges({ sector: 0, sectors: 8 }) }).status).toBe(IOERR);
    expect(image.takeCalls()).toEqual(['read 0+512']);
  });

  test('what the host cannot do is an I/O error of that request, counted and logged', () => {
    const { image, guest } = guestWith();
    image.badOffsets.add(1024);
    expect(guest.do({ type: IN, sector: 2, space: 512 })).toMatchObject({ status: IOERR, used: 0 });
    expect(guest.do({ type: IN, sector: 3, space: 512 }).status).toBe(OK);
    expect(guest.count('failed_ops')).toBe(1);
    expect(guest.logged.join()).toMatch(/test\.img: reading failed \(EIO\)/);
  });
});

describe('other requests', () => {
  test('FLUSH makes durable what was written', () => {
    const { image, guest } = guestWith();
    guest.do({ type: OUT, sector: 1, data: pattern(512, 9) });
    expect(image.durable[512 + 1]).toBe(0);
    expect(guest.do({ type: FLUSH })).toMatchObject({ status: OK, used: 1 });
    expect(image.durable).toEqual(image.bytes);
  });

  test('a flush that fails is an I/O error', () => {
    const { image, guest } = guestWith();
    image.failFlush = true;
    expect(guest.do({ type: FLUSH }).status).toBe(IOERR);
    expect(guest.count('failed_ops')).toBe(1);
  });

  test('GET_ID gives the serial, padded with NUL', () => {
    const { guest } = guestWith({ settings: { serial: 'disk-7' } });
    const answer = guest.do({ type: GET_ID, space: 20 });
    expect(answer).toMatchObject({ status: OK, used: 21 });
    expect(Buffer.from(answer.data).toString('latin1')).toBe('disk-7'.padEnd(20, '\0'));
    expect(guest.do({ type: GET_ID, space: 64 })).toMatchObject({ status: OK, used: 20 });
    expect(guest.do({ type: GET_ID, space: 19 })).toMatchObject({ status: IOERR });
  });

  test('a serial of 20 bytes needs no NUL', () => {
    const { guest } = guestWith({ settings: { serial: '01234567890123456789' } });
    const { data } = guest.do({ type: GET_ID, space: 20 });
    expect(Buffer.from(data).toString()).toBe('01234567890123456789');
  });

  test('DISCARD takes several ranges', () => {
    const { image, guest } = guestWith();
    image.bytes.fill(7);
    const data = ranges({ sector: 8, sectors: 8 }, { sector: 32, sectors: 0 }, { sector: 255, sectors: 1 });
    expect(guest.do({ type: DISCARD, data }).status).toBe(OK);
    expect(image.takeCalls()).toEqual(['discard 4096+4096', 'discard 130560+512']);
    expect(guest.count('discard_ops')).toBe(1);
  });

  test.each([
    ['a range beyond the end', IOERR, ranges({ sector: 0, sectors: 8 }, { sector: 250, sectors: 7 })],
    ['a sector of 64 bits', IOERR, ranges({ sector: 2n ** 64n - 1n, sectors: 2 })],
    ['more sectors than there can be', IOERR, ranges({ sector: 0, sectors: 0xffffffff })],
    ['the unmap flag', UNSUPP, ranges({ sector: 0, sectors: 8, flags: 1 })],
    ['an unknown flag', UNSUPP, ranges({ sector: 0, sectors: 8, flags: 2 })],
    ['half a range', IOERR, ranges({ sector: 0, sectors: 8 }).slice(0, 8)],
    ['no range', IOERR, new Uint8Array(0)],
    [
      'more ranges than the limit',
      IOERR,
      ranges(...Array.from({ length: 33 }, (_, index) => ({ sector: index, sectors: 1 }))),
    ],
  ])('DISCARD with %s is refused as a whole', (_name, status, data) => {
    const { image, guest } = guestWith();
    expect(guest.do({ type: DISCARD, data }).status).toBe(status);
    expect(image.calls).toEqual([]);
  });

  test('WRITE_ZEROES, with and without leave to unmap', () => {
    const { image, guest } = guestWith();
    image.bytes.fill(7);
    expect(guest.do({ type: WRITE_ZEROES, data: ranges({ sector: 8, sectors: 2 }) }).status).toBe(OK);
    expect(guest.do({ type: WRITE_ZEROES, data: ranges({ sector: 16, sectors: 2, flags: 1 }) }).status).toBe(OK);
    expect(image.takeCalls()).toEqual(['zero 4096+1024', 'zero 8192+1024 unmap']);
    expect(guest.do({ type: WRITE_ZEROES, data: ranges({ sector: 0, sectors: 1, flags: 3 }) }).status).toBe(UNSUPP);
    const two = ranges({ sector: 0, sectors: 1 }, { sector: 1, sectors: 1 });
    expect(guest.do({ type: WRITE_ZEROES, data: two }).status).toBe(IOERR);
    expect(image.calls).toEqual([]);
  });

  test.each([2, 3, 5, 7, 9, 10, 12, 14, 0x8000_0000, 0xffff_ffff])('type %i is not supported', (type) => {
    const { image, guest } = guestWith();
    expect(guest.do({ type, data: new Uint8Array(512), space: 512 })).toMatchObject({ status: UNSUPP, used: 0 });
    expect(image.calls).toEqual([]);
  });
});

describe('drivers that break the rules', () => {
  test('half a header is an I/O error', () => {
    const { guest } = guestWith();
    const { ram } = guest;
    const at = ram.allocate(32);
    guest.rings[0].add([
      { address: at, length: 15 },
      { address: at + 16, length: 1, writable: true },
    ]);
    ram.bytes[at + 16] = 0xee;
    guest.settle();
    expect(guest.rings[0].collect()).toEqual([{ id: expect.anything(), length: 1 }]);
    expect(ram.bytes[at + 16]).toBe(IOERR);
  });

  test('a request without a status byte is dropped', () => {
    const { image, guest } = guestWith();
    const at = guest.ram.allocate(1024);
    const head = guest.rings[0].add([{ address: at, length: 528 }]);
    guest.settle();
    expect(guest.rings[0].collect()).toEqual([{ id: head, length: 0 }]);
    expect(image.calls).toEqual([]);
    expect(guest.logged.join()).toMatch(/without a byte for its status/);
  });

  test('a malformed chain is dropped, and what comes after it is served', () => {
    const { guest } = guestWith();
    // Writable before readable.
    const at = guest.ram.allocate(64);
    guest.rings[0].add([
      { address: at, length: 1, writable: true },
      { address: at + 16, length: 16 },
    ]);
    const next = guest.add({ type: IN, space: 512 });
    guest.settle();
    expect(guest.answer(next)).toMatchObject({ status: OK });
    expect(guest.count('guest_faults')).toBe(1);
  });

  test('a ring that makes no sense stops the device until it is reset', () => {
    const { image, guest } = guestWith();
    guest.rings[0].offerHead(9999);
    guest.settle();
    expect(guest.interrupt.resets).toBe(1);
    expect(guest.do({ type: IN, space: 512 }).used).toBeUndefined();
    guest.device.reset();
    guest.activate();
    expect(guest.do({ type: IN, space: 512 }).status).toBe(OK);
    expect(image.closed).toBe(0);
  });

  test('the log has a bound', () => {
    const { guest } = guestWith();
    for (let count = 0; count < 1000; count++) guest.do({ type: 99 });
    expect(guest.logged.length).toBeLessThan(15);
  });
});

describe('order and merging', () => {
  test('requests that follow one another become one call, each with its own answer', () => {
    const { image, guest } = guestWith();
    const parts = [0, 1, 2, 3].map((index) => pattern(1024, index));
    const pending = parts.map((data, index) => guest.add({ type: OUT, sector: 10 + 2 * index, data }));
    guest.settle();
    expect(image.takeCalls()).toEqual(['write 5120+4096']);
    for (const one of pending) expect(guest.answer(one)).toMatchObject({ status: OK, used: 1 });
    expect(image.bytes.slice(5120, 9216)).toEqual(Uint8Array.from(parts.flatMap((part) => [...part])));
    const reads = parts.map((_part, index) => guest.add({ type: IN, sector: 10 + 2 * index, space: 1024 }));
    guest.settle();
    expect(image.takeCalls()).toEqual(['read 5120+4096']);
    reads.forEach((one, index) => {
      expect(guest.answer(one).data).toEqual(parts[index]);
    });
    expect(guest.count('write_ops')).toBe(4);
    expect(guest.count('read_bytes')).toBe(4096);
    expect(guest.count('host_calls')).toBe(2);
  });

  test('nothing is reordered: what does not follow, or is of another kind, ends the call', () => {
    const { image, guest } = guestWith();
    guest.add({ type: OUT, sector: 2, data: pattern(512, 1) });
    guest.add({ type: OUT, sector: 3, data: pattern(512, 2) });
    guest.add({ type: OUT, sector: 3, data: pattern(512, 3) });
    const read = guest.add({ type: IN, sector: 2, space: 1024 });
    guest.add({ type: OUT, sector: 4, data: pattern(512, 4) });
    guest.add({ type: FLUSH });
    guest.add({ type: OUT, sector: 5, data: pattern(512, 5) });
    guest.settle();
    expect(image.takeCalls()).toEqual([
      'write 1024+1024',
      'write 1536+512',
      'read 1024+1024',
      'write 2048+512',
      'flush',
      'write 2560+512',
    ]);
    expect(guest.answer(read).data).toEqual(Uint8Array.from([...pattern(512, 1), ...pattern(512, 3)]));
  });

  test('when a merged call fails, only the requests that cannot be carried out fail', () => {
    const { image, guest } = guestWith();
    image.badOffsets.add(2 * 512);
    const pending = [0, 1, 2, 3].map((sector) => guest.add({ type: OUT, sector, data: pattern(512, sector) }));
    guest.settle();
    expect(pending.map((one) => guest.answer(one).status)).toEqual([OK, OK, IOERR, OK]);
    expect(image.takeCalls()).toEqual([
      'write 0+2048',
      'write 0+512',
      'write 512+512',
      'write 1024+512',
      'write 1536+512',
    ]);
    expect(image.bytes.slice(1536, 2048)).toEqual(pattern(512, 3));
    expect(guest.count('failed_ops')).toBe(1);
  });

  test('a merged call stays within what one call can take', () => {
    const { image, guest } = guestWith({ queueSize: 4096, memorySize: 16 << 20 });
    // 20 requests of 100 descriptors: over 1,024 in all.
    const pending = Array.from({ length: 20 }, (_unused, index) =>
      guest.add({ type: OUT, sector: 8 * index, data: pattern(4096, index), readableCut: [16, 41] }),
    );
    guest.settle();
    for (const one of pending) expect(guest.answer(one).status).toBe(OK);
    expect(image.takeCalls().length).toBeGreaterThan(1);
    for (let index = 0; index < 20; index++) {
      expect(image.bytes.slice(4096 * index, 4096 * (index + 1))).toEqual(pattern(4096, index));
    }
  });

  test.each([true, false])('a batch is one interrupt (EVENT_IDX: %s)', (eventIdx) => {
    const { guest } = guestWith({ eventIdx });
    for (let sector = 0; sector < 16; sector++) guest.add({ type: IN, sector: (sector * 37) % 200, space: 512 });
    guest.settle();
    expect(guest.rings[0].collect()).toHaveLength(16);
    expect(guest.interrupt.used).toBe(1);
  });

  test('a busy driver is asked not to notify, and to notify again before the device sleeps', () => {
    const { guest } = guestWith({ eventIdx: false });
    guest.add({ type: FLUSH });
    guest.device.poll();
    expect(guest.rings[0].usedFlags).toBe(1);
    guest.settle();
    expect(guest.rings[0].usedFlags).toBe(0);
    expect(guest.device.poll()).toBe(false);
  });

  test('several queues are served, each by its own ring', () => {
    const { guest } = guestWith({ queues: 4 });
    const pending = [0, 1, 2, 3].map((queue) =>
      guest.add({ type: OUT, sector: queue, data: pattern(512, queue), queue }),
    );
    guest.settle();
    expect(pending.map((one) => guest.answer(one).status)).toEqual([OK, OK, OK, OK]);
    expect(guest.interrupt.used).toBe(1);
  });

  test('a long queue is worked off in batches', () => {
    const { guest } = guestWith({ queueSize: 512 });
    for (let count = 0; count < 150; count++) guest.add({ type: FLUSH });
    expect(guest.device.poll()).toBe(true);
    expect(guest.rings[0].collect()).toHaveLength(64);
    guest.settle();
    expect(guest.rings[0].collect()).toHaveLength(86);
  });
});

describe('cache modes', () => {
  const WRITE = { type: OUT, sector: 0, data: pattern(512, 1) };

  test('with FLUSH, writes wait in the cache', () => {
    const { image, guest } = guestWith({ features: [VIRTIO_BLK_F_FLUSH_BIT] });
    guest.do(WRITE);
    expect(image.takeCalls()).toEqual(['write 0+512']);
  });

  test('without FLUSH, every write is durable when it is answered', () => {
    const { image, guest } = guestWith({ features: [] });
    expect(guest.do(WRITE).status).toBe(OK);
    expect(image.durable.slice(0, 512)).toEqual(pattern(512, 1));
    guest.do({ type: WRITE_ZEROES, data: ranges({ sector: 0, sectors: 1 }) });
    expect(image.durable[5]).toBe(0);
    guest.do({ type: IN, space: 512 });
    expect(image.takeCalls()).toEqual(['write 0+512', 'flush', 'zero 0+512', 'flush', 'read 0+512']);
  });

  test('the driver chooses by the writeback field; choosing write-through flushes what waits', () => {
    const { image, guest } = guestWith();
    guest.do(WRITE);
    guest.setWriteback(false);
    expect(image.takeCalls()).toEqual(['write 0+512', 'flush']);
    guest.do(WRITE);
    expect(image.takeCalls()).toEqual(['write 0+512', 'flush']);
    guest.setWriteback(true);
    guest.do(WRITE);
    expect(image.takeCalls()).toEqual(['write 0+512']);
  });

  test('a driver that takes CONFIG_WCE without FLUSH starts with write-through', () => {
    const { image, guest } = guestWith({ features: [VIRTIO_BLK_F_CONFIG_WCE_BIT] });
    expect(guest.config[32]).toBe(0);
    guest.do(WRITE);
    expect(image.takeCalls()).toEqual(['write 0+512', 'flush']);
  });

  test('a reset takes the writeback field back to where it was', () => {
    const { image, guest } = guestWith();
    guest.setWriteback(false);
    guest.device.reset();
    expect(guest.config[32]).toBe(1);
    guest.activate();
    image.takeCalls();
    guest.do(WRITE);
    expect(image.takeCalls()).toEqual(['write 0+512']);
  });

  test('pausing flushes, and the cache mode is kept over a snapshot', () => {
    const { image, guest } = guestWith();
    guest.do(WRITE);
    guest.device.quiesce();
    expect(image.durable).toEqual(image.bytes);
    guest.setWriteback(false);
    const state = guest.device.save();
    const other = guestWith();
    other.guest.device.restore(JSON.parse(JSON.stringify(state)) as typeof state);
    other.guest.do(WRITE);
    expect(other.image.takeCalls()).toEqual(['write 0+512', 'flush']);
    expect(() => other.guest.device.restore({})).toThrow(/cache mode/);
  });

  test('a write that is not durable after all is an I/O error', () => {
    const { image, guest } = guestWith({ features: [] });
    image.failFlush = true;
    expect(guest.do(WRITE).status).toBe(IOERR);
    expect(guest.count('failed_ops')).toBe(1);
    expect(guest.count('write_ops')).toBe(0);
  });
});

describe('a disk that is saved', () => {
  test('in the middle of throttled requests: each is carried out once, in order, by one device or the other', () => {
    const { image, guest } = guestWith({ settings: { rateLimiter: { ops: { size: 4, refillTime: 400 } } }, queues: 2 });
    const pending = Array.from({ length: 10 }, (_unused, sector) =>
      guest.add({ type: IN, sector: 3 * sector, space: 512, queue: sector % 2 }),
    );
    guest.settle();
    const before = image.takeCalls();
    expect(before).toHaveLength(4);
    // With full buckets again, and again.
    guest.restore().settle();
    guest.restore().settle();
    const calls = [...before, ...image.takeCalls()].filter((call) => call.startsWith('read'));
    expect(new Set(calls).size).toBe(10);
    expect(calls).toHaveLength(10);
    expect(pending.map((each) => guest.answer(each).status)).toEqual(pending.map(() => OK));
  });

  test('when its image cannot be flushed: there is no snapshot, and the reason is said', () => {
    const { image, guest } = guestWith();
    image.failFlush = true;
    guest.device.quiesce();
    expect(() => guest.device.save()).toThrow(/test\.img could not be flushed \(EIO\)/);
    image.failFlush = false;
    guest.device.quiesce();
    expect(guest.device.save()).toEqual({ writeback: true });
  });
});

describe('rate limits', () => {
  test('operations wait for their tokens, in order, and all are carried out', () => {
    const { image, guest } = guestWith({ settings: { rateLimiter: { ops: { size: 4, refillTime: 400 } } } });
    const pending = Array.from({ length: 10 }, (_unused, sector) =>
      guest.add({ type: IN, sector: 3 * sector, space: 512 }),
    );
    guest.settle();
    const answered = () => image.calls.length;
    expect(answered()).toBe(4);
    guest.clock.advance(99);
    expect(guest.settle().device.poll()).toBe(false);
    expect(answered()).toBe(4);
    guest.clock.advance(1);
    guest.settle();
    expect(answered()).toBe(5);
    for (let tick = 0; tick < 5; tick++) {
      guest.clock.advance(100);
      guest.settle();
    }
    expect(answered()).toBe(10);
    expect(pending.map((one) => guest.answer(one).status)).toEqual(pending.map(() => OK));
  });

  test('bytes count for reads and writes, not for the rest', () => {
    const { image, guest } = guestWith({ settings: { rateLimiter: { bandwidth: { size: 4096, refillTime: 1000 } } } });
    guest.do({ type: OUT, data: pattern(4096, 1) });
    guest.do({ type: FLUSH });
    guest.do({ type: WRITE_ZEROES, data: ranges({ sector: 0, sectors: 8 }) });
    expect(image.takeCalls()).toHaveLength(3);
    const late = guest.add({ type: IN, space: 2048 });
    guest.settle();
    expect(image.takeCalls()).toEqual([]);
    guest.clock.advance(500);
    guest.settle();
    expect(guest.answer(late).status).toBe(OK);
  });

  test('a request larger than the bucket is carried out', () => {
    const { guest } = guestWith({ settings: { rateLimiter: { bandwidth: { size: 512, refillTime: 100 } } } });
    expect(guest.do({ type: IN, space: 8192 }).status).toBe(OK);
    const next = guest.add({ type: IN, space: 512 });
    guest.settle();
    expect(guest.answer(next).used).toBeUndefined();
    guest.clock.advance(1600);
    guest.settle();
    expect(guest.answer(next).status).toBe(OK);
  });

  test('queues of a device share its limits', () => {
    const { image, guest } = guestWith({ queues: 2, settings: { rateLimiter: { ops: { size: 2, refillTime: 100 } } } });
    for (const queue of [0, 1, 0, 1]) guest.add({ type: FLUSH, queue });
    guest.settle();
    expect(image.takeCalls()).toHaveLength(2);
    guest.clock.advance(100);
    guest.settle();
    expect(image.takeCalls()).toHaveLength(2);
  });

  test('a reset while blocked cancels the timer', () => {
    const { guest } = guestWith({ settings: { rateLimiter: { ops: { size: 1, refillTime: 100 } } } });
    guest.add({ type: FLUSH });
    guest.add({ type: FLUSH });
    guest.settle();
    expect(guest.clock.pending).toBe(1);
    guest.device.reset();
    expect(guest.clock.pending).toBe(0);
  });
});

test('closing closes the image', () => {
  const { image, guest } = guestWith();
  guest.device.close();
  expect(image.closed).toBe(1);
  expect(guest.device.poll()).toBe(false);
});
