// What a VM tells of itself while it lives, and how it is stopped with and without grace.

import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Vm, type VmEvent } from '../../../src/vmm/vm.js';
import { endIdleThreads } from '../../../src/vmm/worker-pool.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually, threads } from '../../support/process-state.js';
import { CODE, writeKernel } from '../../support/tiny-kernel.js';
import { ConsoleRecorder, testConfig, withVm } from '../../support/vms.js';

const ECHO_PORT = 7;

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-events-'));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

describeKvm('events', () => {
  test('by type and all together, from the first to the last', async () => {
    const all: VmEvent[] = [];
    const vm = await Vm.create(testConfig({ vsock: { cid: 3 } }), { onEvent: (event) => all.push(event) });
    const heard: string[] = [];
    vm.events.on('paused', ({ type }) => heard.push(type));
    vm.events.once('resumed', ({ type }) => heard.push(type));
    const shutdown = once(vm.events, 'shutdown');
    const console = new ConsoleRecorder(vm);
    await vm.start();
    await console.waitFor(/> $/);
    const saved = join(directory, 'saved');
    for (let round = 0; round < 2; round++) {
      await vm.pause();
      await vm.resume();
    }
    await vm.snapshot(saved);
    await vm.stop();
    expect(await shutdown).toEqual([{ type: 'shutdown', exit: { reason: 'stopped' } }]);
    expect(heard).toEqual(['paused', 'resumed', 'paused', 'paused']);
    const round = ['pausing', 'paused', 'resuming', 'resumed'];
    expect(all.map(({ type }) => type)).toEqual([
      ...['booting', 'booted', ...round, ...round],
      ...['pausing', 'paused', 'snapshotting', 'snapshotted', 'resuming', 'resumed', 'shutdown'],
    ]);
    expect(all).toContainEqual({ type: 'snapshotted', directory: saved });
    expect(vm.events.countOf('paused')).toBe(3);

    const restored: VmEvent[] = [];
    const again = await Vm.restore(saved, { onEvent: (event) => restored.push(event) });
    await again.resume();
    await again.stop();
    expect(restored.map(({ type }) => type)).toEqual(['restoring', 'restored', 'resuming', 'resumed', 'shutdown']);
  });

  test('vsock connections are told of while somebody listens', async () => {
    await withVm(testConfig({ vsock: { cid: 3 } }), async (vm, console) => {
      await console.waitFor(/> $/);
      const echo = async (): Promise<void> => {
        const stream = await vm.vsock.connect(ECHO_PORT);
        stream.end('hello');
        stream.resume();
        await once(stream, 'close');
      };
      await echo();
      const events: VmEvent[] = [];
      const note = (event: VmEvent): unknown => events.push(event);
      vm.events.on('vsock-connected', note).on('vsock-disconnected', note);
      // Interest takes its way to the worker before the next connect does.
      await Promise.resolve();
      await echo();
      await eventually('a connection and its end', () => events.length === 2);
      const connection = { type: 'stream', guestPort: ECHO_PORT, peerCid: 2 };
      expect(events).toEqual([
        { type: 'vsock-connected', connection: expect.objectContaining({ ...connection, state: 'established' }) },
        {
          type: 'vsock-disconnected',
          reason: 'finished',
          connection: expect.objectContaining({ ...connection, rxBytes: 5, txBytes: 5 }),
        },
      ]);
      vm.events.off('vsock-connected', note).off('vsock-disconnected', note);
      await echo();
      // Whatever was told of is here before this answer.
      await vm.vsock.connections();
      expect(events).toHaveLength(2);
    });
  });
});

