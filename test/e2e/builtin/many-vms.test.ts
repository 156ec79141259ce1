// Many VMs in one process: they do not disturb one another, and the threads that serve one after the other carry nothing over.

import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { MessageChannel } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { Vm, type VmConfigInput, type VmExit } from '../../../src/index.js';
import { signalEventFd } from '../../../src/platform/eventfd.js';
import { KIB, MIB, type Fd } from '../../../src/platform/units.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually, guestMappings, openDescriptors, threads } from '../../support/process-state.js';
import { CODE, writeKernel } from '../../support/tiny-kernel.js';
import { testConfig, withVm } from '../../support/vms.js';

const ECHO = 7;
const VMS = 50;
const CHILD_CONFIG = `{ memory: { size: 64 << 20 }, serial: { mode: 'Null' }, vsock: { cid: 3 } }`;
const execute = promisify(execFile);

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-many-'));
});
afterEach(async () => {
  await Vm.cooldown();
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

async function echo(vm: Vm, text: string): Promise<string> {
  const stream = await vm.vsock.connect(ECHO, { waitForDriver: true });
  stream.end(text);
  let answer = '';
  for await (const piece of stream) answer += String(piece);
  return answer;
}

/** What an I/O thread of a VM cannot do: a command for a device that it does not have, as only a bug would send it. */
function breakIoThread(vm: Vm): void {
  const { life } = vm as unknown as {
    readonly life: { readonly devices: { readonly groups: { commands: MessageChannel; commandEvent: Fd }[] } };
  };
  const [{ commands, commandEvent }] = life.devices.groups;
  commands.port1.postMessage({ type: 'device', device: 99, command: { type: 'no such command' } });
  signalEventFd(commandEvent);
}

function processState(): number[] {
  return [openDescriptors(), threads(), guestMappings()];
}

describeKvm('50 VMs in one process', () => {
  test('each echoes its own bytes; what becomes of one is nothing to the others; nothing is left of them', async () => {
    const config = testConfig({ vsock: { cid: 3 } });
    await withVm(config, (vm) => echo(vm, 'x')); // Whatever is made once per process is made here.
    await Vm.cooldown();
    const before = processState();
    const crashing = await Vm.create(testConfig({ payload: { kernel: writeKernel(directory, CODE.tripleFault) } }));
    const vms = await Promise.all(Array.from({ length: VMS }, () => Vm.create(config)));
    try {
      await Promise.all(vms.map((vm) => vm.start()));
      const all = async (round: string, some: readonly Vm[]): Promise<void> => {
        const answers = await Promise.all(some.map((vm, index) => echo(vm, `${round} of VM ${index}`)));
        expect(answers).toEqual(some.map((_, index) => `${round} of VM ${index}`));
      };
      await all('first', vms);

      await crashing.start();
      expect(await crashing.exited).toMatchObject({ reason: 'crash', report: expect.stringContaining('triple fault') });
      const [stopped, broken, faulting, ...others] = vms;
      // In the middle of what they and the others do.
      const busy = all('second', others);
      const cut = echo(stopped, 'x'.repeat(MIB)).catch(() => 'cut off');
      await stopped.stop();
      expect(await stopped.exited).toEqual({ reason: 'stopped' });
      await cut;
      breakIoThread(broken);
      const exit: VmExit = await broken.exited;
      expect(exit).toMatchObject({ reason: 'failure', error: { code: 'INTERNAL' } });
      await faulting.console.waitFor('> ');
      await faulting.console.write(Buffer.from('fault\r'));
      expect(await faulting.exited).toMatchObject({ reason: 'crash' });
      await busy;
      await all('third', others);
    } finally {
      await Promise.all(vms.map((vm) => vm.stop()));
      await crashing.stop();
    }
    await Vm.cooldown();
    expect(processState()).toEqual(before);
  }, 120_000);
});

describeKvm('threads that have served another VM', () => {
  /** mov $0x400000, %edi; mov (%rdi), %al; out %al, $0x80; movb $0x5a, (%rdi); halt: says what is there, then leaves its mark. */
  const READ_AND_MARK = [
    ...[0xbf, 0x00, 0x00, 0x40, 0x00, 0x8a, 0x07, 0xe6, 0x80],
    ...[0xc6, 0x07, 0x5a, ...CODE.halt],
  ];

  /** The POST code that the guest writes first. */
  async function firstPostCode(vm: Vm): Promise<number> {
    const { life } = vm as unknown as {
      readonly life: { readonly machine: { readonly control: { postCodeTime(code: number): number } } };
    };
    const codes = Array.from({ length: 256 }, (_, code) => code);
    const seen = (): number => codes.findIndex((code) => life.machine.control.postCodeTime(code) > 0);
    await eventually('the guest writes a POST code', () => seen() >= 0);
    return seen();
  }

  test('are taken again, and the next VM sees nothing of the last: memory is zero, counters begin anew', async () => {
    const kernel = writeKernel(directory, READ_AND_MARK);
    let idle: number | undefined;
    for (let round = 0; round < 5; round++) {
      await withVm(testConfig({ payload: { kernel, cmdline: 'acpi=off' } }), async (vm) => {
        expect(await firstPostCode(vm)).toBe(0);
      });
      idle ??= threads();
      expect(threads()).toBe(idle);
    }
    for (let round = 0; round < 3; round++) {
      await withVm(testConfig({ vsock: { cid: 3 + round } }), async (vm) => {
        expect(vm.vsock.counters()).toMatchObject({ connectionsFromHost: 0, rxBytes: 0, txBytes: 0 });
        expect(await vm.vsock.connections()).toEqual([]);
        expect(await echo(vm, `round ${round}`)).toBe(`round ${round}`);
        expect(vm.vsock.cid).toBe(3 + round);
      });
    }
  });

  test('serve a VM of another configuration: more vCPUs, other devices, other processors', async () => {
    const changes: VmConfigInput[] = [
      { vsock: { cid: 3 } },
      { vsock: { cid: 4 }, cpus: { boot_vcpus: 3, max_vcpus: 3 } },
      { cpus: { boot_vcpus: 1, max_vcpus: 1, affinity: [{ vcpu: 0, host_cpus: [0] }] }, rng: { src: '/dev/urandom' } },
      { vsock: { cid: 5 }, console: { mode: 'Null' } },
    ];
    for (const change of [...changes, ...changes]) {
      await withVm({ ...testConfig(), ...change } as ReturnType<typeof testConfig>, async (vm, console) => {
        await console.waitFor(/> $/);
        if (vm.config.vsock !== undefined) expect(await echo(vm, 'hello')).toBe('hello');
      });
      // No thread is left on the processors of the VM that it served.
      expect(allowedProcessors()).toHaveLength(1);
    }
  });

  test('a thread that has failed serves no other VM', async () => {
    const config = testConfig({ vsock: { cid: 3 } });
    const vm = await Vm.create(config);
    await vm.start();
    await echo(vm, 'x');
    breakIoThread(vm);
    expect(await vm.exited).toMatchObject({ reason: 'failure' });
    for (let round = 0; round < 2; round++) expect(await withVm(config, (next) => echo(next, 'y'))).toBe('y');
  });

  test('200 VMs one after the other: memory comes to a plateau', async () => {
    const config = testConfig({ vsock: { cid: 3 } });
    const round = (): Promise<string> => withVm(config, (vm) => echo(vm, 'x'.repeat(64 * KIB)));
    const resident = (): number =>
      KIB * Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
    const run = async (rounds: number): Promise<number> => {
      let lowest = Number.POSITIVE_INFINITY;
      for (let done = 0; done < rounds; done++) {
        await round();
        lowest = Math.min(lowest, resident());
      }
      return lowest;
    };
    // Compilers and collectors take their share first: V8 has three heaps here, and lets each grow for some hundred VMs.
    await run(80);
    const before = await run(60);
    const mappings = guestMappings();
    const after = await run(60);
    // A VM that left its memory or a thread behind would cost several times as much each.
    expect(after - before).toBeLessThan(60 * MIB);
    expect(guestMappings()).toBe(mappings);
  }, 240_000);
});

describeKvm('Vm.prewarm', () => {
  const config = testConfig({ vsock: { cid: 3 } });

  test('has the threads of that many VMs there, which take them; cooldown ends what is idle and no VM', async () => {
    const none = threads();
    await Vm.prewarm(config, { vms: 2 });
    const ready = threads();
    // A vCPU and an I/O thread each.
    expect(ready).toBeGreaterThanOrEqual(none + 4);
    const vms = await Promise.all([Vm.create(config), Vm.create(config)]);
    try {
      await Promise.all(vms.map((vm) => vm.start()));
      await eventually('those that were taken are replaced', () => threads() >= ready + 4);
      await Vm.cooldown();
      expect(await Promise.all(vms.map((vm) => echo(vm, 'still here')))).toEqual(['still here', 'still here']);
    } finally {
      await Promise.all(vms.map((vm) => vm.stop()));
    }
    await Vm.cooldown();
    await eventually('no thread is left', () => threads() <= none);
  });

  test('refuses numbers that cannot be, and configurations that are none', async () => {
    for (const vms of [0, -1, 1.5, Number.NaN, 257]) {
      await expect(Vm.prewarm(config, { vms })).rejects.toThrow(RangeError);
    }
    await expect(Vm.prewarm({ vsock: { cid: 2 } })).rejects.toMatchObject({ name: 'ConfigError' });
  });

  test.each([
    ['warm threads', `await Vm.prewarm({ vsock: { cid: 3 } }, { vms: 2 })`],
    ['threads that a VM has left', `const vm = await Vm.create(${CHILD_CONFIG}); await vm.start(); await vm.stop()`],
    ['threads that were ended', `await Vm.prewarm({}); await Vm.cooldown()`],
  ])('%s do not keep a program from ending', async (_what, code) => {
    const library = new URL('../../../src/index.js', import.meta.url).href;
    const program = `import { Vm } from '${library}'; ${code}; console.log('done');`;
    const { stdout } = await execute(process.execPath, ['--input-type=module', '-e', program]);
    expect(stdout).toBe('done\n');
  });

  test('threads that a VM has left end by themselves when no other VM takes them', async () => {
    await Vm.cooldown();
    const none = threads();
    await withVm(config, (vm) => echo(vm, 'x'));
    expect(threads()).toBeGreaterThan(none);
    await eventually('they have ended', () => threads() <= none, 60_000);
  }, 70_000);
});

/** The processors that the threads of this process may run on: one line when all may run on the same. */
function allowedProcessors(): string[] {
  const lists = readdirSync('/proc/self/task').map((id) => {
    const status = readFileSync(`/proc/self/task/${id}/status`, 'utf8');
    return /^Cpus_allowed_list:\s+(\S+)/m.exec(status)?.[1] ?? '';
  });
  return [...new Set(lists)];
}
