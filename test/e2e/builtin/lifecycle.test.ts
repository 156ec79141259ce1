// A VM from creation to its end, on every path, with tiny kernels and the built-in guest.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { GIB, MIB } from '../../../src/platform/units.js';
import { Vm, type VmExit } from '../../../src/vmm/vm.js';
import { endIdleThreads } from '../../../src/vmm/worker-pool.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually, guestMappings, openDescriptors, threads } from '../../support/process-state.js';
import { CODE, writeKernel } from '../../support/tiny-kernel.js';
import { testConfig, withVm } from '../../support/vms.js';

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-lifecycle-'));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

function runCode(code: readonly number[]): Promise<VmExit> {
  const config = testConfig({ payload: { kernel: writeKernel(directory, code) } });
  return withVm(config, (vm) => vm.exited);
}

describeKvm('the end of a VM', () => {
  test('power-off by the sleep control register is a shutdown', async () => {
    expect(await runCode(CODE.powerOff)).toEqual({ reason: 'shutdown' });
  });

  test('the keyboard controller resets', async () => {
    expect(await runCode(CODE.reset)).toEqual({ reason: 'reset' });
  });

  test('a triple fault is a crash, with the registers in the report', async () => {
    const exit = await runCode(CODE.tripleFault);
    expect(exit).toMatchObject({ reason: 'crash' });
    const { report } = exit as { report: string };
    expect(report).toMatch(/^vCPU 0: triple fault\nRIP 0x/);
    expect(report).toMatch(/rax +[0-9a-f]{16}/);
    expect(report).toMatch(/cr3 +[0-9a-f]{16}/);
  });

  test('an instruction that KVM cannot fetch or emulate is a crash that says where', async () => {
    const exit = await runCode(CODE.jumpToNowhere);
    expect(exit).toMatchObject({ reason: 'crash' });
    expect((exit as { report: string }).report).toMatch(/KVM internal error, suberror \d+|triple fault/);
    expect((exit as { report: string }).report).toContain('RIP 0x30000000');
  });

  test.each([
    ['halts for ever', CODE.halt],
    ['spins without an exit', CODE.spin],
    ['exits all the time', CODE.exits],
  ])('a guest that %s is stopped', async (_what, code) => {
    const config = testConfig({ payload: { kernel: writeKernel(directory, code) } });
    const vm = await Vm.create(config);
    await vm.start();
    await eventually('the guest runs', () => vm.startTimes.entering > 0);
    await vm.stop();
    expect(await vm.exited).toEqual({ reason: 'stopped' });
  });

  test('a VM that was never started is stopped', async () => {
    const vm = await Vm.create(testConfig());
    await vm.stop();
    expect(await vm.exited).toEqual({ reason: 'stopped' });
    await expect(vm.start()).rejects.toThrow('starts once');
  });

  test('stopping right after the start, and twice, is the same', async () => {
    const vm = await Vm.create(testConfig());
    await vm.start();
    await Promise.all([vm.stop(), vm.stop()]);
    expect(await vm.exited).toEqual({ reason: 'stopped' });
  });

  test('a kernel that cannot be loaded leaves nothing behind', async () => {
    const socket = join(directory, 'ch.vsock');
    const config = testConfig({ payload: { kernel: '/dev/null' }, vsock: { cid: 3, socket } });
    await expect(Vm.create(config)).rejects.toThrow('/dev/null'); // Whatever is made once per process is made here.
    await endIdleThreads();
    const before = [openDescriptors(), threads(), guestMappings()];
    await expect(Vm.create(config)).rejects.toThrow('/dev/null');
    await endIdleThreads();
    expect([openDescriptors(), threads(), guestMappings()]).toEqual(before);
    expect(readdirSync(directory)).not.toContain('ch.vsock');
  });

  test('a guest larger than its memory is refused before anything starts', async () => {
    await expect(Vm.create(testConfig({ memory: { size: MIB } }))).rejects.toThrow(/memory/);
  });
});

describeKvm('guest memory', () => {
  test('the guest is told of RAM above the hole below 4 GiB', async () => {
    await withVm(testConfig({ memory: { size: 4 * GIB } }), async (_vm, console) => {
      await console.waitFor(/tsvmm guest .*\d+ MiB/);
    });
  });
});

describeKvm('the built-in guest', () => {
  test('banner, help, statistics, unknown commands and power-off', async () => {
    await withVm(testConfig(), async (vm, console) => {
      await console.waitFor(/tsvmm guest [^]*> $/);
      await vm.console.write('help\r');
      await console.waitFor(/connect .*<port>[^]*poweroff[^]*> $/);
      await vm.console.write(Buffer.from('nonsense\r'));
      await console.waitFor(/nonsense[^]*help/);
      await vm.console.write(Buffer.from('poweroff\r'));
      expect(await vm.exited).toEqual({ reason: 'shutdown' });
    });
  });

  test('reboot resets, and a deliberate fault is a crash', async () => {
    for (const [command, reason] of [
      ['reboot', 'reset'],
      ['fault', 'crash'],
    ]) {
      await withVm(testConfig(), async (vm, console) => {
        await console.waitFor(/> $/);
        await vm.console.write(Buffer.from(`${command}\r`));
        expect(await vm.exited).toMatchObject({ reason });
      });
    }
  });

  test('it idles without burning a core', async () => {
    await withVm(testConfig(), async (vm, console) => {
      await console.waitFor(/> $/);
      const before = process.cpuUsage();
      const begin = performance.now();
      await new Promise((resolve) => setTimeout(resolve, 500));
      const { user, system } = process.cpuUsage(before);
      // A guest that spins uses all of one core; what is allowed here is what Jest and an idle loop may take.
      expect((user + system) / 1000 / (performance.now() - begin)).toBeLessThan(0.5);
      expect(vm.exitCount).toBeLessThan(10_000);
    });
  });
});

describeKvm('many VMs', () => {
  test('100 starts and stops in a row leak no descriptor, no thread, no mapping, no socket', async () => {
    const socket = join(directory, 'many.vsock');
    const once = (): Promise<void> =>
      withVm(testConfig({ vsock: { cid: 3, socket } }), async (_vm, console) => {
        await console.waitFor(/tsvmm guest/);
      });
    await once(); // Whatever is made once per process is made here.
    await endIdleThreads();
    const before = [openDescriptors(), threads(), guestMappings()];
    for (let round = 0; round < 100; round++) await once();
    await endIdleThreads();
    expect([openDescriptors(), threads(), guestMappings()]).toEqual(before);
    expect(readdirSync(directory)).not.toContain('many.vsock');
  }, 120_000);

  test('two at once do not disturb each other', async () => {
    await withVm(testConfig(), (_first, firstConsole) =>
      withVm(testConfig(), async (second, secondConsole) => {
        await Promise.all([firstConsole.waitFor(/> $/), secondConsole.waitFor(/> $/)]);
        await second.console.write(Buffer.from('fault\r'));
        expect(await second.exited).toMatchObject({ reason: 'crash' });
        await _first.console.write(Buffer.from('help\r'));
        await firstConsole.waitFor(/poweroff/);
      }),
    );
  });
});