describeKvm('a stop with grace', () => {
  const acpi = (code: readonly number[]) => testConfig({ payload: { kernel: writeKernel(directory, code) } });

  test('lets a guest that hears its power button shut down', async () => {
    await withVm(acpi(CODE.powerOffAtButton), async (vm) => {
      await vm.stop({ graceMs: 60_000 });
      expect(await vm.exited).toEqual({ reason: 'shutdown' });
    });
  });

  test('pulls the plug of one that does not, when its time is over or a second stop does not wait', async () => {
    await withVm(acpi(CODE.halt), async (vm) => {
      await vm.stop({ graceMs: 50 });
      expect(await vm.exited).toEqual({ reason: 'stopped' });
    });
    await withVm(acpi(CODE.spin), async (vm) => {
      const first = vm.stop({ graceMs: 2 ** 31 - 1 });
      await vm.stop();
      await first;
      expect(await vm.exited).toEqual({ reason: 'stopped' });
    });
  });

  test('does not wait for a guest that cannot hear it: paused, or without ACPI', async () => {
    await withVm(testConfig(), async (vm) => {
      await vm.stop({ graceMs: 2 ** 31 - 1 });
    });
    await withVm(acpi(CODE.halt), async (vm) => {
      await vm.pause();
      await vm.stop({ graceMs: 2 ** 31 - 1 });
      expect(await vm.exited).toEqual({ reason: 'stopped' });
    });
  });

  test('refuses times that cannot be', async () => {
    await withVm(testConfig(), async (vm) => {
      await expect(vm.stop({ graceMs: -1 })).rejects.toThrow(/^graceMs: -1 is not/);
      await expect(vm.stop({ graceMs: Number.NaN })).rejects.toThrow(RangeError);
    });
  });
});

describeKvm('several VMs in one process', () => {
  test('one crashes, one is paused, one is restored, and one echoes all the while', async () => {
    await endIdleThreads();
    const before = threads();
    const saved = join(directory, 'clone');
    const create = (changes: Parameters<typeof testConfig>[0]): Promise<Vm> => Vm.create(testConfig(changes));
    const crashing = await create({ payload: { kernel: writeKernel(directory, CODE.tripleFault) } });
    const paused = await create({ vsock: { cid: 4 } });
    const echoing = await create({ vsock: { cid: 5 } });
    const vms = [crashing, paused, echoing];
    try {
      await Promise.all([paused.start(), echoing.start()]);
      const stream = await echoing.vsock.connect(ECHO_PORT, { waitForDriver: true });
      let rounds = 0;
      let stopEchoing = false;
      const echoes = (async (): Promise<void> => {
        const replies = stream[Symbol.asyncIterator]();
        while (!stopEchoing) {
          const text = `round ${rounds}`;
          stream.write(text);
          for (let got = ''; got !== text;) got += String((await replies.next()).value);
          rounds++;
        }
      })();
      echoes.catch(() => undefined);
      const goesOn = async (): Promise<void> => {
        const from = rounds;
        await eventually('the echo goes on', () => rounds > from + 1);
      };

      (await paused.vsock.connect(ECHO_PORT, { waitForDriver: true })).destroy();
      await paused.pause();
      await paused.snapshot(saved);
      await goesOn();

      await crashing.start();
      expect(await crashing.exited).toMatchObject({ reason: 'crash' });
      await goesOn();

      const clone = await Vm.restore(saved);
      vms.push(clone);
      await clone.resume();
      const answer = await clone.vsock.connect(ECHO_PORT, { waitForDriver: true });
      answer.end('from the clone');
      let text = '';
      for await (const piece of answer) text += String(piece);
      expect(text).toBe('from the clone');
      await clone.stop();
      await goesOn();

      const exits = paused.exitCount;
      await goesOn();
      expect(paused.exitCount).toBe(exits);
      await paused.resume();
      const after = await paused.vsock.connect(ECHO_PORT);
      after.end('still there');
      let still = '';
      for await (const piece of after) still += String(piece);
      expect(still).toBe('still there');

      stopEchoing = true;
      await echoes;
      stream.destroy();
    } finally {
      await Promise.all(vms.map((vm) => vm.stop()));
    }
    await endIdleThreads();
    await eventually('every thread is gone', () => threads() <= before);
  });
});
