// Streams of the library (`vm.vsock`) and the built-in guest, in a real VM, with and without a Unix socket beside them.

import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { MIB } from '../../../src/platform/units.js';
import { Vm, type VsockServer, type VsockStream } from '../../../src/index.js';
import { endIdleThreads } from '../../../src/vmm/worker-pool.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually, openDescriptors } from '../../support/process-state.js';
import { ConsoleRecorder, testConfig, withVm } from '../../support/vms.js';

const ECHO = 7;
const DISCARD = 9;
const DAYTIME = 13;
const CHARGEN = 19;

async function readAll(stream: VsockStream): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(piece as Buffer);
  return Buffer.concat(pieces);
}

/** Sends `count` bytes through echo and compares; the sender heeds back-pressure. */
async function echo(stream: VsockStream, count: number): Promise<void> {
  const block = randomBytes(Math.min(count, MIB));
  const sent = createHash('sha256');
  const received = createHash('sha256');
  let back = 0;
  const reading = (async () => {
    for await (const piece of stream) {
      received.update(piece as Buffer);
      back += (piece as Buffer).length;
    }
  })();
  for (let left = count; left > 0; left -= block.length) {
    const piece = block.subarray(0, left);
    sent.update(piece);
    if (!stream.write(piece)) await once(stream, 'drain');
  }
  stream.end();
  await reading;
  expect([back, received.digest('hex')]).toEqual([count, sent.digest('hex')]);
}

