// Persistent memory: flush requests on a driven ring, and how its file becomes guest memory.

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { PmemConfig } from '../../../src/config/vm-config.js';
import { PmemDevice } from '../../../src/devices/pmem/device.js';
import { PMEM_COUNTERS, type PmemSettings } from '../../../src/devices/pmem/settings.js';
import { GuestMemory } from '../../../src/platform/guest-memory.js';
import { close, libc, O_RDWR, open } from '../../../src/platform/libc.js';
import { GIB, MIB, PAGE_SIZE, type Fd } from '../../../src/platform/units.js';
import type { AttachedDevice } from '../../../src/vmm/attach/attached-device.js';
import { attachPmem } from '../../../src/vmm/attach/pmem.js';
import { DeviceMemorySpace } from '../../../src/vmm/device-memory.js';
import { VmError } from '../../../src/vmm/errors.js';
import { ReleaseStack } from '../../../src/vmm/release-stack.js';
import { DeviceHost, DrivenDevice } from '../../support/driven-device.js';
import { TestMemory } from '../../support/driven-ring.js';
import { allocateRam, type TestRam } from '../../support/guest-ram.js';
import { openDescriptors } from '../../support/process-state.js';

let directory = '';
let descriptors = 0;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-pmem-'));
  descriptors = openDescriptors();
});
afterEach(() => {
  expect(openDescriptors()).toBe(descriptors);
  rmSync(directory, { recursive: true });
});

function makeFile(size: number, name = 'disk'): string {
  const path = join(directory, name);
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
}

describe('flush requests', () => {
  function driven(fd: Fd | undefined): DrivenDevice<PmemDevice> {
    const host = new DeviceHost(PMEM_COUNTERS);
    const device = new PmemDevice({ kind: 'pmem', fd, path: '/some/file' }, host.context);
    return new DrivenDevice(device, host, new TestMemory(MIB), 1);
  }

  /** Sends a request of `type`; returns the response, and what the used entry says. */
  function request(guest: DrivenDevice, type: number, length = 4): { ret: number; used: number | undefined } {
    const { ram } = guest;
    const asked = ram.allocate(4);
    const response = ram.allocate(4);
    ram.view.setUint32(asked, type, true);
    ram.view.setUint32(response, 77, true);
    const used = guest.send(0, [
      { address: asked, length },
      { address: response, length: 4, writable: true },
    ]);
    return { ret: ram.view.getInt32(response, true), used: used.at(0)?.length };
  }

  function withSync<T>(sync: typeof libc.fdatasync, action: () => T): T {
    const calls = libc as { -readonly [K in 'fdatasync']: (typeof libc)[K] };
    const { fdatasync } = calls;
    calls.fdatasync = sync;
    try {
      return action();
    } finally {
      calls.fdatasync = fdatasync;
    }
  }

  test('a flush is answered when the file has reached the disk', () => {
    const fd = open(makeFile(2 * MIB), O_RDWR);
    const { fdatasync } = libc;
    const synced: number[] = [];
    using guest = driven(fd);
    const answer = withSync(
      (file) => {
        synced.push(file);
        return fdatasync(file);
      },
      () => request(guest, 0),
    );
    expect(answer).toEqual({ ret: 0, used: 4 });
    expect(synced).toEqual([fd]);
    expect(guest.host.count('flushes')).toBe(1);
    close(fd);
  });

  test('once a flush has failed none succeeds any more, and the log says so once', () => {
    const fd = open(makeFile(2 * MIB), O_RDWR);
    using guest = driven(fd);
    // EBADF, as good a failure as any.
    withSync(
      () => libc.close(-1),
      () => {
        expect(request(guest, 0).ret).toBe(-1);
      },
    );
    expect(request(guest, 0).ret).toBe(-1);
    expect(guest.host.count('failedFlushes')).toBe(2);
    expect(guest.host.logged).toEqual([expect.stringContaining('/some/file cannot be written to disk (EBADF)')]);
    close(fd);
  });

  test('where writes are discarded there is nothing to wait for', () => {
    using guest = driven(undefined);
    expect(request(guest, 0)).toEqual({ ret: 0, used: 4 });
  });

  test('a request of another type fails; one that is too short is given back', () => {
    using guest = driven(undefined);
    expect(request(guest, 1).ret).toBe(-1);
    expect(request(guest, 0x100).ret).toBe(-1);
    expect(request(guest, 0, 3)).toEqual({ ret: 77, used: 0 });
    expect(guest.host.count('faults')).toBe(3);
    expect(guest.host.count('flushes')).toBe(0);
  });

  test('a response that is too short, or not writable, is given back', () => {
    using guest = driven(undefined);
    const address = guest.ram.allocate(8);
    expect(guest.send(0, [{ address, length: 8 }])).toEqual([expect.objectContaining({ length: 0 })]);
    expect(
      guest.send(0, [
        { address, length: 4 },
        { address: address + 4, length: 3, writable: true },
      ]),
    ).toEqual([expect.objectContaining({ length: 0 })]);
    expect(guest.host.count('faults')).toBe(2);
  });
});

