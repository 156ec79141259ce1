// Host files under disk images: whole transfers whatever the kernel does with a call, any alignment, space given back.

import { ftruncateSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import koffi from 'koffi';
import { HostFile } from '../../../src/devices/block/host-file.js';
import { EINTR, EINVAL, EIO, ENOSPC, EOPNOTSUPP } from '../../../src/platform/errno.js';
import { libc } from '../../../src/platform/libc.js';
import { KIB, MIB } from '../../../src/platform/units.js';
import { pattern } from './block-guest.js';
import { ScratchDirectory, ScratchMemory } from './scratch.js';

type Calls = { -readonly [K in keyof typeof libc]: (typeof libc)[K] };
const calls = libc as Calls;
const real = { ...libc };

let scratch: ScratchDirectory;
beforeEach(() => {
  scratch = new ScratchDirectory();
});
afterEach(() => {
  Object.assign(calls, real);
  scratch[Symbol.dispose]();
});

/** Makes the next calls of a function fail with `errno`. */
function failWith(
  name: 'preadv' | 'pwritev' | 'fdatasync' | 'fallocate' | 'pwrite',
  errno: number,
  times = Infinity,
): void {
  const original: (...args: number[]) => number = real[name];
  const replacement = (...args: number[]): number => {
    if (times-- <= 0) return original(...args);
    koffi.errno(errno);
    return -1;
  };
  Object.assign(calls, { [name]: replacement });
}

/** Moves at most `limit` bytes with each call, as the kernel may. */
function moveAtMost(limit: number): void {
  for (const name of ['preadv', 'pwritev'] as const) {
    const single = name === 'preadv' ? real.pread : real.pwrite;
    calls[name] = (fd, iov, _count, offset) => {
      const words = new BigUint64Array(2);
      const view = new ScratchMemory(16);
      real.memcpy(view.memory.address, iov, 16);
      words.set([view.memory.u64(0), view.memory.u64(8)]);
      return single(fd, Number(words[0]), Math.min(limit, Number(words[1])), offset);
    };
  }
}

describe('transfers', () => {
  test('vectors are filled from the file, and written to it, in order', () => {
    const file = new HostFile(scratch.file('a', pattern(8192, 1)));
    const memory = new ScratchMemory(16 * KIB);
    expect(file.readv(memory.over([100, 1000], [5000, 24], [3, 50]), 777)).toBe(0);
    const expected = pattern(8192, 1).slice(777);
    expect(memory.bytes.slice(100, 1100)).toEqual(expected.slice(0, 1000));
    expect(memory.bytes.slice(5000, 5024)).toEqual(expected.slice(1000, 1024));
    expect(memory.bytes.slice(3, 53)).toEqual(expected.slice(1024, 1074));
    memory.bytes.set(pattern(100, 5), 9000);
    expect(file.writev(memory.over([9000, 60], [9060, 40]), 4000)).toBe(0);
    expect(scratch.bytes('a').slice(4000, 4100)).toEqual(pattern(100, 5));
  });

  test.each([1, 7, 512, 4096])('calls that move %i bytes are repeated until all is moved', (limit) => {
    const file = new HostFile(scratch.file('a', pattern(8192, 1)));
    const memory = new ScratchMemory(16 * KIB);
    moveAtMost(limit);
    expect(file.readv(memory.over([10, 3000], [4000, 10], [5000, 3000]), 100)).toBe(0);
    expect(memory.bytes.slice(10, 3010)).toEqual(pattern(8192, 1).slice(100, 3100));
    expect(memory.bytes.slice(5000, 8000)).toEqual(pattern(8192, 1).slice(3110, 6110));
    memory.bytes.set(pattern(3000, 3));
    expect(file.writev(memory.over([0, 1000], [1000, 2000]), 512)).toBe(0);
    expect(scratch.bytes('a').slice(512, 3512)).toEqual(pattern(3000, 3));
  });

  test('an interrupted call is repeated, a failed one is the errno', () => {
    const file = new HostFile(scratch.file('a', pattern(512, 1)));
    const memory = new ScratchMemory(512);
    failWith('preadv', EINTR, 2);
    expect(file.readv(memory.over([0, 512]), 0)).toBe(0);
    failWith('pwritev', ENOSPC);
    expect(file.writev(memory.over([0, 512]), 0)).toBe(-ENOSPC);
  });

  test('a file that has shrunk gives an I/O error, or zeroes to who asks for them', () => {
    const settings = scratch.file('a', pattern(4096, 1));
    const memory = new ScratchMemory(4096);
    ftruncateSync(settings.fd, 1000);
    expect(new HostFile(settings).readv(memory.over([0, 2048]), 0)).toBe(-EIO);
    memory.bytes.fill(0xff);
    expect(new HostFile(settings, { zeroesPastEnd: true }).readv(memory.over([0, 1024], [1024, 1024]), 0)).toBe(0);
    expect(memory.bytes.slice(0, 1000)).toEqual(pattern(4096, 1).slice(0, 1000));
    expect(memory.bytes.slice(1000, 2048).every((byte) => byte === 0)).toBe(true);
    expect(memory.bytes[2048]).toBe(0xff);
  });

  test('single buffers', () => {
    const file = new HostFile(scratch.file('a', pattern(2048, 1)));
    const memory = new ScratchMemory(512);
    expect(file.read(memory.memory.address, 512, 99)).toBe(0);
    expect(memory.bytes).toEqual(pattern(2048, 1).slice(99, 611));
    expect(file.write(memory.memory.address, 512, 0)).toBe(0);
    expect(scratch.bytes('a').slice(0, 512)).toEqual(memory.bytes);
  });
});

describe('a descriptor that wants alignment', () => {
  /** Checks that the kernel gets nothing that O_DIRECT would refuse. */
  function expectAligned(alignment: number): void {
    const check = (...values: number[]): void => {
      for (const value of values) if (value % alignment !== 0) throw new Error(`${value} is not aligned`);
    };
    for (const name of ['pread', 'pwrite'] as const) {
      calls[name] = (fd, buffer, count, offset) => {
        check(buffer, count, offset);
        return real[name](fd, buffer, count, offset);
      };
    }
    for (const name of ['preadv', 'pwritev'] as const) {
      calls[name] = (fd, iov, count, offset) => {
        const entries = new ScratchMemory(16 * count);
        real.memcpy(entries.memory.address, iov, 16 * count);
        for (let word = 0; word < 2 * count; word++) check(Number(entries.memory.u64(8 * word)));
        check(offset);
        return real[name](fd, iov, count, offset);
      };
    }
  }

  const SIZE = MIB;

  test.each([512, 4096])('gets it, whatever the guest sends (%i)', (alignment) => {
    expectAligned(alignment);
    const settings = scratch.file('a', pattern(SIZE, 1), alignment);
    const file = new HostFile(settings);
    const model = pattern(SIZE, 1);
    const memory = new ScratchMemory(SIZE);
    const piece = fc.record({ gap: fc.integer({ min: 0, max: 600 }), length: fc.integer({ min: 1, max: 150_000 }) });
    let seed = 2;
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.oneof(
          fc.integer({ min: 0, max: SIZE - 1 }),
          fc.integer({ min: 0, max: 255 }).map((block) => block * 4096),
        ),
        fc.array(piece, { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        (writing, offset, wanted, round) => {
          let at = 0;
          let total = 0;
          const pieces: [number, number][] = [];
          for (const { gap, length } of wanted) {
            const size = Math.min(round ? Math.ceil(length / 4096) * 4096 : length, SIZE - offset - total);
            at += round ? 4096 : gap;
            if (size <= 0 || at + size > SIZE) break;
            pieces.push([at, size]);
            at += size;
            total += size;
          }
          if (total === 0) return;
          if (writing) {
            memory.bytes.set(pattern(SIZE, seed++));
            expect(file.writev(memory.over(...pieces), offset)).toBe(0);
            for (let position = offset, index = 0; index < pieces.length; index++) {
              const [start, length] = pieces[index];
              model.set(memory.bytes.subarray(start, start + length), position);
              position += length;
            }
          } else {
            memory.bytes.fill(0);
            expect(file.readv(memory.over(...pieces), offset)).toBe(0);
            for (let position = offset, index = 0; index < pieces.length; index++) {
              const [start, length] = pieces[index];
              const same = Buffer.compare(
                memory.bytes.subarray(start, start + length),
                model.subarray(position, position + length),
              );
              expect(same).toBe(0);
              position += length;
            }
          }
        },
      ),
      { numRuns: 60 },
    );
    expect(Buffer.compare(scratch.bytes('a'), model)).toBe(0);
  });

  test('the end of a file that is no multiple is an I/O error, or zeroes', () => {
    const settings = scratch.file('a', pattern(5000, 1), 4096);
    const memory = new ScratchMemory(8192);
    expect(new HostFile(settings).readv(memory.over([1, 1000]), 4200)).toBe(-EIO);
    memory.bytes.fill(0xff);
    expect(new HostFile(settings, { zeroesPastEnd: true }).readv(memory.over([1, 1000], [1001, 500]), 4200)).toBe(0);
    expect(memory.bytes.slice(1, 801)).toEqual(pattern(5000, 1).slice(4200));
    expect(memory.bytes.slice(801, 1501).every((byte) => byte === 0)).toBe(true);
    expect(memory.bytes[1501]).toBe(0xff);
  });

  test('aligned requests go straight through', () => {
    const file = new HostFile(scratch.file('a', pattern(8192, 1), 4096));
    const memory = new ScratchMemory(8192);
    calls.pread = () => {
      throw new Error('bounced');
    };
    expect(file.readv(memory.over([0, 4096], [4096, 4096]), 0)).toBe(0);
    expect(memory.bytes).toEqual(pattern(8192, 1));
  });

  test('a failure while a part of a block is read or written is the errno', () => {
    const file = new HostFile(scratch.file('a', pattern(8192, 1), 4096));
    const memory = new ScratchMemory(8192);
    failWith('pwrite', ENOSPC);
    expect(file.writev(memory.over([0, 100]), 5)).toBe(-ENOSPC);
    expect(scratch.bytes('a')).toEqual(pattern(8192, 1));
  });
});

describe('flush', () => {
  test('in the page cache a failure is for good', () => {
    const file = new HostFile(scratch.file('a', pattern(512, 1)));
    expect(file.flush()).toBe(0);
    failWith('fdatasync', EIO, 1);
    expect(file.flush()).toBe(-EIO);
    expect(file.flush()).toBe(-EIO);
  });

  test('past the page cache the next flush tells the truth', () => {
    const file = new HostFile(scratch.file('a', pattern(512, 1), 512));
    failWith('fdatasync', EIO, 1);
    expect(file.flush()).toBe(-EIO);
    expect(file.flush()).toBe(0);
  });
});

describe('space', () => {
  const SIZE = MIB;

  test('discard gives space back and leaves the size', () => {
    const file = new HostFile(scratch.file('a', pattern(SIZE, 1)));
    file.flush();
    const before = scratch.allocated('a');
    expect(file.discard(64 * KIB, 512 * KIB)).toBe(0);
    expect(scratch.bytes('a')).toHaveLength(SIZE);
    expect(scratch.allocated('a')).toBeLessThanOrEqual(before - 512 * KIB);
  });

  test('discard is advice: where the file system cannot, it is not asked again', () => {
    const file = new HostFile(scratch.file('a', pattern(4096, 1)));
    let asked = 0;
    failWith('fallocate', EOPNOTSUPP);
    const failing = calls.fallocate;
    calls.fallocate = (...args) => {
      asked++;
      return failing(...args);
    };
    expect([file.discard(0, 4096), file.discard(0, 4096)]).toEqual([0, 0]);
    expect(asked).toBe(1);
    expect(scratch.bytes('a')).toEqual(pattern(4096, 1));
    const other = new HostFile(scratch.file('b', pattern(4096, 1)));
    failWith('fallocate', EIO);
    expect(other.discard(0, 4096)).toBe(-EIO);
  });

  test.each([
    ['zeroes, unmapped', true, undefined],
    ['zeroes, allocated', false, undefined],
    ['zeroes where the file system cannot make any', true, EOPNOTSUPP],
    ['zeroes where the range does not suit it', false, EINVAL],
  ])('%s', (_name, unmap, errno) => {
    for (const alignment of [1, 4096]) {
      const name = `zeroes-${alignment}`;
      const file = new HostFile(scratch.file(name, pattern(SIZE, 1), alignment));
      if (errno !== undefined) failWith('fallocate', errno);
      for (const [offset, length] of [
        [512, 1024],
        [64 * KIB, 700 * KIB],
        [SIZE - 512, 512],
      ]) {
        expect(file.writeZeroes(offset, length, unmap)).toBe(0);
      }
      const expected = pattern(SIZE, 1)
        .fill(0, 512, 1536)
        .fill(0, 64 * KIB, 764 * KIB)
        .fill(0, SIZE - 512);
      expect(Buffer.compare(scratch.bytes(name), expected)).toBe(0);
    }
  });

  test('zeroes that may not be unmapped keep their space', () => {
    const file = new HostFile(scratch.file('a', pattern(SIZE, 1)));
    file.flush();
    const before = scratch.allocated('a');
    expect(file.writeZeroes(0, SIZE, false)).toBe(0);
    file.flush();
    expect(scratch.allocated('a')).toBeGreaterThanOrEqual(before);
    expect(file.writeZeroes(0, SIZE, true)).toBe(0);
    expect(scratch.allocated('a')).toBeLessThan(before);
  });

  test('a host without room for the zeroes says so', () => {
    const file = new HostFile(scratch.file('a', pattern(SIZE, 1)));
    failWith('fallocate', ENOSPC);
    expect(file.writeZeroes(0, SIZE, false)).toBe(-ENOSPC);
  });
});