describeKvm('streams inside the process', () => {
  let directory = '';
  let socketPath = '';
  let vm: Vm;
  let console: ConsoleRecorder;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-in-process-'));
    socketPath = join(directory, 's');
    vm = await Vm.create(testConfig({ memory: { size: 256 * MIB }, vsock: { cid: 3, socket: socketPath } }));
    console = new ConsoleRecorder(vm);
    await vm.start();
    await console.waitFor(/> $/);
  });
  afterAll(async () => {
    await vm.stop();
    rmSync(directory, { recursive: true });
  });

  async function typeConnect(port: number): Promise<number> {
    const from = console.text.length;
    void vm.console.write(Buffer.from(`connect ${port}\r`));
    await console.waitFor(/connect \d+\r\n/, 10_000, from);
    return from;
  }

  /** Ends the session that `connect` opened, so that the console takes commands again. */
  async function leaveSession(): Promise<void> {
    const from = console.text.length;
    void vm.console.write(Buffer.from('\x03'));
    await console.waitFor(/> $/, 10_000, from);
  }

  describe('connect', () => {
    test('64 MiB through echo come back whole, with back-pressure both ways', async () => {
      await echo(await vm.vsock.connect(ECHO), 64 * MIB);
    }, 60_000);

    test('rule 24: end() is SHUTDOWN(SEND): what the guest still has to say arrives', async () => {
      const stream = await vm.vsock.connect(ECHO);
      stream.end('hello');
      expect((await readAll(stream)).toString()).toBe('hello');
    });

    test('the end of the guest is an end, not an error, and frees the stream', async () => {
      const stream = await vm.vsock.connect(DAYTIME);
      expect((await readAll(stream)).toString()).toMatch(/^\d{4}-\d\d-\d\d .*UTC\r\n$/);
      await finished(stream);
      expect([stream.errored, stream.closed]).toEqual([null, true]);
    });

    test('a stream knows its ports and counts its bytes', async () => {
      const stream = await vm.vsock.connect(ECHO);
      expect(stream.guestPort).toBe(ECHO);
      expect(stream.hostPort).toBeGreaterThanOrEqual(0x4000_0000);
      stream.end('12345');
      await readAll(stream);
      expect([stream.bytesWritten, stream.bytesRead]).toEqual([5, 5]);
    });

    test('rule 24: nothing written before end() is lost when the stream is destroyed after finish', async () => {
      const stream = await vm.vsock.connect(DISCARD);
      stream.end(Buffer.alloc(MIB));
      await finished(stream, { readable: false });
      stream.destroy();
      await once(stream, 'close');
      expect(stream.bytesWritten).toBe(MIB);
    });

    test('a reader that stops stops the guest', async () => {
      const stream = await vm.vsock.connect(CHARGEN);
      await once(stream, 'readable');
      await sleep(100);
      const held = stream.readableLength;
      await sleep(100);
      // One piece in the stream; the rest waits in the ring and in the guest.
      expect(held).toBeLessThanOrEqual(128 * 1024);
      expect(stream.readableLength).toBe(held);
      stream.destroy();
    });

    test('a port that nobody serves is refused', async () => {
      await expect(vm.vsock.connect(4242)).rejects.toMatchObject({ name: 'VsockError', code: 'REFUSED', port: 4242 });
    });

    test('ports and timeouts that cannot be are refused before anything is asked', async () => {
      await expect(vm.vsock.connect(-1)).rejects.toThrow(RangeError);
      await expect(vm.vsock.connect(2 ** 32)).rejects.toThrow(RangeError);
      await expect(vm.vsock.connect(7, { timeout: -1 })).rejects.toThrow(RangeError);
      expect(() => vm.vsock.listen(1.5)).toThrow(RangeError);
    });

    test('an AbortSignal aborts an attempt, and leaves an open stream alone', async () => {
      const reason = new Error('changed my mind');
      await expect(vm.vsock.connect(ECHO, { signal: AbortSignal.abort(reason) })).rejects.toMatchObject({
        code: 'ABORTED',
        cause: reason,
      });
      const pending = new AbortController();
      const attempt = vm.vsock.connect(ECHO, { signal: pending.signal });
      pending.abort(reason);
      await expect(attempt).rejects.toMatchObject({ code: 'ABORTED' });

      const open = new AbortController();
      const stream = await vm.vsock.connect(ECHO, { signal: open.signal });
      open.abort();
      stream.end('still here');
      expect((await readAll(stream)).toString()).toBe('still here');
    });

    test('200 streams at once, each with its own bytes', async () => {
      const streams = await Promise.all(Array.from({ length: 200 }, () => vm.vsock.connect(ECHO)));
      await Promise.all(streams.map((stream) => echo(stream, 100_000)));
    }, 60_000);

    test('streams cost no descriptor, and those that are over nothing at all', async () => {
      const before = openDescriptors();
      const streams = await Promise.all(Array.from({ length: 20 }, () => vm.vsock.connect(ECHO)));
      expect(openDescriptors()).toBe(before);
      for (const stream of streams) stream.destroy();
      await eventually('the guest has forgotten them', () => streams.every(({ closed }) => closed));
    });

    test('sockets and streams live side by side', async () => {
      const { connectVsock, readAll: readSocket } = await import('../../support/vsock-client.js');
      const socket = await connectVsock(socketPath, ECHO);
      const stream = await vm.vsock.connect(ECHO);
      socket.end('socket');
      stream.end('stream');
      expect([(await readSocket(socket)).toString(), (await readAll(stream)).toString()]).toEqual(['socket', 'stream']);
    });
  });

  describe('listen', () => {
    let server: VsockServer | undefined;

    test('the guest connects, both sides speak, and the guest ends', async () => {
      server = vm.vsock.listen(5000);
      const connection = once(server, 'connection') as Promise<[VsockStream]>;
      await typeConnect(5000);
      const [stream] = await connection;
      expect(stream.hostPort).toBe(5000);
      stream.write('one\ntwo\n');
      let text = '';
      for await (const piece of stream.iterator({ destroyOnReturn: false })) {
        text += (piece as Buffer).toString();
        if (text.length >= 8) break;
      }
      expect(text).toBe('one\ntwo\n');
      await console.waitFor(/connected[^]*one[^]*two/);
      const ended = once(stream, 'end');
      stream.resume();
      await leaveSession();
      await ended;
      server.close();
    });

    test('a server here comes before a Unix socket for the same port, which has it again afterwards', async () => {
      const unix = createServer((socket) => socket.end('unix\n'));
      unix.listen(`${socketPath}_5001`);
      await once(unix, 'listening');
      server = vm.vsock.listen(5001, (stream) => stream.end('here\n'));
      let from = await typeConnect(5001);
      await console.waitFor(/< here/, 10_000, from);
      await console.waitFor(/> $/, 10_000, from);
      server.close();
      from = await typeConnect(5001);
      await console.waitFor(/< unix/, 10_000, from);
      unix.close();
      await console.waitFor(/> $/, 10_000, from);
    });

    test('a port has one server', () => {
      server = vm.vsock.listen(5002);
      expect(() => vm.vsock.listen(5002)).toThrow(expect.objectContaining({ code: 'PORT_IN_USE', port: 5002 }));
      server.close();
      vm.vsock.listen(5002).close();
    });

    test('with nobody to take the connection the guest is refused', async () => {
      server = vm.vsock.listen(5003);
      const from = await typeConnect(5003);
      await console.waitFor(/refused/, 10_000, from);
      server.close();
    });

    test('a server is an async iterable of connections; leaving the loop closes it', async () => {
      server = vm.vsock.listen(5004);
      const closed = once(server, 'close');
      const from = console.text.length;
      void vm.console.write(Buffer.from('connect 5004\r'));
      for await (const stream of server) {
        stream.end('iterated\n');
        break;
      }
      await closed;
      await console.waitFor(/< iterated/, 10_000, from);
      await console.waitFor(/> $/, 10_000, from);
    });

    test('destroy() resets: the guest hears at once', async () => {
      server = vm.vsock.listen(5005, (stream) => stream.destroy());
      const from = await typeConnect(5005);
      await console.waitFor(/closed by the host|refused/, 10_000, from);
      server.close();
    });
  });
});

