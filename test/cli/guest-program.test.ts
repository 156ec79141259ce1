// `tsvmm run` without a VM: its command line, and what becomes of streams, exit codes and failures, with the agent on this
// machine.

import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { VmEnd } from '../../src/cli/attend.js';
import type { EndingSignal } from '../../src/cli/exit-codes.js';
import { guestProgramConfig, parseGuestProgram, type ProgramVm, runGuestProgram } from '../../src/cli/guest-program.js';
import type { Host } from '../../src/cli/host.js';
import { LocalAgent } from '../support/local-agent.js';

describe('the command line of tsvmm run', () => {
  test('everything behind -- is the program, options before it are the VM', () => {
    const command = parseGuestProgram(['--kernel', 'k', '-v', '--', 'sh', '-c', 'exit 7', '--', '--kernel']);
    expect(command).toMatchObject({ log: { verbosity: 1 }, argv: ['sh', '-c', 'exit 7', '--', '--kernel'] });
    expect(command !== 'help' && command !== 'version' && command.options.get('kernel')).toEqual(['k']);
  });

  test.each([[['--kernel', 'k']], [['--kernel', 'k', '--']], [['--', '']]])('no program is a mistake: %j', (args) => {
    expect(() => parseGuestProgram(args)).toThrow(/run: no program is named/);
  });

  test.each(['--api-socket=/a', '--restore=source_url=file:///a', '--shutdown-timeout=5', '--event-monitor=path=/a'])(
    '%s is refused',
    (option) => {
      expect(() => parseGuestProgram([option, '--', 'true'])).toThrow(/is not for tsvmm run/);
    },
  );

  test('help and version are asked for before the dashes only', () => {
    expect(parseGuestProgram(['--help'])).toBe('help');
    expect(parseGuestProgram(['--version', '--', 'x'])).toBe('version');
    expect(parseGuestProgram(['--', 'x', '--help'])).toMatchObject({ argv: ['x', '--help'] });
  });

  test('the built-in guest runs no programs', async () => {
    const command = parseGuestProgram(['--', 'true']);
    if (typeof command === 'string') throw new Error('not a command');
    await expect(guestProgramConfig(command)).rejects.toThrow(/the built-in guest runs no programs/);
  });

  test("the terminal is the program's, and there is vsock", async () => {
    const command = parseGuestProgram(['--kernel', process.execPath, '--', 'true']);
    if (typeof command === 'string') throw new Error('not a command');
    const config = await guestProgramConfig(command);
    expect(config.serial.mode).toBe('Null');
    expect(config.vsock).toEqual({ cid: 3 });
  });
});

describe('a program of tsvmm run', () => {
  let local: LocalAgent;
  let stdin: PassThrough;
  let stdout: PassThrough;
  let stderr: PassThrough;
  let said: string[];
  let signals: Map<EndingSignal, () => void>;
  let stops: number;
  let end: (end: VmEnd) => void;
  let vm: ProgramVm;

  beforeEach(async () => {
    local = await LocalAgent.start();
    [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()];
    said = [];
    signals = new Map();
    stops = 0;
    let settle: ((end: VmEnd) => void) | undefined;
    const exited = new Promise<VmEnd>((resolve) => {
      settle = resolve;
    });
    end = (how) => {
      local.transport.close();
      settle?.(how);
    };
    const stop = (): Promise<void> => {
      stops += 1;
      end({ reason: 'stopped' });
      return Promise.resolve();
    };
    vm = { agent: local.agent, exited, start: () => Promise.resolve(), stop };
  });
  afterEach(async () => {
    await local.stop();
    expect(stops).toBeGreaterThan(0);
    expect(signals.size).toBe(0);
  });

  function run(...argv: readonly string[]): Promise<number> {
    const host: Host = {
      stdin: { isTTY: false } as unknown as Host['stdin'],
      say: (line) => said.push(line),
      onSignal: (signal, listener) => signals.set(signal, listener),
      offSignal: (signal) => signals.delete(signal),
      die: () => {
        throw new Error('died');
      },
    };
    return runGuestProgram(argv, () => Promise.resolve(vm), { stdin, stdout, stderr }, host);
  }

  test("its exit code is the command's, its streams are connected", async () => {
    const status = run('sh', '-c', 'cat; echo err >&2; exit 7');
    const output = buffer(stdout);
    const errors = buffer(stderr);
    stdin.end(Buffer.alloc(1_000_000, 'z'));
    expect(await status).toBe(7);
    stdout.end();
    stderr.end();
    expect((await output).equals(Buffer.alloc(1_000_000, 'z'))).toBe(true);
    expect((await errors).toString()).toBe('err\n');
    expect(said).toEqual([]);
  });

  test('it need not read its stdin to the end', async () => {
    expect(await run('true')).toBe(0);
    expect(stdin.destroyed).toBe(true);
  });

  test('a signal that ended it is 128 and its number', async () => {
    expect(await run('sh', '-c', 'kill -TERM $$')).toBe(143);
  });

  test('one that is not there is 127', async () => {
    expect(await run('no-such-program')).toBe(127);
    expect(said).toEqual([expect.stringContaining('the guest has no program no-such-program')]);
  });

  test('a file that is no program is 126', async () => {
    expect(await run('/etc/passwd')).toBe(126);
  });

  test('a guest that ends before it is 125, and said', async () => {
    const status = run('sh', '-c', 'echo up; sleep 1000');
    await once(stdout, 'readable');
    end({ reason: 'crash', report: 'triple fault' });
    expect(await status).toBe(125);
    expect(said.join('\n')).toMatch(/the guest ended before the program did[^]*triple fault/);
  });

  test('Ctrl-C ends the VM, and the status says so', async () => {
    const status = run('sh', '-c', 'echo up; sleep 1000');
    await once(stdout, 'readable');
    signals.get('SIGINT')?.();
    expect(await status).toBe(130);
  });
});
