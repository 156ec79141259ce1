// The entropy device on a driven ring, with real files and a pipe in place of a device that has nothing now.

import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { RngDevice } from '../../../src/devices/rng/device.js';
import { RNG_COUNTERS } from '../../../src/devices/rng/settings.js';
import { close, libc, O_NONBLOCK, O_RDONLY, open } from '../../../src/platform/libc.js';
import { NativeBuffer } from '../../../src/platform/native-buffer.js';
import { SOCK_STREAM, socketPair } from '../../../src/platform/unix-socket.js';
import { KIB, MIB, type Fd } from '../../../src/platform/units.js';
import { attachRng } from '../../../src/vmm/attach/rng.js';
import { ReleaseStack } from '../../../src/vmm/release-stack.js';
import { DeviceHost, DrivenDevice } from '../../support/driven-device.js';
import { TestMemory } from '../../support/driven-ring.js';
import { openDescriptors } from '../../support/process-state.js';

let directory = '';
let descriptors = 0;
let fds: Fd[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-rng-'));
  descriptors = openDescriptors();
});
afterEach(() => {
  for (const fd of fds) close(fd);
  fds = [];
  expect(openDescriptors()).toBe(descriptors);
  rmSync(directory, { recursive: true });
});

function own(fd: Fd): Fd {
  fds.push(fd);
  return fd;
}

function driven(fd: Fd, path = 'source'): DrivenDevice<RngDevice> {
  const host = new DeviceHost(RNG_COUNTERS);
  const device = new RngDevice({ kind: 'rng', fd, path }, host.context);
  return new DrivenDevice(device, host, new TestMemory(4 * MIB), 1);
}

function file(contents: Uint8Array): Fd {
  const path = join(directory, 'source');
  writeFileSync(path, contents);
  return own(open(path, O_RDONLY | O_NONBLOCK));
}

test('a request that waits for its source is answered by the device that goes on, once', () => {
  const [empty, peer] = socketPair(SOCK_STREAM).map(own);
  using guest = driven(empty);
  const address = guest.ram.allocate(64);
  expect(guest.send(0, [{ address, length: 64, writable: true }])).toEqual([]);
  const source = own(open('/dev/urandom', O_RDONLY | O_NONBLOCK));
  guest.restore(new RngDevice({ kind: 'rng', fd: source, path: 'source' }, guest.host.context));
  expect(guest.rings[0].collect().map(({ length }) => length)).toEqual([64]);
  expect(guest.send(0, [{ address, length: 32, writable: true }]).map(({ length }) => length)).toEqual([32]);
  // Nobody waits for the other source any more.
  expect(guest.host.loop.watched).toBe(0);
  expect(peer).toBeGreaterThan(0);
});

