// Processors, memory, consoles and threads: what is accepted, and every refusal with its message.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { ConfigErrorCode } from '../../src/config/config-error.js';
import { cpuList, cpuTopology } from '../../src/config/cpu-values.js';
import { quoted } from '../../src/config/option-grammar.js';
import { DEBUG_CONSOLE_PORT } from '../../src/devices/legacy/debug-console.js';
import { EVENT_PORT } from '../../src/devices/legacy/event-device.js';
import { I8042_BASE_PORT, I8042_PORT_COUNT } from '../../src/devices/legacy/i8042.js';
import { PVPANIC_PORT } from '../../src/devices/legacy/pvpanic.js';
import { COM1_PORT, SERIAL_PORT_COUNT } from '../../src/devices/legacy/serial-registers.js';
import { SLEEP_CONTROL_PORT } from '../../src/devices/legacy/sleep-control.js';
import { WATCHDOG_BASE_PORT, WATCHDOG_PORT_COUNT } from '../../src/devices/legacy/watchdog.js';
import { validateVmConfig } from '../../src/config/validate.js';
import { expectRefusal, expectRefusedConfig, parse } from './support.js';

const MIB = 1024 ** 2;

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-machine-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

describe('--cpus', () => {
  test('a number of vCPUs is also the most there will be', () => {
    expect(parse({ cpus: 'boot=4' }).cpus).toEqual({ boot_vcpus: 4, max_vcpus: 4 });
    expect(parse({ cpus: 'boot=254,max=254' }).cpus).toEqual({ boot_vcpus: 254, max_vcpus: 254 });
  });

  test('topology and features', () => {
    expect(parse({ cpus: 'boot=8,topology=2:2:1:2,features=amx' }).cpus).toEqual({
      boot_vcpus: 8,
      max_vcpus: 8,
      topology: { threads_per_core: 2, cores_per_die: 2, dies_per_package: 1, packages: 2 },
      features: { amx: true },
    });
  });

  test('affinity, in the notation of Cloud Hypervisor', () => {
    expect(parse({ cpus: 'boot=2,affinity=[0@[0],1@0]' }).cpus.affinity).toEqual([
      { vcpu: 0, host_cpus: [0] },
      { vcpu: 1, host_cpus: [0] },
    ]);
  });

  test.each<[text: string, code: ConfigErrorCode, message: string]>([
    ['boot=0', 'OUT_OF_RANGE', '--cpus boot: 0 vCPUs are too few. Use 1 to 254.'],
    ['boot=255', 'OUT_OF_RANGE', '--cpus boot: 255 vCPUs are too many'],
    ['boot=many', 'WRONG_TYPE', '"many" is not a whole number'],
    ['boot=2,max=1', 'CONFLICT', '--cpus max: 1 are fewer than the 2 vCPUs at start'],
    ['boot=1,max=4', 'NOT_SUPPORTED', '--cpus max: 4 are more than the 1 vCPUs at start, and tsvmm does not plug'],
    ['boot=4,topology=1:2:1:1', 'CONFLICT', '--cpus topology: 1:2:1:1 makes 2 vCPUs, and there are 4'],
    ['boot=4,topology=4:0:1:1', 'OUT_OF_RANGE', '--cpus topology: 4:0:1:1 has a part that is not a number'],
    ['boot=4,topology=4:1:1', 'WRONG_TYPE', '"4:1:1" is not four numbers with colons between them'],
    ['boot=2,features=avx', 'WRONG_TYPE', '--cpus features: "avx" is not one of amx'],
    ['boot=2,affinity=[2@[0]]', 'OUT_OF_RANGE', '--cpus affinity: there is no vCPU 2. There are vCPUs 0 to 1.'],
    ['boot=1,affinity=1@0', 'OUT_OF_RANGE', 'There is vCPU 0 only.'],
    ['boot=2,affinity=[0@[0],0@[0]]', 'DUPLICATE', '--cpus affinity: vCPU 0 is named twice'],
    ['boot=2,affinity=[0@[0,0]]', 'DUPLICATE', 'host CPU 0 is named twice for one vCPU'],
    ['boot=2,affinity=[0@[8000]]', 'NOT_FOUND', '--cpus affinity: host CPU 8000 is not online. This host has 0'],
    ['boot=2,affinity=[0@[8192]]', 'WRONG_TYPE', '"8192" goes beyond 8191'],
    ['boot=2,affinity=[0@[0-4000000000]]', 'WRONG_TYPE', 'goes beyond 8191'],
    ['boot=2,affinity=[0@[3-1]]', 'WRONG_TYPE', '"3-1" ends before it begins'],
    ['boot=2,affinity=[0@[]]', 'WRONG_TYPE', 'names no host CPU'],
    ['boot=2,affinity=[0]', 'WRONG_TYPE', '"0" is not a vCPU and its host CPUs with an @ between them'],
    ['boot=2,affinity=["0@[0"]', 'WRONG_TYPE', 'cannot be read: a "[" is not closed'],
    ['boot=2,affinity=[0@[0]', 'SYNTAX', '--cpus: a "[" is not closed'],
  ])('%s is refused', (text, code, message) => {
    expectRefusal({ cpus: text }, code, message);
  });

  test('a library user names the element', () => {
    const affinity = [
      { vcpu: 0, host_cpus: [0] },
      { vcpu: 5, host_cpus: [0] },
    ];
    expectRefusedConfig({ cpus: { boot_vcpus: 2, affinity } }, 'OUT_OF_RANGE', 'cpus.affinity[1].vcpu: there is no');
    const none = { cpus: { affinity: [{ vcpu: 0, host_cpus: [] }] } };
    expectRefusedConfig(none, 'MISSING_VALUE', 'cpus.affinity[0].host_cpus: a vCPU has no host CPU');
  });

  test('any list of CPUs and ranges is read as the CPUs in it', () => {
    const range = fc.tuple(fc.nat(200), fc.nat(20)).map(([first, more]) => ({ first, last: first + more }));
    fc.assert(
      fc.property(fc.array(range, { minLength: 1 }), (ranges) => {
        const text = ranges.map(({ first, last }) => (first === last ? first : `${first}-${last}`)).join(',');
        const cpus = ranges.flatMap(({ first, last }) =>
          Array.from({ length: last - first + 1 }, (_, index) => first + index),
        );
        expect(cpuList.parse(quoted(`[${text}]`))).toEqual(cpus);
      }),
    );
  });

  test('any four numbers are a topology', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(), { minLength: 4, maxLength: 4 }), (parts) => {
        expect(Object.values(cpuTopology.parse(parts.join(':')))).toEqual(parts);
      }),
    );
  });
});

