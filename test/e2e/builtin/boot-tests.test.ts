// `tsvmm test` as a user runs it: specs against the built-in guest, exit codes, JUnit, TAP, logs, and being interrupted.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { BUILT_IN_GUEST } from '../../../src/vmm/guest.js';
import { parseXml } from '../../boottest/support.js';
import { describeKvm } from '../../support/kvm.js';
import { CODE, writeKernel } from '../../support/tiny-kernel.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-boot-tests-'));
  mkdirSync(join(directory, 'tmp'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

interface Outcome {
  readonly status: number | string | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `tsvmm test` in a process group of its own; `meanwhile` may send it signals. */
async function run(
  spec: string,
  args: readonly string[] = [],
  meanwhile: (kill: (signal: NodeJS.Signals) => void) => Promise<void> = () => Promise.resolve(),
): Promise<Outcome> {
  const path = join(directory, 'spec.yaml');
  writeFileSync(
    path,
    `machine: { memory: { size: 67108864 }, payload: { kernel: ${BUILT_IN_GUEST}, cmdline: acpi=off } }\n${spec}`,
  );
  const child = spawn(process.execPath, [MAIN, 'test', path, ...args], {
    detached: true,
    env: { ...process.env, TMPDIR: join(directory, 'tmp') },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].on('data', (bytes: Buffer) => {
      output[name] += bytes.toString();
    });
  }
  const closed = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
  try {
    await meanwhile((signal) => child.kill(signal));
    const [code, signal] = await closed;
    return { status: code ?? signal, ...output };
  } finally {
    // None of its processes is left, however it ended.
    await closed;
    expect(() => process.kill(-(child.pid ?? Number.NaN), 0)).toThrow(expect.objectContaining({ code: 'ESRCH' }));
    expect(readdirSync(join(directory, 'tmp'))).toEqual([]);
  }
}

describeKvm('tsvmm test', () => {
  test('passes what works: console, vsock, the end; 0, a log of each console, TAP', async () => {
    const { status, stdout, stderr } = await run(
      `
matrix: { cpus: [1, 2] }
steps:
  - expect: '/tsvmm guest (\\S+), 64 MiB/'
  - expect: '> '
  - send: "help\\r"
  - expect: poweroff
  - vsock: { port: 7, send: "hello\\n", expect: '/^hello\\n$/' }
  - vsock: { port: 13, expect: UTC }
  - vsock: { port: 9, send: into nothing }
  - send: "poweroff\\r"
  - exit: shutdown
`,
      ['--tap', '--artifacts', join(directory, 'logs')],
    );
    expect(stderr).toContain('2 passed of 2');
    expect(stdout).toMatch(/^TAP version 14\n1\.\.2\nok 1 - spec: boot cpus=1\n[^]*\nok 2 - spec: boot cpus=2\n/);
    expect(status).toBe(0);
    expect(readdirSync(join(directory, 'logs', 'spec')).sort()).toEqual(['boot_cpus=1.log', 'boot_cpus=2.log']);
    const log = readFileSync(join(directory, 'logs', 'spec', 'boot_cpus=2.log'), 'utf8');
    expect(log).toMatch(/^tsvmm guest [^]*> poweroff/);
  });

  test('one command line that passes and one that fails: the JUnit file says which', async () => {
    const junit = join(directory, 'out', 'junit.xml');
    const failing = await run(
      `
matrix: { cmdlines: [{ name: good, cmdline: acpi=off }, { name: bad, cmdline: 'acpi=off tsvmm.bench=pio' }] }
steps: [{ expect: '> ', timeout: 2s }, { send: "poweroff\\r" }, { exit: shutdown }]
`,
      ['--junit', junit],
    );
    const root = parseXml(readFileSync(junit, 'utf8'));
    expect(root.attributes).toMatchObject({ tests: '2', failures: '1', errors: '0', skipped: '0' });
    const [good, bad] = root.children[0].children;
    expect(good).toMatchObject({ attributes: { classname: 'spec', name: 'boot cmdline=good' }, children: [] });
    expect(bad.attributes['name']).toBe('boot cmdline=bad');
    expect(bad.children[0]).toMatchObject({ name: 'failure', attributes: { type: 'timed-out' } });
    expect(failing.status).toBe(7);
    expect(readdirSync(join(directory, 'out'))).toEqual(['junit.xml']);
  });

  test.each([
    [
      'a guest that shuts down too soon',
      'steps: [{ send: "poweroff\\r" }, { expect: "login:" }]',
      6,
      'the guest shut down',
    ],
    [
      'another end than expected',
      'steps: [{ send: "reboot\\r" }, { exit: shutdown }]',
      6,
      'the guest reset instead of: exit shutdown',
    ],
    ['another answer than expected', 'steps: [{ vsock: { port: 13, expect: noon } }]', 6, 'vsock port 13 closed after'],
    ['a crash', 'steps: [{ send: "fault\\r" }, { expect: "login:" }]', 4, 'the guest crashed: vCPU 0: triple fault'],
    [
      'a kernel that complains',
      'steps: [{ send: "[    1.000000] BUG: of a kind\\r" }, { expect: "login:" }]',
      4,
      'BUG: of a kind',
    ],
    [
      'a panic',
      'steps: [{ send: "Kernel panic - not syncing: x\\r" }, { expect: "login:" }]',
      4,
      'Kernel panic - not syncing: x',
    ],
    [
      'nothing',
      'steps: [{ expect: "login:", timeout: 200ms }]',
      7,
      'step 1 (expect "login:"): nothing of the kind within 200 ms',
    ],
    ['a service that is not there', 'steps: [{ vsock: { port: 99 }, timeout: 500ms }]', 7, 'vsock port 99'],
    [
      'a test that takes too long',
      'timeouts: { test: 300ms }\nsteps: [{ expect: "login:" }]',
      7,
      'the test took longer than 300 ms',
    ],
    ['a kernel that is none', 'matrix: { kernels: [spec.yaml] }\nsteps: [{ expect: "login:" }]', 2, 'spec.yaml'],
    [
      'an unknown key',
      'steps: [{ expcet: "login:" }]',
      2,
      'spec.yaml:2:11: steps[0].expcet: no such key. Did you mean expect?',
    ],
  ])('%s is its own exit code', async (_what, spec, code, message) => {
    const { status, stderr } = await run(spec);
    expect(stderr).toContain(message);
    expect(status).toBe(code);
  });

  test('what is expected is no failure: a crash, a panic, an allowed line', async () => {
    const { status, stderr } = await run(`
allow: ['BUG: known']
tests:
  - { name: crash, steps: [{ send: "fault\\r" }, { exit: crash }] }
  - { name: panic, steps: [{ send: "Kernel panic - not syncing: x\\r" }, { exit: panic }] }
  - { name: known, steps: [{ send: "[    1.000000] BUG: known\\r" }, { expect: "known\\r\\n" }] }
  - { name: reset, steps: [{ send: "reboot\\r" }, { exit: reset }] }
`);
    expect(stderr).toContain('4 passed of 4');
    expect(status).toBe(0);
  });

  test('the power button of a guest that listens', async () => {
    writeKernel(directory, CODE.powerOffAtButton);
    const { status, stderr } = await run(
      "matrix: { kernels: [vmlinux], cmdlines: [''] }\nsteps: [{ powerButton: true }, { exit: shutdown }]",
    );
    expect(stderr).toContain('1 passed of 1');
    expect(status).toBe(0);
  });

  test('tests share a disk, which stays as it is', async () => {
    const disk = join(directory, 'disk.img');
    writeFileSync(disk, Buffer.alloc(1024 * 1024));
    const text = `machine: { disks: [{ path: disk.img }] }\nmatrix: { cpus: [1, 2] }\nsteps: [{ expect: '> ' }]`;
    const path = join(directory, 'disks.yaml');
    writeFileSync(path, text);
    const { status, stderr } = await run("steps: [{ expect: '> ' }]", [path, '--jobs', '3']);
    expect(stderr).toContain('3 passed of 3');
    expect(status).toBe(0);
    expect(readFileSync(disk).every((byte) => byte === 0)).toBe(true);
  });

  test('interrupted it stops every VM, and says what was not run', async () => {
    const [junit, ready] = [join(directory, 'junit.xml'), join(directory, 'logs', 'spec', 'a.log')];
    const spec = `
tests:
  - { name: a, steps: [{ expect: never }] }
  - { name: b, steps: [{ expect: never }] }
  - { name: c, steps: [{ expect: never }] }`;
    const args = ['--jobs', '2', '--tap', '--junit', junit, '--artifacts', join(directory, 'logs')];
    const { status, stdout, stderr } = await run(spec, args, async (kill) => {
      while (!existsSync(ready) || !readFileSync(ready, 'utf8').includes('> ')) await delay(10);
      kill('SIGINT');
    });
    expect(status).toBe(130);
    expect(stderr).toContain('0 passed, 3 not run of 3');
    expect(stdout).toContain('Bail out!');
    expect(parseXml(readFileSync(junit, 'utf8')).attributes).toMatchObject({ tests: '3', skipped: '3', failures: '0' });
  });

  test('interrupted at any moment it leaves nothing behind', async () => {
    writeFileSync(join(directory, 'disk.img'), Buffer.alloc(1024 * 1024));
    writeFileSync(
      join(directory, 'more.yaml'),
      'machine: { disks: [{ path: disk.img }] }\nmatrix: { cpus: [1, 2] }\nsteps: [{ expect: never }]',
    );
    for (let round = 0; round < 12; round++) {
      const signal = (['SIGINT', 'SIGTERM', 'SIGHUP'] as const)[round % 3];
      const { status } = await run(
        'steps: [{ expect: never }]',
        [join(directory, 'more.yaml'), '--jobs', '3'],
        async (kill) => {
          await delay(Math.random() * 600);
          kill(signal);
        },
      );
      // Before it listens to signals, Node ends as any program does.
      expect([signal, 130, 143, 129]).toContain(status);
    }
  }, 60_000);

  test('a folder that cannot be made is said before anything runs', async () => {
    const { status, stderr } = await run('steps: [{ expect: never }]', ['--artifacts', '/dev/null/logs']);
    expect(stderr).toMatch(/--artifacts: \/dev\/null\/logs cannot be written/);
    expect(status).toBe(2);
  });
});

test('the help is there without KVM', async () => {
  const { status, stdout } = await run('steps: []', ['--help']);
  expect([status, stdout.split('\n')[0]]).toEqual([0, 'tsvmm test [options] SPEC...']);
});