describe('the entropy device', () => {
  test('fills a buffer from /dev/urandom, all of it, and interrupts', () => {
    using guest = driven(own(open('/dev/urandom', O_RDONLY | O_NONBLOCK)));
    const { ram } = guest;
    const address = ram.allocate(64);
    const used = guest.send(0, [{ address, length: 64, writable: true }]);
    expect(used.map(({ length }) => length)).toEqual([64]);
    expect(ram.bytes.subarray(address, address + 64).some((byte) => byte !== 0)).toBe(true);
    expect(ram.bytes[address + 64]).toBe(0);
    expect(guest.interrupt.used).toBe(1);
    expect(guest.host.count('bytes')).toBe(64);
  });

  test('the buffers of a chain are filled in order, by one read, as far as the source goes', () => {
    using guest = driven(file(Uint8Array.of(1, 2, 3, 4, 5)));
    const { ram } = guest;
    const first = ram.allocate(3);
    const second = ram.allocate(16);
    const used = guest.send(0, [
      { address: first, length: 3, writable: true },
      { address: second, length: 16, writable: true },
    ]);
    expect(used.map(({ length }) => length)).toEqual([5]);
    expect([...ram.bytes.subarray(first, first + 3)]).toEqual([1, 2, 3]);
    expect([...ram.bytes.subarray(second, second + 3)]).toEqual([4, 5, 0]);
  });

  test('a huge request gets a part: the worker has other devices', () => {
    using guest = driven(own(open('/dev/zero', O_RDONLY | O_NONBLOCK)));
    const address = guest.ram.allocate(MIB);
    const used = guest.send(0, [{ address, length: MIB, writable: true }]);
    expect(used.map(({ length }) => length)).toEqual([64 * KIB]);
  });

  test('more requests than a batch are all answered, over several turns', () => {
    using guest = driven(own(open('/dev/zero', O_RDONLY | O_NONBLOCK)));
    const address = guest.ram.allocate(16);
    for (let count = 0; count < 50; count++) guest.rings[0].add([{ address, length: 16, writable: true }]);
    let used = guest.notify(0).length;
    expect(used).toBeLessThan(50);
    while (used < 50) {
      guest.host.loop.turn(0);
      used += guest.rings[0].collect().length;
    }
    expect(guest.host.count('requests')).toBe(50);
  });

  test('a source that has nothing now is waited for, and not watched any longer than that', () => {
    const [theirs, ours] = socketPair(SOCK_STREAM).map(own);
    using guest = driven(theirs);
    const address = guest.ram.allocate(16);
    expect(guest.send(0, [{ address, length: 16, writable: true }])).toEqual([]);
    expect(guest.host.loop.watched).toBe(1);
    guest.host.loop.turn(0);
    expect(guest.host.count('waits')).toBe(1);

    const bytes = new NativeBuffer(4);
    bytes.setU32(0, 0x04030201);
    libc.write(ours, bytes.address, 4);
    guest.host.loop.turn(0);
    expect(guest.rings[0].collect().map(({ length }) => length)).toEqual([4]);
    expect([...guest.ram.bytes.subarray(address, address + 4)]).toEqual([1, 2, 3, 4]);
    expect(guest.host.loop.watched).toBe(0);
  });

  test('a reset while a request waits lets go of the source and of the ring', () => {
    const [theirs, ours] = socketPair(SOCK_STREAM).map(own);
    using guest = driven(theirs);
    const address = guest.ram.allocate(16);
    guest.send(0, [{ address, length: 16, writable: true }]);
    guest.device.reset();
    expect(guest.host.loop.watched).toBe(0);
    libc.write(ours, new NativeBuffer(4).address, 4);
    guest.host.loop.turn(0);
    expect(guest.notify(0)).toEqual([]);

    guest.activate();
    expect(guest.send(0, [{ address, length: 16, writable: true }])).toHaveLength(1);
  });

  test('at the end of a file the request stays open, and the log says why, once', () => {
    using guest = driven(file(Uint8Array.of(9)), '/some/file');
    const address = guest.ram.allocate(16);
    const buffer = [{ address, length: 16, writable: true }];
    expect(guest.send(0, buffer).map(({ length }) => length)).toEqual([1]);
    expect(guest.send(0, buffer)).toEqual([]);
    for (let turn = 0; turn < 10; turn++) guest.host.loop.turn(0);
    expect(guest.host.logged).toEqual([expect.stringMatching(/\/some\/file is at its end: .*\/dev\/urandom/)]);
    expect(guest.interrupt.resets).toBe(0);
  });

  test('a source that cannot be read is named once, and tried again later', () => {
    // Reading a descriptor that is open for writing only fails with EBADF.
    const fd = openSync(join(directory, 'writing'), 'w') as Fd;
    using guest = driven(fd, '/some/device');
    const buffer = [{ address: guest.ram.allocate(16), length: 16, writable: true }];
    expect(guest.send(0, buffer)).toEqual([]);
    expect(guest.notify(0)).toEqual([]);
    expect(guest.notify(0)).toEqual([]);
    expect(guest.host.logged).toEqual([expect.stringMatching(/\/some\/device cannot be read \(EBADF\)/)]);
    closeSync(fd);
  });

  test('a request without room is given back empty and counted', () => {
    using guest = driven(own(open('/dev/urandom', O_RDONLY | O_NONBLOCK)));
    const address = guest.ram.allocate(16);
    expect(guest.send(0, [{ address, length: 16 }]).map(({ length }) => length)).toEqual([0]);
    expect(guest.host.count('faults')).toBe(1);
  });

  test('a buffer outside RAM is given back unused; the next one is served', () => {
    using guest = driven(own(open('/dev/urandom', O_RDONLY | O_NONBLOCK)));
    expect(guest.send(0, [{ address: 2 ** 40, length: 16, writable: true }])).toHaveLength(1);
    expect(guest.host.count('faults')).toBe(1);
    const address = guest.ram.allocate(16);
    expect(guest.send(0, [{ address, length: 16, writable: true }]).map(({ length }) => length)).toEqual([16]);
  });

  test('a ring that makes no sense: the device asks for a reset, and works after it', () => {
    using guest = driven(own(open('/dev/urandom', O_RDONLY | O_NONBLOCK)));
    guest.rings[0].offerHead(999);
    guest.notify(0);
    expect(guest.interrupt.resets).toBe(1);
    guest.notify(0);
    expect(guest.interrupt.resets).toBe(1);
    guest.device.reset();
    guest.activate();
    const address = guest.ram.allocate(16);
    expect(guest.send(0, [{ address, length: 16, writable: true }])).toHaveLength(1);
  });

  test('a driver without a queue is asked to reset', () => {
    using guest = driven(own(open('/dev/urandom', O_RDONLY | O_NONBLOCK)));
    guest.device.reset();
    guest.activate([], [0]);
    expect(guest.interrupt.resets).toBe(1);
  });
});

describe('the source', () => {
  const attach = (src: string): ReleaseStack => {
    const resources = new ReleaseStack();
    try {
      attachRng({ src }, { resources, log: () => undefined });
      return resources;
    } catch (error) {
      resources.releaseAll();
      throw error;
    }
  };

  test('is opened, and closed with the VM', () => {
    const resources = attach('/dev/urandom');
    expect(openDescriptors()).toBe(descriptors + 1);
    resources.releaseAll();
  });

  test.each([
    ['missing', /^--rng: .*missing does not exist; check the spelling$/],
    ['.', /^--rng src=.* is a directory; name a source of random bytes, for instance \/dev\/urandom$/],
    ['empty', /^--rng src=.*empty is empty; name a source/],
  ])('%s: refused by name', (name, message) => {
    writeFileSync(join(directory, 'empty'), '');
    expect(() => attach(join(directory, name))).toThrow(expect.objectContaining({ code: 'HOST_PATH' }));
    expect(() => attach(join(directory, name))).toThrow(message);
  });

  test('one that cannot be opened is refused by name', () => {
    const calls = libc as { -readonly [K in 'open']: (typeof libc)[K] };
    const { open: real } = calls;
    calls.open = () => libc.close(-1); // EBADF, as good a failure as any.
    try {
      expect(() => attach('/dev/urandom')).toThrow(/^--rng src=\/dev\/urandom cannot be opened for reading \(EBADF\)/);
    } finally {
      calls.open = real;
    }
  });
});
