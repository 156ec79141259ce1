// Specs of boot tests: what they lead to, and what is refused, with its place in the file.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { ConfigMistakes } from '../../src/config/config-mistakes.js';
import { BUILT_IN_GUEST } from '../../src/vmm/guest.js';
import { plan } from './support.js';

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-spec-'));
  for (const name of ['one', 'two', 'initramfs', 'disk.img']) writeFileSync(join(directory, name), 'x');
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

const STEPS = 'steps: [{ expect: hello }]';

describe('a spec', () => {
  test('without a matrix is one machine, with defaults that suit tests', async () => {
    const [planned, ...rest] = await plan(directory, STEPS);
    expect(rest).toEqual([]);
    expect(planned).toMatchObject({ suite: 'spec', name: 'boot', timeoutMs: 300_000, allow: [] });
    expect(planned.config).toMatchObject({ serial: { mode: 'Null' }, no_reboot: true });
    expect(planned.config.vsock).toBeUndefined();
    expect(planned.steps).toEqual([{ step: { expect: 'hello' }, timeoutMs: 60_000 }]);
  });

  test('with a matrix is every test on every machine, paths beginning at its folder', async () => {
    const tests = await plan(
      directory,
      `
      name: kernels
      machine: { memory: { size: 67108864 } }
      matrix:
        kernels: [one, { name: new, kernel: two, initramfs: initramfs }]
        cmdlines: [quiet, { name: loud, cmdline: 'console=ttyS0 debug' }]
        cpus: [1, 2]
      timeouts: { step: 500ms, test: 2m }
      tests:
        - { name: boots, steps: [{ expect: '/login:/i', timeout: 3 }, { powerButton: true }, { exit: shutdown }] }
        - { name: talks, timeout: 9s, steps: [{ vsock: { port: 7, send: x } }] }
      `,
    );
    expect(tests.map(({ name }) => name)).toHaveLength(16);
    expect(tests[0]).toMatchObject({
      suite: 'kernels',
      name: 'boots kernel=one cmdline="quiet" cpus=1',
      timeoutMs: 120_000,
      steps: [{ step: { expect: /login:/i }, timeoutMs: 3000 }, { timeoutMs: 500 }, { step: { exit: 'shutdown' } }],
    });
    const last = tests[15];
    expect(last).toMatchObject({ name: 'talks kernel=new cmdline=loud cpus=2', timeoutMs: 9000 });
    expect(last.config).toMatchObject({
      cpus: { boot_vcpus: 2, max_vcpus: 2 },
      memory: { size: 67_108_864 },
      payload: {
        kernel: join(directory, 'two'),
        initramfs: join(directory, 'initramfs'),
        cmdline: 'console=ttyS0 debug',
      },
      vsock: { cid: 3 },
      // Linux finds it by ACPI.
      pvpanic: true,
    });
  });

  test('may be JSON', async () => {
    const [planned] = await plan(directory, '{"steps": [{"send": "x"}]}', 'spec.json');
    expect(planned.steps[0].step).toEqual({ send: 'x' });
  });

  test('has its disks overlaid, unless they are read-only', async () => {
    const disks = 'machine: { disks: [{ path: disk.img }, { path: one, readonly: true }] }';
    const [planned] = await plan(directory, `${STEPS}\n${disks}`);
    expect(planned.overlaid).toEqual([0]);
    expect(planned.config.disks?.[0].path).toBe(join(directory, 'disk.img'));
  });

  test.each([
    ['step: []', 'spec.yaml: step: no such key. Did you mean steps?'],
    ['steps: [{ expct: login }]', 'spec.yaml: steps[0].expct: no such key. Did you mean expect?'],
    ['steps: [{ vsock: { prot: 7, port: 7 } }]', 'spec.yaml: steps[0].vsock.prot: no such key. Did you mean port?'],
    ['steps: [{ vsock: { port: -1 } }]', 'spec.yaml: steps[0].vsock.port: not a vsock port'],
    ['steps: []', 'spec.yaml: steps: no steps'],
    [
      'steps: [{ timeout: 3 }]',
      'spec.yaml: steps[0]: a step is one of expect, send, exec, vsock, powerButton, exit, and it says nothing',
    ],
    [
      'steps: [{ expect: a, send: b }]',
      'spec.yaml: steps[0]: a step is one of expect, send, exec, vsock, powerButton, exit, and it says expect and send',
    ],
    ['steps: [{ expect: "/(/" }]', 'spec.yaml: steps[0].expect: /(/ is not a regular expression'],
    ['steps: [{ expect: "" }]', 'spec.yaml: steps[0].expect: an empty text'],
    ['steps: [{ expect: a, timeout: soon }]', 'spec.yaml: steps[0].timeout: "soon" is not a time such as'],
    ['steps: [{ exit: panick }]', 'spec.yaml: steps[0].exit: "panick" is not a value it can have. Did you mean panic?'],
    ['steps: [{ exit: reset }, { send: a }]', 'spec.yaml: steps[0]: nothing can follow the end of the VM'],
    [`${STEPS}\nmachine: { serial: { mode: Off } }`, 'spec.yaml: steps[0]: the machine has no console'],
    [`${STEPS}\nmachine: { disks: [{ path: missing.img }] }`, 'spec.yaml: machine.disks[0].path: "'],
    ['steps: [{ exec: [ls] }]', 'spec.yaml: steps[0].exec: programs are run by the agent in a Linux guest'],
    ['steps: [{ exec: [] }]', 'spec.yaml: steps[0].exec: no program is named'],
    ['steps: [{ exec: { run: [ls], exit: 3 } }]', 'spec.yaml: steps[0].exec.exit: no such key'],
    ['steps: [{ exec: { run: [ls], exitCode: 256 } }]', 'spec.yaml: steps[0].exec.exitCode: not an exit code'],
    ['steps: [{ powerButton: true }]', 'spec.yaml: steps[0].powerButton: this guest does not use ACPI'],
    [`${STEPS}\ntests: [{ name: a, ${STEPS} }]`, 'spec.yaml: the spec: a spec has either steps, or tests'],
    ['name: x', 'spec.yaml: the spec: a spec has either steps, or tests'],
    [
      `tests: [{ name: a, ${STEPS} }, { name: a, ${STEPS} }]`,
      'spec.yaml: tests: there are two tests with the name "a"',
    ],
    ['tests: [{ steps: [{ send: a }] }]', 'spec.yaml: tests[0].name: missing'],
    [`${STEPS}\nmachine: { memmory: {} }`, 'spec.yaml: machine.memmory: no such key. Did you mean memory?'],
    [`${STEPS}\nmachine: { memory: { size: 5 } }`, 'spec.yaml: machine.memory.size: 5'],
    [
      `${STEPS}\nmachine: { serial: { mode: Tty } }`,
      'spec.yaml: machine.serial.mode: "Tty": a test reads its consoles',
    ],
    [`${STEPS}\nmachine: { vsock: { cid: 3, socket: /tmp/s } }`, 'spec.yaml: machine.vsock.socket: a test reaches'],
    [`${STEPS}\nmatrix: { kernels: [missing] }`, 'spec.yaml: matrix.kernels[0].kernel: "'],
    [`${STEPS}\nmatrix: { kernels: [{ kernal: a }] }`, 'spec.yaml: matrix.kernels[0].kernal: no such key'],
    [`${STEPS}\nmatrix: { kernels: [one, ./one] }`, 'spec.yaml: matrix.kernels[1]: there are two with the name one'],
    [`${STEPS}\nmatrix: { cpus: [1, 1] }`, 'spec.yaml: matrix.cpus[1]: there are two with the name 1. Leave one out.'],
    [`${STEPS}\nmatrix: { cpus: [0] }`, 'spec.yaml: matrix.cpus[0]: 0'],
    [`${STEPS}\nmatrix: { cpus: [] }`, 'spec.yaml: matrix.cpus: empty'],
    [`${STEPS}\ntimeouts: { steps: 3 }`, 'spec.yaml: timeouts.steps: no such key. Did you mean step?'],
    [`${STEPS}\nallow: ["/[/"]`, 'spec.yaml: allow[0]: /[/ is not a regular expression'],
    ['- a', 'spec.yaml: the spec: '],
    ['steps: [', 'spec.yaml:1:'],
    ['', 'spec.yaml: the file is empty'],
  ])('%j is refused', async (text, message) => {
    const error = (await plan(directory, text).catch((thrown: unknown) => thrown)) as Error;
    expect(error.name).toBe('ConfigError');
    // Where in the text that is has its own test.
    const plain = message.startsWith('spec.yaml:1:') ? error.message : error.message.replace(/:\d+:\d+: /, ': ');
    expect(plain).toContain(message);
  });

  test('has all of its mistakes told at once, each with its place in the file', async () => {
    const text = `name: many
machine:
  memory: { size: 67108864 }
tests:
  - name: one
    steps:
      - expct: login
      - wait: 5
      - { vsock: { prot: 7 }, timeout: soon }
  - nam: two
    steps: &shared
      - send: x
timeout: 5
`;
    const error = (await plan(directory, text).catch((thrown: unknown) => thrown)) as ConfigMistakes;
    expect(error.message).toMatch(/^\d+ mistakes:\n/);
    const told = error.mistakes.map(({ message }) => message.slice(message.indexOf('spec.yaml')));
    expect(told.sort()).toEqual([
      expect.stringMatching(/^spec.yaml:10:5: tests\[1\].nam: no such key. Did you mean name\?/),
      expect.stringMatching(/^spec.yaml:10:5: tests\[1\].name: missing/),
      expect.stringMatching(/^spec.yaml:13:1: timeout: no such key. Did you mean timeouts\?/),
      expect.stringMatching(/^spec.yaml:7:9: tests\[0\].steps\[0\].expct: no such key. Did you mean expect\?/),
      expect.stringMatching(/^spec.yaml:8:9: tests\[0\].steps\[1\].wait: no such key. .*There are expect, send, /),
      expect.stringMatching(/^spec.yaml:9:11: tests\[0\].steps\[2\].vsock.port: missing/),
      expect.stringMatching(/^spec.yaml:9:20: tests\[0\].steps\[2\].vsock.prot: no such key. Did you mean port\?/),
      expect.stringMatching(/^spec.yaml:9:31: tests\[0\].steps\[2\].timeout: "soon" is not a time/),
    ]);
  });

  test('has every machine of its matrix looked at: one kernel of several that is missing is the one that is named', async () => {
    const text = `matrix:
  kernels: [one, missing-a, { name: new, kernel: two, initramfs: missing-b }]
  cpus: [1, 2]
steps: [{ send: x }]
`;
    const error = (await plan(directory, text).catch((thrown: unknown) => thrown)) as ConfigMistakes;
    expect(error.mistakes.map(({ message }) => message.slice(message.indexOf('spec.yaml')))).toEqual([
      expect.stringMatching(/^spec.yaml:2:18: matrix.kernels\[1\].kernel: ".*missing-a" does not exist/),
      expect.stringMatching(/^spec.yaml:2:55: matrix.kernels\[2\].initramfs: ".*missing-b" does not exist/),
    ]);
  });

  test('has places in JSON and behind anchors, too', async () => {
    const json = '{\n  "steps": [\n    { "sned": "x" }\n  ]\n}';
    await expect(plan(directory, json, 'spec.json')).rejects.toThrow(/spec.json:3:7: steps\[0\].sned: .*mean send/);
    const anchored = 'tests:\n  - { name: a, steps: &s [{ send: x }, { sned: y }] }\n  - { name: b, steps: *s }\n';
    const error = (await plan(directory, anchored).catch((thrown: unknown) => thrown)) as ConfigMistakes;
    expect(error.message).toContain('spec.yaml:2:42: tests[0].steps[1].sned');
    expect(error.message).toContain('spec.yaml:2:42: tests[1].steps[1].sned');
  });

  test('the built-in guest as a kernel is a kernel as any other', async () => {
    const [planned] = await plan(
      directory,
      `${STEPS}\nmachine: { payload: { kernel: ${BUILT_IN_GUEST}, cmdline: acpi=off } }`,
    );
    expect(planned.config.pvpanic).toBeUndefined();
  });
});