describeKvm('streams and the life of the VM', () => {
  const config = testConfig({ vsock: { cid: 3 } });

  test('before the driver is up a connect fails at once, or waits if asked to', async () => {
    const vm = await Vm.create(config);
    try {
      await expect(vm.vsock.connect(ECHO)).rejects.toMatchObject({ code: 'DRIVER_NOT_READY' });
      const waiting = vm.vsock.connect(ECHO, { waitForDriver: true, timeout: 20_000 });
      await vm.start();
      const stream = await waiting;
      stream.end('early');
      expect((await readAll(stream)).toString()).toBe('early');
    } finally {
      await vm.stop();
    }
  });

  test('a wait for the driver ends with its timeout', async () => {
    const vm = await Vm.create(config);
    try {
      const started = performance.now();
      await expect(vm.vsock.connect(ECHO, { waitForDriver: true, timeout: 50 })).rejects.toMatchObject({
        code: 'TIMED_OUT',
      });
      expect(performance.now() - started).toBeLessThan(1000);
    } finally {
      await vm.stop();
    }
  });

  test('the end of the VM ends everything: streams, attempts, servers', async () => {
    await endIdleThreads();
    const before = openDescriptors();
    const vm = await Vm.create(config);
    const server = vm.vsock.listen(5000, () => undefined);
    const closed = once(server, 'close');
    await vm.start();
    const chargen = await vm.vsock.connect(CHARGEN, { waitForDriver: true });
    const discard = await vm.vsock.connect(DISCARD);
    const errors = [chargen, discard].map((stream) => once(stream, 'error'));
    chargen.resume();
    const writing = setInterval(() => discard.write(Buffer.alloc(MIB)), 1);
    await once(chargen, 'data');
    const pending = vm.vsock.connect(ECHO);
    await Promise.all([vm.stop(), expect(pending).rejects.toMatchObject({ code: 'CLOSED' })]);
    clearInterval(writing);
    for (const error of errors) expect((await error)[0]).toMatchObject({ code: 'CLOSED' });
    await closed;
    await expect(vm.vsock.connect(ECHO)).rejects.toMatchObject({ code: 'CLOSED' });
    expect(() => vm.vsock.listen(5000)).toThrow(expect.objectContaining({ code: 'CLOSED' }));
    await endIdleThreads();
    await eventually('all descriptors are closed', () => openDescriptors() <= before);
  });

  test('what the guest had sent and ended is still there after the VM', async () => {
    const stream = await withVm(config, async (vm) => {
      const daytime = await vm.vsock.connect(DAYTIME, { waitForDriver: true });
      await once(daytime, 'readable');
      await sleep(50);
      return daytime;
    });
    expect((await readAll(stream)).toString()).toMatch(/UTC\r\n$/);
  });

  test('a VM without a vsock device says so', async () => {
    const vm = await Vm.create(testConfig());
    expect(() => vm.vsock).toThrow(expect.objectContaining({ code: 'NO_DEVICE' }));
    await vm.stop();
  });
});
