// A guest that reboots: the same devices, cleared memory, the kernel loaded again, in the same process.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { VmEvent } from '../../../src/vmm/events.js';
import { Vm } from '../../../src/vmm/vm.js';
import { endIdleThreads } from '../../../src/vmm/worker-pool.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually, guestMappings, openDescriptors, threads } from '../../support/process-state.js';
import { CODE, writeKernel } from '../../support/tiny-kernel.js';
import { ConsoleRecorder, testConfig, withVm } from '../../support/vms.js';
import { connectVsock, readAll } from '../../support/vsock-client.js';

const ECHO_PORT = 7;

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-reboot-'));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

/** What a VM tells of at its start, and of its guest's own reset. */
const BOOT = ['booting', 'booted'];
const REBOOT = ['reset', 'rebooting', ...BOOT, 'rebooted'];

async function echo(socket: string, text: string): Promise<string> {
  const client = await connectVsock(socket, ECHO_PORT);
  client.end(text);
  return (await readAll(client)).toString();
}

describeKvm('a reboot', () => {
  test('starts the guest again: its console goes on, vsock works as before, old connections end', async () => {
    const socket = join(directory, 'reboot.vsock');
    const events: VmEvent[] = [];
    const config = testConfig({ no_reboot: false, vsock: { cid: 3, socket } });
    const vm = await Vm.create(config, { onEvent: (event) => events.push(event) });
    try {
      const console = new ConsoleRecorder(vm);
      await vm.start();
      for (let boot = 1; boot <= 3; boot++) {
        await console.waitFor(new RegExp(`(tsvmm guest [^]*){${boot}}> $`));
        expect(await echo(socket, `boot ${boot}`)).toBe(`boot ${boot}`);
        const held = await connectVsock(socket, ECHO_PORT);
        const ended = readAll(held);
        if (boot < 3) await vm.console.write(Buffer.from('reboot\r'));
        else held.end();
        await ended;
        held.destroy();
      }
      expect(events.map(({ type }) => type)).toEqual([...BOOT, ...REBOOT, ...REBOOT]);
      await vm.console.write(Buffer.from('poweroff\r'));
      expect(await vm.exited).toEqual({ reason: 'shutdown' });
    } finally {
      await vm.stop();
    }
  });

  test('ends the VM with no_reboot', async () => {
    await withVm(testConfig({ no_reboot: true }), async (vm, console) => {
      await console.waitFor(/> $/);
      await vm.console.write(Buffer.from('reboot\r'));
      expect(await vm.exited).toEqual({ reason: 'reset' });
    });
  });

  test('leaves no old contents in memory', async () => {
    // mov $0x300000, %eax; cmpb $0, (%rax); jne 1f; movb $1, (%rax); mov $0xfe, %al; out %al, $0x64; hlt
    // 1: ud2. The first run leaves a mark and resets; a second run that finds it would crash, so it resets as well.
    const mark = [0xb8, 0x00, 0x00, 0x30, 0x00, 0x80, 0x38, 0x00, 0x75, 0x08, 0xc6, 0x00, 0x01, 0xb0, 0xfe, 0xe6, 0x64];
    let reboots = 0;
    const config = testConfig({
      no_reboot: false,
      payload: { kernel: writeKernel(directory, [...mark, 0xf4, 0x0f, 0x0b]) },
    });
    const vm = await Vm.create(config, {
      onEvent: ({ type }) => {
        if (type === 'rebooted') reboots++;
      },
    });
    await vm.start();
    await Promise.race([eventually('three reboots', () => reboots >= 3), vm.exited]);
    await vm.stop();
    expect(await vm.exited).toEqual({ reason: 'stopped' });
  });

  test('again and again, and stopped at any moment, leaks nothing', async () => {
    const payload = { kernel: writeKernel(directory, CODE.reset) };
    const rebootUntil = async (limit: number, stopAfterMs: number): Promise<void> => {
      let reboots = 0;
      const vm = await Vm.create(testConfig({ no_reboot: false, payload }), {
        onEvent: ({ type }) => {
          if (type === 'rebooted') reboots++;
        },
      });
      await vm.start();
      await eventually(`${limit} reboots`, () => reboots >= limit);
      await new Promise((resolve) => setTimeout(resolve, stopAfterMs));
      await vm.stop();
      expect(await vm.exited).toEqual({ reason: 'stopped' });
    };
    await rebootUntil(1, 0);
    await endIdleThreads();
    const before = [openDescriptors(), threads(), guestMappings()];
    for (let round = 0; round < 10; round++) await rebootUntil(2, round * 7);
    await endIdleThreads();
    expect([openDescriptors(), threads(), guestMappings()]).toEqual(before);
  }, 60_000);
});

describeKvm('several vCPUs', () => {
  test('those that a guest never wakes are there, and end with it', async () => {
    await withVm(testConfig({ cpus: { boot_vcpus: 4, max_vcpus: 4 } }), async (vm, console) => {
      await console.waitFor(/> $/);
      await vm.console.write(Buffer.from('poweroff\r'));
      expect(await vm.exited).toEqual({ reason: 'shutdown' });
    });
  });

  test('each runs on the host processors of its affinity', async () => {
    const cpus = { boot_vcpus: 2, max_vcpus: 2, affinity: [{ vcpu: 1, host_cpus: [0] }] };
    await endIdleThreads();
    const before = new Set(readdirSync('/proc/self/task'));
    await withVm(testConfig({ cpus }), async (_vm, console) => {
      await console.waitFor(/> $/);
      const lists = readdirSync('/proc/self/task')
        .filter((thread) => !before.has(thread))
        .map((thread) => readFileSync(`/proc/self/task/${thread}/status`, 'utf8'))
        .map((status) => /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1]);
      // Threads that this one starts inherit it.
      expect(lists).toContain('0');
    });
  });

  test('a host processor that does not exist is named', async () => {
    const cpus = { boot_vcpus: 1, max_vcpus: 1, affinity: [{ vcpu: 0, host_cpus: [4000] }] };
    await expect(Vm.create(testConfig({ cpus }))).rejects.toThrow(/host CPU 4000 is not online/);
  });
});
