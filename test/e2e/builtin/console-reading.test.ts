// Reading a VM's console through the library: waiting, streams, and the end of the VM.

import { setImmediate } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { testConfig } from '../../support/vms.js';

describeKvm('the console of a VM', () => {
  test('is waited for from its first byte on, however late one asks', async () => {
    await using vm = await Vm.create(testConfig());
    await vm.start();
    const { end } = await vm.console.waitFor(/> $/);
    const banner = await vm.console.waitFor(/^tsvmm guest (?<version>\S+), 64 MiB\r\n/);
    expect(banner).toMatchObject({ start: 0, captures: [banner.groups['version']] });
    await vm.console.write(Buffer.from('help\r'));
    expect((await vm.console.waitFor('poweroff', { from: end })).start).toBeGreaterThan(end);
    expect(vm.console.printed).toBe(Buffer.byteLength(vm.console.tail()));
    await expect(vm.console.waitFor('login:', { timeout: 1 })).rejects.toMatchObject({ code: 'TIMED_OUT' });
  });

  test('its end ends who waits, and is known afterwards', async () => {
    const vm = await Vm.create(testConfig());
    const waiting = expect(vm.console.waitFor('login:')).rejects.toMatchObject({
      code: 'ENDED',
      tail: expect.stringContaining('tsvmm guest') as unknown,
    });
    await vm.start();
    await vm.console.waitFor('> ');
    await vm.stop();
    await waiting;
    await vm.console.waitFor('tsvmm guest');
    await expect(vm.console.waitFor('login:')).rejects.toMatchObject({ code: 'ENDED' });
  });

  test('as a Duplex it types and reads, from the first byte to the end of the VM', async () => {
    await using vm = await Vm.create(testConfig());
    const stream = vm.console.stream();
    let text = '';
    stream.setEncoding('latin1').on('data', (piece: string) => {
      text += piece;
    });
    await vm.start();
    await vm.console.waitFor('> ');
    stream.write('poweroff\r');
    expect(await vm.exited).toEqual({ reason: 'shutdown' });
    while (!stream.closed) await setImmediate();
    expect(text).toBe(vm.console.tail());
    expect(text).toMatch(/^tsvmm guest [^]*> poweroff/);
  });

  test('a machine without one says so', async () => {
    await using vm = await Vm.create(testConfig({ serial: { mode: 'Off' } }));
    await expect(vm.console.waitFor('x')).rejects.toMatchObject({ code: 'NO_CONSOLE' });
    vm.console.stream().resume();
  });

  test('await using stops the VM at the end of the block', async () => {
    let vm: Vm;
    {
      await using inner = await Vm.create(testConfig());
      await inner.start();
      vm = inner;
    }
    expect(await vm.exited).toEqual({ reason: 'stopped' });
  });
});
