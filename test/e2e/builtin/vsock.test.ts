// vsock between real Unix sockets and the built-in guest, in a real VM.

import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { MIB } from '../../../src/platform/units.js';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { ConsoleRecorder, testConfig } from '../../support/vms.js';
import { connectVsock, readAll } from '../../support/vsock-client.js';

/** The pattern of RFC 864: lines of 72 of the 95 printing characters, each beginning one character later than the one before. */
function chargenLine(index: number): string {
  let line = '';
  for (let column = 0; column < 72; column++) line += String.fromCharCode(32 + ((index + column) % 95));
  return `${line}\r\n`;
}

describeKvm('vsock with the built-in guest', () => {
  let directory = '';
  let socketPath = '';
  let vm: Vm;
  let console: ConsoleRecorder;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-vsock-'));
    socketPath = join(directory, 'ch.vsock');
    vm = await Vm.create(testConfig({ memory: { size: 128 * MIB }, vsock: { cid: 3, socket: socketPath } }));
    console = new ConsoleRecorder(vm);
    await vm.start();
    await console.waitFor(/> $/);
  });
  afterAll(async () => {
    await vm.stop();
    rmSync(directory, { recursive: true });
  });

  test('the banner names the guest CID and the services', () => {
    expect(console.text).toMatch(/vsock CID 3: echo 7, discard 9, daytime 13, chargen 19, http 80/);
  });

  test('echo answers what was sent right behind the CONNECT line', async () => {
    const socket = await connectVsock(socketPath, 7);
    socket.end('hello\n');
    expect((await readAll(socket)).toString()).toBe('hello\n');
  });

  test('daytime says the time and closes', async () => {
    const socket = await connectVsock(socketPath, 13);
    const text = (await readAll(socket)).toString();
    const time = /^(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d) UTC\r\n$/.exec(text);
    expect(time).not.toBeNull();
    expect(Math.abs(Date.parse(text.trim().replace(' UTC', 'Z').replace(' ', 'T')) - Date.now())).toBeLessThan(60_000);
    socket.end();
  });

  test('chargen sends its pattern, whole lines in order, for as long as it is read', async () => {
    const socket = await connectVsock(socketPath, 19);
    let text = '';
    for await (const piece of socket) {
      text += (piece as Buffer).toString('latin1');
      if (text.length > 4 * MIB) break; // Leaves the loop and destroys the socket.
    }
    const lines = text.split('\r\n').slice(0, -1);
    const start = lines[0].charCodeAt(0) - 32;
    const wrong = lines.findIndex((line, index) => `${line}\r\n` !== chargenLine(start + index));
    expect(wrong).toBe(-1);
  });

  test('a port that nobody serves is refused', async () => {
    await expect(connectVsock(socketPath, 4242)).rejects.toThrow('closed before OK');
  });

  test('64 MiB each way through echo over 50 connections at once, every byte checked', async () => {
    const share = Math.ceil((64 * MIB) / 50);
    const one = async (): Promise<void> => {
      const data = randomBytes(share);
      const sent = createHash('sha256').update(data).digest('hex');
      const socket = await connectVsock(socketPath, 7);
      const received = createHash('sha256');
      let count = 0;
      const reading = (async () => {
        for await (const piece of socket) {
          received.update(piece as Buffer);
          count += (piece as Buffer).length;
        }
      })();
      socket.end(data);
      await reading;
      expect([count, received.digest('hex')]).toEqual([share, sent]);
    };
    await Promise.all(Array.from({ length: 50 }, one));
  }, 60_000);

  test('the guest connects to the host and echoes lines', async () => {
    const server = createServer({ allowHalfOpen: true });
    server.listen(`${socketPath}_5000`);
    await once(server, 'listening');
    try {
      const connection = once(server, 'connection') as Promise<[Socket]>;
      await vm.console.write(Buffer.from('connect 5000\r'));
      const [socket] = await connection;
      socket.write('one\ntwo\n');
      let text = '';
      for await (const piece of socket) {
        text += (piece as Buffer).toString();
        if (text.length >= 8) break;
      }
      expect(text).toBe('one\ntwo\n');
      // The end of the loop has closed the connection: the guest is back at its prompt.
      await console.waitFor(/connected[^]*one[^]*two[^]*\n> $/);
    } finally {
      server.close();
    }
  });

  test('a guest connection to a port without a listener is refused', async () => {
    const from = console.text.length;
    await vm.console.write(Buffer.from('connect 5001\r'));
    await console.waitFor(/refused/, 10_000, from);
  });

  test('a client that vanishes in the middle of a transfer harms nobody', async () => {
    const vanishing = await connectVsock(socketPath, 19);
    await once(vanishing, 'readable');
    vanishing.destroy();
    const socket = await connectVsock(socketPath, 7);
    socket.end('still here');
    expect((await readAll(socket)).toString()).toBe('still here');
  });
});
