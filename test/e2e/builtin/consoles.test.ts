// Consoles, the panic port and the watchdog of real virtual machines: the built-in guest at a socket and at a
// pseudo-terminal, kernels of a few bytes for the rest.

import { once } from 'node:events';
import { closeSync, constants, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ReadStream } from 'node:tty';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { VmConfig } from '../../../src/config/vm-config.js';
import { Vm, type VmEvent, type VmExit } from '../../../src/vmm/vm.js';
import { endIdleThreads } from '../../../src/vmm/worker-pool.js';
import { describeKvm } from '../../support/kvm.js';
import { openDescriptors } from '../../support/process-state.js';
import { CODE, CODE_ADDRESS, writeKernel } from '../../support/tiny-kernel.js';
import { testConfig } from '../../support/vms.js';

const OUTPUT_LIMIT_MS = 20_000;

let directory = '';
let descriptors = 0;
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-consoles-'));
  await endIdleThreads();
  descriptors = openDescriptors();
});
afterEach(async () => {
  rmSync(directory, { recursive: true });
  await endIdleThreads();
  expect(openDescriptors()).toBe(descriptors);
});

/** What a VM tells of at its start. */
const BOOT = ['booting', 'booted'] as const;

interface Run {
  readonly exit: VmExit;
  readonly events: readonly VmEvent['type'][];
  readonly log: readonly string[];
}

/** Runs a VM to its end; `body` may talk to it meanwhile. */
async function run(changes: Partial<VmConfig>, body?: (vm: Vm) => Promise<void>): Promise<Run> {
  const events: VmEvent['type'][] = [];
  const log: string[] = [];
  const vm = await Vm.create(testConfig(changes), {
    log: (level, component, message) => log.push(`${level} ${component}: ${message}`),
    onEvent: ({ type }) => events.push(type),
  });
  try {
    await vm.start();
    await body?.(vm);
    return { exit: await vm.exited, events, log };
  } finally {
    await vm.stop();
  }
}

function kernel(...code: readonly number[]): Partial<VmConfig> {
  return { payload: { kernel: writeKernel(directory, code) } };
}

/** Waits until what the stream gives has `pattern` in it; returns all of it. */
async function until(stream: NodeJS.ReadableStream, pattern: RegExp): Promise<string> {
  let text = '';
  const signal = AbortSignal.timeout(OUTPUT_LIMIT_MS);
  while (!pattern.test(text)) text += String((await once(stream, 'data', { signal }))[0]);
  return text;
}

describeKvm('a serial port', () => {
  test('at a socket: the banner waits for the client, commands work, and the socket goes with the VM', async () => {
    const socket = join(directory, 'serial');
    const { exit, log } = await run({ serial: { mode: 'Socket', socket } }, async (vm) => {
      expect(vm.console.path).toBe(socket);
      const client = createConnection(socket);
      expect(await until(client, /> $/)).toMatch(/^tsvmm guest /);
      client.write('poweroff\n');
      await once(client, 'close');
    });
    expect(exit).toEqual({ reason: 'shutdown' });
    expect(existsSync(socket)).toBe(false);
    expect(log).toContain(`info serial: at ${socket}`);
  });

  test('at a pseudo-terminal: opened, closed, opened again', async () => {
    const { exit, log } = await run({ serial: { mode: 'Pty' } }, async ({ consoles }) => {
      const path = consoles.serial?.path ?? '';
      for (const [expected, typed] of [
        [/^tsvmm guest [^]*> $/, 'help\n'],
        [/poweroff[^]*> $/, 'poweroff\n'],
      ] as const) {
        const fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY);
        const stream = new ReadStream(fd);
        stream.on('error', () => undefined);
        await until(stream, expected);
        writeSync(fd, typed);
        const closed = once(stream, 'close');
        stream.destroy();
        await closed;
        closeSync(fd);
      }
    });
    expect(exit).toEqual({ reason: 'shutdown' });
    expect(log).toContainEqual(expect.stringMatching(/^info serial: at \/dev\/pts\/\d+$/));
  });
});

describeKvm('the debug console', () => {
  // mov $PORT, %dx; in %dx, %al; out %al, %dx; mov $'k', %al; out %al, %dx; then 5 bytes by rep outsb; power-off.
  const talk = (port: number): number[] => {
    const code = [0x66, 0xba, port & 0xff, port >>> 8, 0xec, 0xee, 0xb0, 0x6b, 0xee];
    const length = code.length + 12 + CODE.powerOff.length;
    const text = CODE_ADDRESS + length;
    const address = [text & 0xff, (text >>> 8) & 0xff, (text >>> 16) & 0xff, text >>> 24];
    return [...code, 0xbe, ...address, 0xb9, 5, 0, 0, 0, 0xf3, 0x6e, ...CODE.powerOff, ...Buffer.from('hello')];
  };

  test.each([
    ['its usual port', undefined],
    ['another port', 0x402],
  ])('at %s: reading says that it is there, bytes and strings come out in the file', async (_name, iobase) => {
    const file = join(directory, 'debug');
    const debug_console = { mode: 'File', file, ...(iobase !== undefined && { iobase }) } as const;
    const { exit } = await run({ ...kernel(...talk(iobase ?? 0xe9)), debug_console });
    expect(exit).toEqual({ reason: 'shutdown' });
    expect(readFileSync(file, 'latin1')).toBe('\xe9khello');
  });

  test('the library hears it, and it takes no input', async () => {
    let heard = '';
    const vm = await Vm.create(testConfig({ ...kernel(...talk(0xe9)), debug_console: { mode: 'Null' } }));
    try {
      vm.consoles.debug_console?.onOutput((bytes) => (heard += Buffer.from(bytes).toString('latin1')));
      await vm.consoles.debug_console?.write(Buffer.from('nobody reads this'));
      await vm.start();
      await vm.exited;
    } finally {
      await vm.stop();
    }
    expect(heard).toBe('\xe9khello');
  });

  test('is not there unless it is asked for', async () => {
    // mov $0xe9, %dx; in %dx, %al; cmp $0xff, %al; je 1f; reset; 1: power-off.
    const code = [0x66, 0xba, 0xe9, 0x00, 0xec, 0x3c, 0xff, 0x74, CODE.reset.length, ...CODE.reset, ...CODE.powerOff];
    expect((await run(kernel(...code))).exit).toEqual({ reason: 'shutdown' });
  });
});

