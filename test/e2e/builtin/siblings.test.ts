// Guests that talk to each other: by their monitors' sockets, and straight when both are in this process.

import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Vm, type VsockConfig } from '../../../src/index.js';
import { endIdleThreads } from '../../../src/vmm/worker-pool.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually, openDescriptors } from '../../support/process-state.js';
import { ConsoleRecorder, testConfig } from '../../support/vms.js';

describeKvm('sibling guests', () => {
  let directory = '';
  let before = 0;
  const vms: Vm[] = [];

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-siblings-'));
    await endIdleThreads();
    before = openDescriptors();
  });
  afterEach(async () => {
    await Promise.all(vms.splice(0).map((vm) => vm.stop()));
    rmSync(directory, { recursive: true });
    await endIdleThreads();
    await eventually('all descriptors are closed', () => openDescriptors() <= before);
  });

  async function create(vsock: VsockConfig): Promise<{ vm: Vm; console: ConsoleRecorder }> {
    const vm = await Vm.create(testConfig({ vsock }));
    vms.push(vm);
    return { vm, console: new ConsoleRecorder(vm) };
  }

  async function start({ vm, console }: { vm: Vm; console: ConsoleRecorder }): Promise<void> {
    await vm.start();
    await console.waitFor(/> $/);
  }

  /** Types at a console, and waits for what it answers. */
  async function type(guest: { vm: Vm; console: ConsoleRecorder }, line: string, answer: RegExp): Promise<void> {
    const from = guest.console.text.length;
    await guest.vm.console.write(Buffer.from(`${line}\r`));
    await guest.console.waitFor(answer, 10_000, from);
  }

  test('two VMs of this process that name each other talk, straight, each seen by its own CID', async () => {
    const [socketA, socketB] = [join(directory, 'a'), join(directory, 'b')];
    const a = await create({ cid: 3, socket: socketA, peers: [{ cid: 4, socket: socketB }] });
    const b = await create({ cid: 4, socket: socketB, peers: [{ cid: 3, socket: socketA }] });
    await Promise.all([start(a), start(b)]);
    await type(a, 'connect 4:7', /connected/);
    await type(a, 'over to b', /< over to b/);
    await type(b, 'connect 3:7', /connected/);
    await type(b, 'over to a', /< over to a/);
    await type(a, '.', /closed\r\n> $/);
    await type(b, 'still here', /< still here/);
  });

  test('guests chat: one listens, the other calls, and neither echoes', async () => {
    const a = await create({ cid: 3 });
    const b = await create({ cid: 4 });
    a.vm.vsock.join(b.vm);
    await Promise.all([start(a), start(b)]);
    await type(a, 'chat 4:5000', /refused/);
    await type(b, 'listen 7', /a service has that port/);
    await type(b, 'listen 5000', /listening/);
    await type(b, 'too early', /not connected yet/);
    await type(a, 'chat 4:5001', /refused/);
    await type(a, 'chat 4:5000', /connected/);
    await b.console.waitFor(/connected/);
    await type(a, 'good day', /good day/);
    await b.console.waitFor(/< good day/);
    await type(b, 'to you, too', /to you, too/);
    await a.console.waitFor(/< to you, too/);
    await type(b, '.', /closed\r\n> $/);
    await a.console.waitFor(/closed by the guest\r\n> $/);
    expect(a.console.text).not.toContain('< good day');
    expect(b.console.text).not.toContain('< to you, too');
    await type(b, 'listen 5000', /listening/);
    await type(b, '.', /closed\r\n> $/);
    await type(a, 'chat 4:5000', /refused/);
  });

  test('VMs joined by their owner need no socket', async () => {
    const a = await create({ cid: 3 });
    const b = await create({ cid: 4 });
    a.vm.vsock.join(b.vm);
    await Promise.all([start(a), start(b)]);
    await type(a, 'connect 4:13', /UTC/);
    await type(b, 'connect 3:13', /UTC/);
    await type(b, 'connect 3:4242', /refused/);
    expect(() => a.vm.vsock.join(a.vm)).toThrow(RangeError);
  });

  test('a sibling that is not there, or has ended, refuses', async () => {
    const a = await create({ cid: 3, peers: [{ cid: 4, socket: join(directory, 'nobody') }] });
    const b = await create({ cid: 5 });
    a.vm.vsock.join(b.vm);
    await start(a);
    await type(a, 'connect 4:7', /refused/);
    await type(a, 'connect 6:7', /refused/);
    await type(a, 'connect 5:7', /refused/); // not started
    await start(b);
    await type(a, 'connect 5:7', /connected/);
    await b.vm.stop();
    await a.console.waitFor(/closed by the guest/);
    await type(a, 'connect 5:7', /refused/);
  });

  test('through a socket: any monitor that answers OK, with bytes right behind it', async () => {
    const path = join(directory, 'other');
    const server = createServer();
    server.listen(path);
    await once(server, 'listening');
    try {
      const a = await create({ cid: 3, peers: [{ cid: 4, socket: path }] });
      await start(a);
      const called = once(server, 'connection') as Promise<[Socket]>;
      await a.vm.console.write(Buffer.from('connect 4:1234\r'));
      const [socket] = await called;
      const [request] = (await once(socket, 'data')) as [Buffer];
      expect(request.toString()).toBe('CONNECT 1234\n');
      socket.write('OK 10');
      socket.write('24\nfirst\n');
      await a.console.waitFor(/connected[^]*< first/);
      await a.vm.console.write(Buffer.from('answer\r'));
      let text = '';
      while (!text.includes('answer\n')) text += String((await once(socket, 'data'))[0]);
      socket.end();
      await a.console.waitFor(/closed by the guest/);
    } finally {
      server.close();
    }
  });

  test.each([
    ['closes before OK', (socket: Socket) => void socket.end()],
    ['answers something else', (socket: Socket) => void socket.write('ERROR no\n')],
    ['stops in the middle of the line', (socket: Socket) => void socket.end('OK 12')],
    ['never ends its line', (socket: Socket) => void socket.write('OK 0123456789012345678901234567890')],
    ['says nothing', () => undefined],
  ])('a monitor that %s refuses', async (_what, answer) => {
    const path = join(directory, 'other');
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => answer(socket));
      socket.once('close', () => server.close());
    });
    server.listen(path);
    await once(server, 'listening');
    const a = await create({ cid: 3, peers: [{ cid: 4, socket: path }] });
    await start(a);
    await type(a, 'connect 4:7', /refused/);
    if (server.listening) await once(server, 'close');
  });

  test('through the other VM’s socket, as from another process', async () => {
    const socket = join(directory, 'b');
    const a = await create({ cid: 3, peers: [{ cid: 9, socket }] }); // Another CID than b has: not joined.
    const b = await create({ cid: 4, socket });
    await Promise.all([start(a), start(b)]);
    await type(a, 'connect 9:7', /connected/);
    await type(a, 'by socket', /< by socket/);
    await type(a, '.', /closed\r\n> $/);
    await type(a, 'connect 9:4242', /refused/);
  });
});