describe('--memory', () => {
  test('all of its keys', () => {
    expect(parse({ memory: 'size=1G,shared=on,hugepages=on,hugepage_size=2M,prefault=on,thp=off' }).memory).toEqual({
      size: 1024 * MIB,
      shared: true,
      hugepages: true,
      hugepage_size: 2 * MIB,
      prefault: true,
      thp: false,
    });
    expect(parse({ memory: 'mergeable=on' }).memory).toEqual({ size: 512 * MIB, mergeable: true });
  });

  test.each<[text: string, code: ConfigErrorCode, message: string]>([
    ['size=0', 'OUT_OF_RANGE', 'a guest without memory cannot run'],
    ['size=-4096', 'OUT_OF_RANGE', '-4096 is negative'],
    ['size=5000', 'OUT_OF_RANGE', 'Use 4096 or 8192.'],
    ['size=100', 'OUT_OF_RANGE', 'Use 4096.'],
    ['size=99999999T', 'OUT_OF_RANGE', 'more than any guest can address'],
    ['size=512m', 'WRONG_TYPE', 'Write 512M.'],
    ['size=3M,hugepages=on', 'OUT_OF_RANGE', '(3 MiB) are not a multiple of the huge page size, 2097152'],
    ['size=512M,hugepages=on,hugepage_size=1G', 'OUT_OF_RANGE', 'Use 1073741824.'],
    ['hugepage_size=2M', 'CONFLICT', '--memory hugepage_size: huge pages have a size, but are not switched on'],
    ['hugepages=off,hugepage_size=2M', 'CONFLICT', 'but are not switched on'],
    ['hugepages=on,hugepage_size=4M', 'OUT_OF_RANGE', '4194304 bytes. Use 2097152 (2 MiB) or 1073741824 (1 GiB).'],
    ['mergeable=on,shared=on', 'CONFLICT', '--memory mergeable: the host merges private pages of ordinary size only'],
    ['mergeable=on,hugepages=on', 'CONFLICT', 'and hugepages is on'],
    ['thp=maybe', 'WRONG_TYPE', '"maybe" is neither on nor off'],
  ])('%s is refused', (text, code, message) => {
    expectRefusal({ memory: text }, code, message);
  });
});

