// Batches of transfers through io_uring: right to the byte, any number of times, whatever the kernel makes of one of them.

import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import koffi from 'koffi';
import { EAGAIN, EINTR, EPERM } from '../../src/platform/errno.js';
import { IoUring } from '../../src/platform/io-uring.js';
import { IovecArray } from '../../src/platform/iovec.js';
import { libc } from '../../src/platform/libc.js';
import { NativeBuffer } from '../../src/platform/native-buffer.js';
import type { Fd } from '../../src/platform/units.js';
import { openDescriptors } from '../support/process-state.js';

const CAPACITY = 8;
const PIECE = 512;
const PIECES = 64;
const SIZE = PIECE * PIECES;
const SYS_IO_URING_SETUP = 425;
const EBADF = 9;

const calls = libc as { -readonly [K in keyof typeof libc]: (typeof libc)[K] };
const real = { ...libc };

let directory = '';
let path = '';
let fd: Fd;
let ring: IoUring | undefined;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-uring-'));
  path = join(directory, 'file');
  writeFileSync(
    path,
    Buffer.alloc(SIZE).map((_, index) => index / PIECE),
  );
  fd = openSync(path, 'r+') as Fd;
  ring = IoUring.open(CAPACITY);
});
afterEach(() => {
  Object.assign(calls, real);
  ring?.close();
  closeSync(fd);
  rmSync(directory, { recursive: true });
});

/** The ring; one that cannot be had fails the test. */
function opened(): IoUring {
  if (ring === undefined) throw new Error('this kernel has no io_uring, or does not allow it');
  return ring;
}

class Slot {
  readonly memory = new NativeBuffer(PIECE);
  readonly vector = new IovecArray(2);

  constructor(length = PIECE) {
    // In two parts, as a guest's buffers may be.
    this.vector.add(this.memory.address, 200);
    this.vector.add(this.memory.address + 200, length - 200);
  }

  add(reading: boolean, to: Fd, offset: number): void {
    opened().add(reading, to, this.vector.entryAddress(0), this.vector.count, offset);
  }
}

describe('a ring', () => {
  test('carries out batch after batch, however its ends wrap', () => {
    const results = new Int32Array(CAPACITY);
    const expected = Buffer.from(readFileSync(path));
    for (let round = 0; round < 200; round++) {
      const count = 1 + (round % CAPACITY);
      const slots = Array.from({ length: count }, () => new Slot());
      slots.forEach((slot, index) => {
        const piece = (round * 5 + index * 7) % PIECES;
        const reading = (round + index) % 3 !== 0;
        slot.memory.bytes.fill(reading ? 0xee : round & 0xff);
        if (!reading) expected.fill(round & 0xff, piece * PIECE, (piece + 1) * PIECE);
        slot.add(reading, fd, piece * PIECE);
      });
      opened().run(results);
      expect([...results.subarray(0, count)]).toEqual(Array.from({ length: count }, () => PIECE));
      slots.forEach((slot, index) => {
        const piece = (round * 5 + index * 7) % PIECES;
        expect(Buffer.from(slot.memory.bytes).equals(expected.subarray(piece * PIECE, (piece + 1) * PIECE))).toBe(true);
      });
    }
    expect(readFileSync(path).equals(expected)).toBe(true);
  });

  test('says of each transfer what became of it', () => {
    const results = new Int32Array(CAPACITY);
    const slots = [new Slot(), new Slot(), new Slot(), new Slot()];
    slots[0].add(true, fd, 0);
    slots[1].add(true, -1 as Fd, 0);
    slots[2].add(true, fd, SIZE - 100);
    slots[3].add(true, fd, SIZE);
    opened().run(results);
    expect([...results.subarray(0, 4)]).toEqual([PIECE, -EBADF, 100, 0]);
  });

  test('of nothing is nothing', () => {
    opened().run(new Int32Array(CAPACITY));
  });

  test('goes on waiting when a signal comes', () => {
    const results = new Int32Array(CAPACITY);
    let interrupted = 0;
    calls.syscall6 = (...args) => {
      if (interrupted++ > 2) return real.syscall6(...args);
      koffi.errno(EINTR);
      return -1;
    };
    new Slot().add(true, fd, 0);
    opened().run(results);
    expect(results[0]).toBe(PIECE);
  });

  test('fails what the kernel does not take, and waits for what it has taken', () => {
    const results = new Int32Array(CAPACITY);
    const slots = Array.from({ length: 4 }, () => new Slot());
    let refused = false;
    calls.syscall6 = (number, ring_, submit, wait, ...rest) => {
      // The first two are taken, then no more are.
      if (submit === 4) return real.syscall6(number, ring_, 2, 1, ...rest);
      if (submit > 0) {
        refused = true;
        koffi.errno(EAGAIN);
        return -1;
      }
      return real.syscall6(number, ring_, submit, wait, ...rest);
    };
    slots.forEach((slot, index) => {
      slot.add(true, fd, index * PIECE);
    });
    opened().run(results);
    expect(refused).toBe(true);
    expect([...results.subarray(0, 4)]).toEqual([PIECE, PIECE, -EAGAIN, -EAGAIN]);
    Object.assign(calls, real);
    slots.forEach((slot, index) => {
      slot.add(true, fd, (index + 10) * PIECE);
    });
    opened().run(results);
    expect(slots.map(({ memory }) => memory.bytes[0])).toEqual([10, 11, 12, 13]);
  });

  test('that cannot be had is undefined, and nothing is left open', () => {
    const before = openDescriptors();
    calls.syscall = (number, ...args) => {
      if (number !== SYS_IO_URING_SETUP) return real.syscall(number, ...args);
      koffi.errno(EPERM);
      return -1;
    };
    expect(IoUring.open(CAPACITY)).toBeUndefined();
    Object.assign(calls, real);
    // MAP_FAILED, as it comes through koffi.
    calls.mmap = () => 2 ** 64;
    expect(IoUring.open(CAPACITY)).toBeUndefined();
    expect(openDescriptors()).toBe(before);
  });

  test('is gone when it is closed', () => {
    const before = openDescriptors();
    for (let round = 0; round < 50; round++) IoUring.open(CAPACITY)?.close();
    expect(openDescriptors()).toBe(before);
  });
});
