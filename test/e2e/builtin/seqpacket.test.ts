// SEQPACKET between the built-in guest and real sockets: the guest's echo keeps the boundaries of messages.

import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { SeqpacketClient } from '../../support/seqpacket-client.js';
import { ConsoleRecorder, testConfig } from '../../support/vms.js';

const ECHO = 7;

describeKvm('SEQPACKET and the built-in guest', () => {
  let directory = '';
  let socketPath = '';
  let vm: Vm;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-seqpacket-'));
    socketPath = join(directory, 'v');
    vm = await Vm.create(testConfig({ vsock: { cid: 3, socket: socketPath } }));
    const console = new ConsoleRecorder(vm);
    await vm.start();
    await console.waitFor(/> $/);
  });
  afterAll(async () => {
    await vm.stop();
    expect(existsSync(`${socketPath}.seqpacket`)).toBe(false);
    rmSync(directory, { recursive: true });
  });

  test('messages of every size come back one by one, and the end behind them', async () => {
    using client = await SeqpacketClient.connect(socketPath, ECHO);
    const sent = [1, 2, 100, 4096, 4097, 50_000, 150_000, 1].map((length) => randomBytes(length));
    const received: Buffer[] = [];
    for (const message of sent) {
      await client.send(message);
      const answer = await client.receive();
      if (answer !== undefined) received.push(answer);
    }
    expect(received.map((message) => message.length)).toEqual(sent.map((message) => message.length));
    expect(Buffer.concat(received).equals(Buffer.concat(sent))).toBe(true);
    client.end();
    expect(await client.receive()).toBeUndefined();
  });

  test('many messages under way at once keep their order and their boundaries', async () => {
    using client = await SeqpacketClient.connect(socketPath, ECHO);
    const sent = Array.from({ length: 3000 }, (_, index) => `${index} ${'x'.repeat(index % 700)}`);
    const sending = (async () => {
      for (const message of sent) await client.send(message);
      client.end();
    })();
    const received: string[] = [];
    for (let message = await client.receive(); message !== undefined; message = await client.receive()) {
      received.push(message.toString());
    }
    await sending;
    expect(received).toEqual(sent);
  });

  test('a port without SEQPACKET is refused', async () => {
    await expect(SeqpacketClient.connect(socketPath, 4444)).rejects.toThrow('in place of OK');
  });
});