describe('--serial, --console and --debug-console', () => {
  test.each([
    ['tty', { mode: 'Tty' }],
    ['null', { mode: 'Null' }],
    ['off', { mode: 'Off' }],
    ['pty', { mode: 'Pty' }],
    ['socket=/tmp/tsvmm-console', { mode: 'Socket', socket: '/tmp/tsvmm-console' }],
    ['file=/tmp/tsvmm-console', { mode: 'File', file: '/tmp/tsvmm-console' }],
  ])('%s', (text, expected) => {
    expect(parse({ serial: text }).serial).toEqual(expected);
    expect(parse({ console: text }).console).toEqual(expected);
  });

  test('the console takes the terminal from a serial port that was not asked for', () => {
    expect(parse({ console: 'tty' }).serial).toEqual({ mode: 'Null' });
    expect(validateVmConfig({ console: { mode: 'Tty' } }).serial).toEqual({ mode: 'Null' });
  });

  test('both on the terminal are refused', () => {
    const message = '--serial: the serial port and the console cannot both have the terminal';
    expectRefusal({ serial: 'tty', console: 'tty' }, 'CONFLICT', message);
    const both = { serial: { mode: 'Tty' }, console: { mode: 'Tty' } };
    expectRefusedConfig(both, 'CONFLICT', 'serial.mode: the serial port and the console');
  });

  test('a file that is there need only be writable itself', () => {
    expect(parse({ console: 'file=/dev/null' }).console).toEqual({ mode: 'File', file: '/dev/null' });
    expectRefusal({ console: `file=${folder}` }, 'UNUSABLE_FILE', '--console file: ');
  });

  test('a socket that cannot be', () => {
    expectRefusal({ console: 'socket=/nowhere/s' }, 'NOT_FOUND', '--console socket: the directory "/nowhere"');
    expectRefusal({ serial: `socket=/tmp/${'s'.repeat(103)}` }, 'TOO_LONG', '--serial socket: the path has 108 bytes');
    expectRefusedConfig({ console: { mode: 'Socket' } }, 'MISSING_KEY', 'console.socket: mode Socket needs a socket');
    const odd = { console: { mode: 'Pty', socket: '/tmp/s' } };
    expectRefusedConfig(odd, 'CONFLICT', 'console.socket: mode Pty has no socket');
  });

  test('two outputs are not one file', () => {
    const file = join(folder, 'log');
    const message = `--console file: ${JSON.stringify(file)} is the serial port's already, and both write to it`;
    expectRefusal({ serial: `file=${file}`, console: `file=${file}` }, 'DUPLICATE', message);
    writeFileSync(file, '');
    expectRefusal({ serial: `file=${file}`, 'debug-console': `file=${folder}/./log` }, 'DUPLICATE', 'both write to it');
    // What is no file may well be.
    expect(parse({ serial: 'file=/dev/null', console: 'file=/dev/null' }).console.mode).toBe('File');
  });

  test('the debug console and its port', () => {
    expect(parse({}).debug_console).toBeUndefined();
    expect(parse({ 'debug-console': 'tty' }).debug_console).toEqual({ mode: 'Tty' });
    expect(parse({ 'debug-console': 'file=/dev/null,iobase=0x402' }).debug_console).toEqual({
      mode: 'File',
      file: '/dev/null',
      iobase: 0x402,
    });
  });

  test('the debug console has no port that the machine needs', () => {
    const taken = [
      ...[I8042_BASE_PORT, I8042_BASE_PORT + I8042_PORT_COUNT - 1],
      ...[COM1_PORT, COM1_PORT + SERIAL_PORT_COUNT - 1],
      ...[WATCHDOG_BASE_PORT, WATCHDOG_BASE_PORT + WATCHDOG_PORT_COUNT - 1],
      ...[PVPANIC_PORT, SLEEP_CONTROL_PORT, EVENT_PORT],
    ];
    for (const port of taken) {
      expectRefusal({ 'debug-console': `null,iobase=0x${port.toString(16)}` }, 'RESERVED', 'belongs to');
    }
    expect(parse({ 'debug-console': `null,iobase=0x${DEBUG_CONSOLE_PORT.toString(16)}` }).debug_console).toBeDefined();
  });

  test.each<[text: string, code: ConfigErrorCode, message: string]>([
    [
      'iobase=0xe9',
      'MISSING_VALUE',
      '--debug-console: nothing is chosen. Choose one of tty, null, off, pty, file=PATH.',
    ],
    ['tty,iobase=402', 'WRONG_TYPE', '--debug-console iobase: "402" is not a port in hexadecimal. Write 0x402.'],
    ['tty,iobase=0x10000', 'OUT_OF_RANGE', '0x10000 is not a port'],
    ['tty,iobase=0x3f8', 'RESERVED', '0x3f8 belongs to the serial port'],
    ['tty,file=/tmp/x', 'CONFLICT', 'chooses more than one'],
    ['socket=/tmp/x', 'UNKNOWN_KEY', 'there is no "socket" in --debug-console'],
  ])('--debug-console %s is refused', (text, code, message) => {
    expectRefusal({ 'debug-console': text }, code, message);
  });
});

test('--io-threads', () => {
  expect(parse({ 'io-threads': '4' }).io_threads).toBe(4);
  expectRefusal({ 'io-threads': '0' }, 'OUT_OF_RANGE', '--io-threads: 0 threads are too few. Use 1 to 64.');
  expectRefusal({ 'io-threads': '65' }, 'OUT_OF_RANGE', '--io-threads: 65 threads are too many');
  expectRefusal({ 'io-threads': 'two' }, 'WRONG_TYPE', '--io-threads: "two" is not a whole number');
});
