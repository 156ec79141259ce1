// The command, stopped at any moment: nothing of it is left, be it process, socket, file or tap; and after kill -9, which leaves
// what it likes, the same command works.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Command, endCommands } from '../../support/command.js';
import { describeKvm } from '../../support/kvm.js';
import { Random } from '../../support/random.js';
import { CODE, writeKernel } from '../../support/tiny-kernel.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
const SIGNALS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;
const ROUNDS = 9;
/** Longer than each of the commands takes to be up, or through. */
const MOMENTS_MS = 500;
const MIB = 1024 * 1024;
const isRoot = process.getuid?.() === 0;
const TAP = `tsvmmt${process.pid % 100_000}`;

let directory = '';
let kept: string[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-stopping-'));
  for (const name of ['tmp', 'folder', 'halts']) mkdirSync(join(directory, name));
  for (let index = 0; index < 20; index++) writeFileSync(join(directory, 'folder', String(index)), Buffer.alloc(MIB));
  writeFileSync(join(directory, 'disk.img'), Buffer.alloc(MIB));
  writeKernel(join(directory, 'halts'), CODE.halt);
  const steps = 'steps: [{ expect: never }]';
  writeFileSync(join(directory, 'spec.yaml'), `machine: { disks: [{ path: disk.img }] }\n${steps}\n`);
  kept = readdirSync(directory);
});
afterEach(async () => {
  await endCommands();
  rmSync(directory, { recursive: true });
});

const at = (name: string): string => join(directory, name);

/** Each command by what a user does with it; those that are through by themselves say with what. */
const COMMANDS: Readonly<Record<string, { args: () => string[]; through?: number }>> = {
  'tsvmm with sockets, a tap and a disk': {
    args: () => [
      ...['--vsock', `cid=3,socket=${at('vm.vsock')}`, '--serial', `socket=${at('vm.serial')}`],
      ...['--disk', `path=${at('disk.img')}`, '--api-socket', `path=${at('vm.api')}`],
      ...(isRoot ? ['--net', `tap=${TAP}`] : []),
    ],
  },
  'tsvmm with a kernel that halts': {
    args: () => ['--kernel', at('halts/vmlinux'), '--serial', 'null', '--console', 'pty', '--cpus', 'boot=2'],
  },
  'tsvmm run': { args: () => ['run', '--kernel', at('halts/vmlinux'), '--', 'true'] },
  'tsvmm test': { args: () => ['test', at('spec.yaml'), '--jobs', '2'] },
  'tsvmm image, an initramfs': {
    args: () => ['image', '--output', at('made.cpio.gz'), '--folder', at('folder')],
    through: 0,
  },
  'tsvmm image, a disk': { args: () => ['image', '--output', at('made.ext4'), '--folder', at('folder')], through: 0 },
  'tsvmm doctor': { args: () => ['doctor'], through: 0 },
};

function start(name: string): Command {
  return new Command(process.execPath, [MAIN, ...COMMANDS[name].args()], { TMPDIR: at('tmp') });
}

/** What is in the test's folders and was not before. */
function left(): string[] {
  const names = readdirSync(directory).filter((name) => !kept.includes(name));
  if (existsSync(`/sys/class/net/${TAP}`)) names.push(TAP);
  return [...names, ...readdirSync(at('tmp'))];
}

describeKvm('stopped at any moment', () => {
  test.each(Object.keys(COMMANDS))(
    '%s leaves nothing behind',
    async (name) => {
      const random = new Random(name.length);
      const { through } = COMMANDS[name];
      for (let round = 0; round < ROUNDS; round++) {
        const signal = (Object.keys(SIGNALS) as (keyof typeof SIGNALS)[])[round % 3];
        const moment = random.below(MOMENTS_MS);
        const command = start(name);
        await Promise.race([delay(moment), command.status]);
        command.kill(signal);
        const status = await command.status;
        const what = { name, signal, moment };
        // Before it listens to signals, Node ends as any program does.
        const usual: unknown[] = [signal, SIGNALS[signal], through].filter((each) => each !== undefined);
        expect({ ...what, status, stderr: command.output.stderr, usual: usual.includes(status) }).toMatchObject({
          usual: true,
        });
        expect({ ...what, group: command.hasGroup() }).toEqual({ ...what, group: false });
        // An image that was whole before the signal came is there, and whole.
        const made =
          through === undefined || status !== through ? [] : left().filter((path) => path.startsWith('made.'));
        expect({ ...what, left: left().filter((path) => !made.includes(path)) }).toEqual({ ...what, left: [] });
        for (const path of made) rmSync(at(path));
      }
    },
    120_000,
  );
});

describeKvm('killed at any moment', () => {
  test.each(Object.keys(COMMANDS))(
    '%s can be started again',
    async (name) => {
      const random = new Random(100 + name.length);
      const { through } = COMMANDS[name];
      for (let round = 0; round < 4; round++) {
        const command = start(name);
        await Promise.race([delay(random.below(MOMENTS_MS)), command.status]);
        command.killGroup();
        await command.status;
      }
      // With all that they have left.
      const again = start(name);
      if (through === undefined) {
        // Up, or it would have ended with a complaint.
        await Promise.race([delay(2 * MOMENTS_MS), again.status]);
        again.kill('SIGTERM');
      }
      const status = await again.status;
      const expected = through === undefined ? [143, 'SIGTERM'] : [through];
      expect({ status, stderr: again.output.stderr, good: expected.includes(status ?? '') }).toMatchObject({
        good: true,
      });
      expect(again.hasGroup()).toBe(false);
      expect(existsSync(`/sys/class/net/${TAP}`)).toBe(false);
    },
    60_000,
  );
});
