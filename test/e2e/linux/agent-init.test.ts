// The agent as process 1 of a Linux guest that has nothing else but a shell: what it mounts, what it reaps, that it starts itself
// again, and that it shuts the machine down.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { GUEST_AGENT } from '../../../src/agent/binary.js';
import { buildImage } from '../../../src/image/build.js';
import { MIB } from '../../../src/platform/units.js';
import { Vm } from '../../../src/vmm/vm.js';
import { describeKvm } from '../../support/kvm.js';
import { ACPI_CMDLINE, BOOT_LIMIT_MS, COMMAND_LIMIT_MS, testArtefact } from '../../support/linux-guest.js';
import { testConfig } from '../../support/vms.js';

const BUSYBOX = '/usr/bin/busybox';

describeKvm('the agent as the init of a Linux guest', () => {
  let directory = '';
  let vm: Vm;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-agent-init-'));
    const initramfs = join(directory, 'root.cpio');
    const sources = [{ kind: 'program', path: BUSYBOX }] as const;
    await buildImage({ sources, init: GUEST_AGENT, format: 'initramfs', compress: false, output: initramfs });
    // A word that the kernel does not know goes to process 1, which makes nothing of it; a variable goes to its programs.
    const cmdline = `${ACPI_CMDLINE} nonsense GREETING=hello`;
    const payload = { kernel: testArtefact('kernel'), initramfs, cmdline };
    vm = await Vm.create(testConfig({ memory: { size: 64 * MIB }, payload, vsock: { cid: 3 } }));
    await vm.start();
    await vm.agent.waitReady({ timeout: BOOT_LIMIT_MS });
  }, BOOT_LIMIT_MS);
  afterAll(async () => {
    await (vm as Vm | undefined)?.stop();
    rmSync(directory, { recursive: true });
  });

  async function sh(script: string): Promise<string> {
    const { stdout } = await vm.agent.run([BUSYBOX, 'sh', '-c', script], { timeout: COMMAND_LIMIT_MS });
    return stdout.toString().trim();
  }

  /** Process 1 has one child that is called as it is: the agent. */
  async function agentPid(): Promise<string> {
    const pid = await sh(
      'for d in /proc/[0-9]*; do read p name state parent rest < $d/stat; [ "$parent $name" = "1 (init)" ] && echo $p; done',
    );
    expect(pid).toMatch(/^\d+$/);
    return pid;
  }

  test(
    'programs find what they take for granted',
    async () => {
      const mounts = await sh('while read what where rest; do echo $where; done < /proc/mounts');
      for (const place of ['/proc', '/sys', '/dev', '/dev/pts', '/dev/shm', '/run']) {
        expect(mounts.split('\n').filter((each) => each === place)).toEqual([place]);
      }
      expect(await sh('echo "$HOME $PATH $GREETING"')).toMatch(/^\/root \/usr\/local\/sbin:\S+ hello$/);
      expect(await sh('echo into > /tmp/file; read text < /dev/fd/0 < /tmp/file; echo $text')).toBe('into');
    },
    3 * COMMAND_LIMIT_MS,
  );

  test(
    'programs without a parent are reaped',
    async () => {
      // The inner shell ends first; what it leaves behind ends when it may, and is a zombie until somebody reaps it.
      const orphan = await sh(`${BUSYBOX} mkfifo /tmp/gate; (read x < /tmp/gate > /dev/null & echo $!)`);
      const gone = `echo > /tmp/gate; while [ -d /proc/${orphan} ]; do :; done; echo gone`;
      expect(await sh(gone)).toBe('gone');
    },
    3 * COMMAND_LIMIT_MS,
  );

  test(
    'an agent that is killed is started again, by a process 1 that lives on',
    async () => {
      const before = await agentPid();
      await vm.agent.run([BUSYBOX, 'kill', '-9', before]).catch(() => undefined);
      await vm.agent.waitReady({ timeout: COMMAND_LIMIT_MS });
      expect(await agentPid()).not.toBe(before);
      expect(await sh('read name < /proc/1/comm; echo $name')).toBe('init');
    },
    4 * COMMAND_LIMIT_MS,
  );

  test(
    'at the power button programs are told to end, and the machine is switched off',
    async () => {
      const script = "trap 'echo told > /dev/console; exit' TERM; echo up; while :; do :; done";
      const program = await vm.agent.exec([BUSYBOX, 'sh', '-c', script]);
      for await (const piece of program.stdout) if (String(piece).includes('up')) break;
      program.stderr.resume();
      program.result.catch(() => undefined);
      vm.powerButton();
      expect(await vm.exited).toEqual({ reason: 'shutdown' });
      expect(vm.console.tail()).toMatch(/^told\r?$/m);
    },
    2 * COMMAND_LIMIT_MS,
  );
});