describeKvm('pvpanic', () => {
  /** mov $0x505, %dx; in %dx, %al; cmp $3, %al; jne (halt for ever); mov $EVENT, %al; out %al, %dx. */
  const panic = (event: number): number[] => [
    ...[0x66, 0xba, 0x05, 0x05, 0xec, 0x3c, 0x03, 0x75, 0xfe, 0xb0, event, 0xee],
  ];

  test('a panic is an event, a line in the log, and part of how the VM ended', async () => {
    const { exit, events, log } = await run({ ...kernel(...panic(1), ...CODE.powerOff), pvpanic: true });
    expect(exit).toEqual({ reason: 'shutdown', panicked: true });
    expect(events).toEqual([...BOOT, 'panicked', 'shutdown']);
    expect(log).toContain('error vmm: the guest panicked');
  });

  test('a crash kernel that takes over is told apart', async () => {
    const { exit, events } = await run({ ...kernel(...panic(2), ...CODE.reset), pvpanic: true });
    expect(exit).toEqual({ reason: 'reset', panicked: true });
    expect(events).toEqual([...BOOT, 'crash-loaded', 'reset', 'shutdown']);
  });

  test('without the device nothing is reported', async () => {
    const { exit, events } = await run(kernel(0x66, 0xba, 0x05, 0x05, 0xb0, 1, 0xee, ...CODE.powerOff));
    expect([exit, events]).toEqual([{ reason: 'shutdown' }, [...BOOT, 'shutdown']]);
  });
});

describeKvm('the watchdog', () => {
  /** mov $PORT, %dx; mov $VALUE, %eax; out %eax, %dx. */
  const out = (port: number, value: number): number[] => [
    0x66,
    0xba,
    port & 0xff,
    port >>> 8,
    0xb8,
    value,
    0,
    0,
    0,
    0xef,
  ];
  const hang = [...out(0x618, 2), ...out(0x610, 1), ...CODE.halt];
  /** Hangs with the watchdog running; but powers off when the watchdog has caused the last reset. */
  const hangOnce = [0x66, 0xba, 0x20, 0x06, 0xed, 0xa8, 1, 0x75, hang.length, ...hang, ...CODE.powerOff];

  test('a guest that does not feed it is started again, and can tell why', async () => {
    const { exit, events, log } = await run({ ...kernel(...hangOnce), watchdog: true, no_reboot: false });
    expect(exit).toEqual({ reason: 'shutdown' });
    expect(events).toEqual([
      ...[...BOOT, 'watchdog-expired', 'reset'],
      ...['rebooting', ...BOOT, 'rebooted', 'shutdown'],
    ]);
    expect(log).toContainEqual(expect.stringMatching(/^warn watchdog: .*is reset$/));
  });

  test('it stands still while the VM is paused, and resets the machine afterwards', async () => {
    const paused: string[] = [];
    const { exit, events } = await run({ ...kernel(...hangOnce), watchdog: true, no_reboot: false }, async (vm) => {
      await once(vm.events, 'booted');
      await vm.pause();
      const note = ({ type }: VmEvent): unknown => paused.push(type);
      vm.events.on('watchdog-expired', note).on('reset', note);
      // The guest's period is 200 ms.
      await new Promise((resolve) => setTimeout(resolve, 400));
      expect(paused).toEqual([]);
      await vm.resume();
    });
    expect(exit).toEqual({ reason: 'shutdown' });
    expect(paused).toEqual(['watchdog-expired', 'reset']);
    expect(events.filter((type) => type === 'rebooted')).toHaveLength(1);
  });

  test('when it runs out while the VM is being paused, the reset is not lost', async () => {
    const hangs = kernel(...hang);
    const { events } = await run({ ...hangs, watchdog: true, no_reboot: false }, async (vm) => {
      for (let resets = 0; resets < 3;) {
        await once(vm.events, 'booted');
        const reset = once(vm.events, 'reset');
        // Pauses and resumes all the time, so that one of them meets the end of the countdown.
        let done = false;
        void reset.then(() => (done = true));
        while (!done) {
          await vm.pause();
          await vm.resume();
        }
        resets++;
      }
      await vm.stop();
    });
    expect(events.filter((type) => type === 'reset').length).toBeGreaterThanOrEqual(3);
    expect(events.at(-1)).toBe('shutdown');
  });

  test('with no_reboot that is the end of the VM, also with several processors', async () => {
    const cpus = { boot_vcpus: 2, max_vcpus: 2 };
    const { exit, events } = await run({ ...kernel(...hangOnce), watchdog: true, cpus });
    expect([exit, events]).toEqual([{ reason: 'reset' }, [...BOOT, 'watchdog-expired', 'reset', 'shutdown']]);
  });
});