describe('the memory', () => {
  const resources = new ReleaseStack();
  let ram: TestRam;
  let warned: string[] = [];
  beforeEach(() => {
    ram = allocateRam({ gpa: 0, size: MIB });
    descriptors = openDescriptors();
  });
  afterEach(() => {
    resources.releaseAll();
    expect(openDescriptors()).toBe(descriptors);
    ram[Symbol.dispose]();
    descriptors--;
    warned = [];
  });

  const log = (_level: string, message: string): void => {
    warned.push(message);
  };

  function attach(
    config: PmemConfig,
    index = 0,
    space = new DeviceMemorySpace(ram.map, 40),
  ): AttachedDevice<PmemSettings> {
    return attachPmem(config, index, { resources, log }, space);
  }

  function failure(config: PmemConfig, space?: DeviceMemorySpace): VmError {
    try {
      attach(config, 0, space);
    } catch (error) {
      if (error instanceof VmError) return error;
      throw error;
    }
    throw new Error('it was attached');
  }

  /** Guest memory as an I/O worker sees it. */
  function memoryWith(device: AttachedDevice): GuestMemory {
    return new GuestMemory([...ram.map, ...(device.memory ?? [])]);
  }

  test('is the file, above RAM, at a multiple of 128 MiB; the configuration space says where', () => {
    const path = makeFile(4 * MIB);
    const device = attach({ file: path });
    const config = new DataView(device.identity.config.buffer);
    const start = Number(config.getBigUint64(0, true));
    expect(start).toBe(4 * GIB);
    expect(config.getBigUint64(8, true)).toBe(BigInt(4 * MIB));
    const memory = memoryWith(device);
    memory.write(start + 5000, Uint8Array.of(1, 2, 3));
    expect([...readFileSync(path).subarray(5000, 5003)]).toEqual([1, 2, 3]);
    expect(device.id).toBe('_pmem0');
    expect((device.memory?.[0].hostAddress ?? 1) % (2 * MIB)).toBe(0);
    expect(device.settings.fd).toBeDefined();
  });

  test('several lie beside each other, each at a place of its own', () => {
    const space = new DeviceMemorySpace(ram.map, 40);
    const starts = ['a', 'b'].map(
      (name, index) => attach({ file: makeFile(2 * MIB, name), id: name }, index, space).memory?.[0].guestAddress,
    );
    expect(starts).toEqual([4 * GIB, 4 * GIB + 128 * MIB]);
  });

  test('discard_writes: the guest sees what it writes, the file does not, and may be read-only', () => {
    const path = makeFile(2 * MIB);
    const device = attach({ file: path, discard_writes: true });
    const memory = memoryWith(device);
    memory.write(4 * GIB, Uint8Array.of(9));
    expect(memory.read(4 * GIB, 1)[0]).toBe(9);
    expect(readFileSync(path)[0]).toBe(0);
    expect(device.settings.fd).toBeUndefined();
  });

  test('a directory stands for a temporary file that leaves nothing behind', () => {
    const device = attach({ file: directory, size: 2 * MIB });
    expect(readdirSync(directory)).toEqual([]);
    memoryWith(device).write(4 * GIB + 2 * MIB - 1, Uint8Array.of(1));
  });

  test('a part of the file can be shown', () => {
    const device = attach({ file: makeFile(8 * MIB), size: 2 * MIB });
    expect(device.memory?.map(({ size }) => size)).toEqual([2 * MIB]);
  });

  test('a file of more than 2 GiB is several pieces without a gap', () => {
    const device = attach({ file: makeFile(5 * GIB) });
    expect(device.memory?.map(({ guestAddress, size }) => [guestAddress, size])).toEqual([
      [4 * GIB, 2 * GIB],
      [6 * GIB, 2 * GIB],
      [8 * GIB, GIB],
    ]);
    const memory = memoryWith(device);
    memory.write(6 * GIB - 2, Uint8Array.of(1, 2, 3, 4));
    expect([...memory.read(6 * GIB - 2, 4)]).toEqual([1, 2, 3, 4]);
  });

  test('a file that another VM writes is refused; readers may share one', () => {
    const path = makeFile(2 * MIB);
    attach({ file: path });
    expect(failure({ file: path }).code).toBe('DISK_IN_USE');
    expect(failure({ file: path, discard_writes: true }).code).toBe('DISK_IN_USE');
    const other = makeFile(2 * MIB, 'other');
    attach({ file: other, discard_writes: true });
    attach({ file: other, discard_writes: true });
    expect(failure({ file: other }).message).toContain('add discard_writes=on to every use');
  });

  test.each([
    ['does not exist', 'missing', {}, /^--pmem.*missing does not exist; check the spelling$/],
    ['is empty', 'empty', {}, /is empty; bring the file to a multiple \(truncate -s 2097152\)$/],
    [
      'has an odd size',
      'odd',
      {},
      /odd has 2097153 bytes, .* no multiple of 2097152 .* -s 4194304\), or use size=2097152$/,
    ],
    ['is too small', 'small', { size: 4 * MIB }, /small has 2097152 bytes \(2 MiB\) only; .*truncate -s 4194304/],
    ['is a directory without a size', 'directory', {}, /is a directory, and the size .* is missing; add size=/],
    ['is a device', '/dev/null', {}, /\/dev\/null is neither a file, a block device nor a directory/],
  ])('a file that %s is refused by name', (_what, name, more, message) => {
    makeFile(0, 'empty');
    makeFile(2 * MIB + 1, 'odd');
    makeFile(2 * MIB, 'small');
    mkdirSync(join(directory, 'directory'));
    const file = name.startsWith('/') ? name : join(directory, name);
    expect(failure({ file, ...more }).message).toMatch(message);
    expect(existsSync(join(directory, 'missing'))).toBe(false);
  });

  test('more than the processors can address is refused, with where that ends', () => {
    const path = makeFile(128 * MIB);
    const error = failure({ file: path }, new DeviceMemorySpace(ram.map, 32));
    expect(error.code).toBe('MEMORY');
    expect(error.message).toContain("the processors' addresses end at 4 GiB, and 128 MiB more do not fit");
  });

  test('buffers of any device may lie in it, and cross from one piece to the next', () => {
    const device = attach({ file: makeFile(2 * GIB + 2 * MIB) });
    const memory = memoryWith(device);
    expect(memory.contains(6 * GIB - PAGE_SIZE, 2 * PAGE_SIZE)).toBe(true);
    expect(memory.chunkIndex(0, 1)).toBe(1);
    expect(memory.chunkIndex(0x8000_0000, 1)).toBe(2);
  });
});
