// Holding a guest and letting it go on.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { VmEvent } from '../../../src/vmm/events.js';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually } from '../../support/process-state.js';
import { CODE, writeKernel } from '../../support/tiny-kernel.js';
import { testConfig, withVm } from '../../support/vms.js';
import { connectVsock, readAll } from '../../support/vsock-client.js';

const ECHO_PORT = 7;

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-pause-'));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

describeKvm('a paused guest', () => {
  test('takes no exit and no byte until it is resumed, and loses none', async () => {
    const socket = join(directory, 'pause.vsock');
    await withVm(testConfig({ vsock: { cid: 3, socket } }), async (vm, console) => {
      await console.waitFor(/> $/);
      const client = await connectVsock(socket, ECHO_PORT);
      client.on('data', () => undefined).resume();
      for (let round = 0; round < 5; round++) {
        await vm.pause();
        const before = vm.exitCount;
        const echoed = new Promise<string>((resolve) =>
          client.once('data', (bytes: Buffer) => resolve(bytes.toString())),
        );
        client.write(`round ${round}`);
        void vm.console.write(Buffer.from('\r'));
        const first = await Promise.race([echoed, new Promise((resolve) => setTimeout(resolve, 30, 'nothing'))]);
        expect(first).toBe('nothing');
        expect(vm.exitCount).toBe(before);
        await vm.resume();
        expect(await echoed).toBe(`round ${round}`);
      }
      client.end();
      await readAll(client);
    });
  });

  test('under load: a MiB through pauses and resumes comes back whole', async () => {
    const socket = join(directory, 'load.vsock');
    await withVm(testConfig({ vsock: { cid: 3, socket } }), async (vm, console) => {
      await console.waitFor(/> $/);
      const client = await connectVsock(socket, ECHO_PORT);
      const sent = Buffer.alloc(1 << 20, 'a paused guest loses nothing; ');
      const received = readAll(client);
      client.end(sent);
      for (let round = 0; round < 10; round++) {
        await vm.pause();
        await vm.resume();
      }
      expect((await received).equals(sent)).toBe(true);
    });
  });

  test.each([
    ['spins', CODE.spin],
    ['halts', CODE.halt],
    ['exits all the time', CODE.exits],
  ])('that %s is paused on all its vCPUs, and stopped while paused', async (_what, code) => {
    const cpus = { boot_vcpus: 3, max_vcpus: 3 };
    const events: VmEvent[] = [];
    const vm = await Vm.create(testConfig({ cpus, payload: { kernel: writeKernel(directory, code) } }), {
      onEvent: (event) => events.push(event),
    });
    await vm.start();
    await vm.pause();
    await vm.pause();
    await vm.resume();
    await vm.pause();
    await vm.stop();
    expect(await vm.exited).toEqual({ reason: 'stopped' });
    const [pause, resume] = [
      ['pausing', 'paused'],
      ['resuming', 'resumed'],
    ];
    const boots = ['booting', 'booted'];
    expect(events.map(({ type }) => type).filter((type) => !boots.includes(type))).toEqual([
      ...[...pause, ...resume, ...pause],
      'shutdown',
    ]);
    await expect(vm.pause()).rejects.toThrow(/does not run cannot pause/);
  });

  test('that reboots meanwhile is paused after it, or the pause is refused', async () => {
    let reboots = 0;
    const vm = await Vm.create(
      testConfig({ no_reboot: false, payload: { kernel: writeKernel(directory, CODE.reset) } }),
      {
        onEvent: ({ type }) => {
          if (type === 'rebooted') reboots++;
        },
      },
    );
    await vm.start();
    for (let round = 0; round < 10; round++) {
      const paused = await vm.pause().then(
        () => true,
        (error: unknown) => {
          expect(String(error)).toMatch(/cannot pause/);
          return false;
        },
      );
      if (paused) await vm.resume();
      const before = reboots;
      await eventually('another reboot', () => reboots > before);
    }
    await vm.stop();
    expect(await vm.exited).toEqual({ reason: 'stopped' });
  });
});
