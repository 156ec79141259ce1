// A disk with O_DIRECT's alignment, whose transfers of one pass are under way together: the guest sees what it would see
// if they were carried out one after the other.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import koffi from 'koffi';
import { EAGAIN, EIO } from '../../../src/platform/errno.js';
import { libc } from '../../../src/platform/libc.js';
import { BlockGuest, FLUSH, IN, IOERR, OK, OUT, pattern, type Pending } from './block-guest.js';
import { ScratchDirectory } from './scratch.js';

const SECTORS = 128;
const SIZE = SECTORS * 512;

const calls = libc as { -readonly [K in keyof typeof libc]: (typeof libc)[K] };
const real = { ...libc };

let scratch: ScratchDirectory;
let guest: BlockGuest | undefined;
beforeEach(() => {
  scratch = new ScratchDirectory();
});
afterEach(() => {
  Object.assign(calls, real);
  guest?.[Symbol.dispose]();
  guest = undefined;
  scratch[Symbol.dispose]();
});

function guestWith(guardHeader = false): BlockGuest {
  const file = scratch.file('disk', pattern(SIZE, 1), 512);
  return (guest = new BlockGuest({ settings: { image: { format: 'raw', file, guardHeader } }, queueSize: 256 }));
}

/** How often the kernel is called for transfers, and how. */
function count(): { batches: number; single: number } {
  const counted = { batches: 0, single: 0 };
  calls.syscall6 = (...args) => {
    counted.batches++;
    return real.syscall6(...args);
  };
  for (const name of ['preadv', 'pwritev'] as const) {
    calls[name] = (...args) => {
      counted.single++;
      return real[name](...args);
    };
  }
  return counted;
}

describe('transfers of one pass', () => {
  test('are under way together, one call for all', () => {
    const subject = guestWith();
    const counted = count();
    const reads = Array.from({ length: 20 }, (_, index) => subject.add({ type: IN, sector: index * 6, space: 512 }));
    subject.settle();
    const original = pattern(SIZE, 1);
    reads.forEach((read, index) => {
      const { status, used, data } = subject.answer(read);
      expect({ status, used }).toEqual({ status: OK, used: 513 });
      expect(data).toEqual(original.slice(index * 6 * 512, index * 6 * 512 + 512));
    });
    expect(counted).toEqual({ batches: 1, single: 0 });
  });

  test('one alone is an ordinary call', () => {
    const subject = guestWith();
    const counted = count();
    expect(subject.do({ type: IN, sector: 5, space: 1024 }).status).toBe(OK);
    expect(counted).toEqual({ batches: 0, single: 1 });
  });

  test('are those before a flush, and those after it', () => {
    const subject = guestWith();
    const order: string[] = [];
    calls.syscall6 = (...args) => {
      order.push('batch');
      return real.syscall6(...args);
    };
    calls.fdatasync = (fd) => {
      order.push('flush');
      return real.fdatasync(fd);
    };
    for (const sector of [0, 10, 20]) subject.add({ type: OUT, sector, data: pattern(512, 2) });
    subject.add({ type: FLUSH });
    for (const sector of [30, 40]) subject.add({ type: OUT, sector, data: pattern(512, 2) });
    subject.settle();
    expect(order).toEqual(['batch', 'flush', 'batch']);
  });

  test('look to the guest as if they came one after the other', () => {
    const request = fc.record({
      write: fc.boolean(),
      sector: fc.nat(SECTORS - 9),
      sectors: fc.integer({ min: 0, max: 8 }),
      seed: fc.nat(255),
    });
    const property = fc.property(
      fc.array(fc.array(request, { minLength: 1, maxLength: 40 }), { maxLength: 4 }),
      (passes) => {
        using subject = guestWith();
        guest = undefined;
        const model = Buffer.from(pattern(SIZE, 1));
        for (const requests of passes) {
          const expected: [Pending, Buffer | undefined][] = requests.map(({ write, sector, sectors, seed }) => {
            const [at, length] = [sector * 512, sectors * 512];
            if (write) {
              const data = pattern(length, seed);
              model.set(data, at);
              return [subject.add({ type: OUT, sector, data }), undefined];
            }
            return [subject.add({ type: IN, sector, space: length }), Buffer.from(model.subarray(at, at + length))];
          });
          subject.settle();
          for (const [pending, data] of expected) {
            const answer = subject.answer(pending);
            expect(answer.status).toBe(OK);
            if (data !== undefined) expect(data.equals(answer.data)).toBe(true);
          }
        }
        expect(model.equals(scratch.bytes('disk'))).toBe(true);
      },
    );
    fc.assert(property, { numRuns: 60 });
  });

  test('that fail together are tried again one by one, and only those to blame are errors', () => {
    const subject = guestWith();
    calls.syscall6 = () => {
      // As if none could be begun.
      koffi.errno(EAGAIN);
      return -1;
    };
    calls.preadv = (fd, iov, entries, offset) => {
      if (offset !== 20 * 512) return real.preadv(fd, iov, entries, offset);
      koffi.errno(EIO);
      return -1;
    };
    const reads = [0, 10, 20, 30].map((sector) => subject.add({ type: IN, sector, space: 512 }));
    subject.settle();
    expect(reads.map((read) => subject.answer(read).status)).toEqual([OK, OK, IOERR, OK]);
    expect(subject.count('failed_ops')).toBe(1);
  });

  test('without io_uring are carried out one after the other', () => {
    calls.syscall = () => -1;
    const subject = guestWith();
    const counted = count();
    const reads = [0, 10, 20].map((sector) => subject.add({ type: IN, sector, space: 512 }));
    subject.settle();
    expect(reads.map((read) => subject.answer(read).status)).toEqual([OK, OK, OK]);
    expect(counted).toEqual({ batches: 0, single: 3 });
  });

  test('a header that the guest may not write is refused among others', () => {
    const subject = guestWith(true);
    const header = new Uint8Array(512);
    header.set([0x51, 0x46, 0x49, 0xfb]);
    const writes = [
      subject.add({ type: OUT, sector: 10, data: pattern(512, 3) }),
      subject.add({ type: OUT, sector: 0, data: header }),
      subject.add({ type: OUT, sector: 20, data: pattern(512, 4) }),
    ];
    subject.settle();
    expect(writes.map((write) => subject.answer(write).status)).toEqual([OK, IOERR, OK]);
    expect(scratch.bytes('disk').slice(0, 512)).toEqual(pattern(SIZE, 1).slice(0, 512));
  });
});
