// `tsvmm run` without a VM: its command line, and what becomes of streams, signals, copies, exit codes and failures, with the
// agent on this machine.

import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { FRAME, MAGIC, VERSION, words } from '../../src/agent/protocol.js';
import { AgentError } from '../../src/agent/errors.js';
import type { VmEnd } from '../../src/cli/attend.js';
import {
  guestProgramConfig,
  type GuestProgramCommand,
  type GuestRun,
  parseGuestProgram,
  programOf,
  type ProgramVm,
  runGuestProgram,
} from '../../src/cli/guest-program.js';
import type { ProgramRequest } from '../../src/cli/guest-session.js';
import { LocalAgent } from '../support/local-agent.js';
import { frame, ScriptedGuest } from '../support/scripted-agent.js';
import { ProgramProcess } from '../support/program-streams.js';

const KERNEL = process.execPath;

function parse(...args: readonly string[]): GuestProgramCommand {
  const command = parseGuestProgram(args, { HERE: 'from here' });
  if (typeof command === 'string') throw new Error('not a command');
  return command;
}

describe('the command line of tsvmm run', () => {
  test('everything behind -- is the program, options before it are the VM', () => {
    const command = parse('--kernel', 'k', '-v', '--', 'sh', '-c', 'exit 7', '--', '--kernel');
    expect(command).toMatchObject({ log: { verbosity: 1 }, argv: ['sh', '-c', 'exit 7', '--', '--kernel'] });
    expect(command.options.get('kernel')).toEqual(['k']);
  });

  test("its own options may stand anywhere among the VM's", () => {
    const args =
      '--kernel k --env A=b=c --disk path=a path=b --env HERE --env=NOT --timeout 1.5 --cwd /tmp --user me:7';
    const { run, options } = parse(...args.split(' '), '--init', 'guest', '--boot-timeout=3', '--quiet', '--', 'true');
    expect(options.get('disk')).toEqual(['path=a', 'path=b']);
    expect(run).toEqual({
      init: 'guest',
      sources: [],
      modules: { path: undefined, names: [] },
      entrypoint: undefined,
      program: { env: { A: 'b=c', HERE: 'from here' }, cwd: '/tmp', user: 'me:7', timeout: 1500 },
      bootTimeout: 3000,
      copyIn: [],
      copyOut: [],
      quiet: true,
    });
  });

  test('what the root is made of keeps its order', () => {
    const args = '--folder a --docker-archive d --program p --image n --folder b --entrypoint e';
    expect(parse(...args.split(' ')).run).toMatchObject({
      entrypoint: 'e',
      sources: [
        { kind: 'folder', path: 'a' },
        { kind: 'docker-archive', path: 'd', image: 'n' },
        { kind: 'program', path: 'p' },
        { kind: 'folder', path: 'b' },
      ],
    });
  });

  test('copies name a path of each side; those of the host may have colons', () => {
    const { run } = parse('--copy-in', '/a:b/c:/d/', '--copy-out', '/e:/f:g', '--', 'true');
    expect(run.copyIn).toEqual([{ host: '/a:b/c', guest: '/d/' }]);
    expect(run.copyOut).toEqual([{ host: '/f:g', guest: '/e' }]);
  });

  test.each([[['--kernel', 'k']], [['--kernel', 'k', '--']], [['--', '']], [['--folder', 'a']]])(
    'no program is a mistake: %j',
    (args) => {
      expect(() => parseGuestProgram(args)).toThrow(/run: no program is named/);
    },
  );

  test.each(['--api-socket=/a', '--shutdown-timeout=5', '--event-monitor=path=/a'])('%s is refused', (option) => {
    expect(() => parseGuestProgram([option, '--', 'true'])).toThrow(/is not for tsvmm run/);
  });

  test.each([
    ['--init own', 'WRONG_TYPE'],
    ['--init guest --init guest', 'DUPLICATE'],
    ['--timeout 0', 'OUT_OF_RANGE'],
    ['--timeout 1e3', 'OUT_OF_RANGE'],
    ['--boot-timeout forever', 'OUT_OF_RANGE'],
    ['--cwd here', 'WRONG_TYPE'],
    ['--env =x', 'SYNTAX'],
    ['--copy-in a', 'SYNTAX'],
    ['--copy-in a:b', 'SYNTAX'],
    ['--copy-out b:a', 'SYNTAX'],
    ['--copy-out /a:', 'SYNTAX'],
    ['--copy-in', 'MISSING_VALUE'],
    ['--image n', 'CONFLICT'],
    ['--entrypoint e --folder f', 'CONFLICT'],
    ['--init guest --folder f', 'CONFLICT'],
    ['--restore /s --program p', 'CONFLICT'],
    ['--timout 5', 'UNKNOWN_OPTION'],
  ])('%s is refused: %s', (text, code) => {
    expect(() => parse(...text.split(' '), '--', 'true')).toThrow(expect.objectContaining({ code }));
  });

  test('a mistyped option is named as it was meant', () => {
    expect(() => parse('--timout=5', '--', 'true')).toThrow(/Did you mean --timeout\?/);
  });

  test('help and version are asked for before the dashes only', () => {
    expect(parseGuestProgram(['--help'])).toBe('help');
    expect(parseGuestProgram(['--version', '--', 'x'])).toBe('version');
    expect(parseGuestProgram(['--', 'x', '--help'])).toMatchObject({ argv: ['x', '--help'] });
  });
});

describe('the machine of tsvmm run', () => {
  test('there has to be a kernel, by option or variable', async () => {
    await expect(guestProgramConfig(parse('--', 'true'), {})).rejects.toThrow(/TSVMM_KERNEL/);
    const config = await guestProgramConfig(parse('--', 'true'), { TSVMM_KERNEL: KERNEL });
    expect(config.payload.kernel).toBe(KERNEL);
    const both = await guestProgramConfig(parse('--kernel', KERNEL, '--', 'true'), { TSVMM_KERNEL: '/nowhere' });
    expect(both.payload.kernel).toBe(KERNEL);
  });

  test("the terminal is the program's, there is vsock, and a reset ends it", async () => {
    const config = await guestProgramConfig(parse('--kernel', KERNEL, '--', 'true'));
    expect(config.serial.mode).toBe('Null');
    expect(config.vsock).toEqual({ cid: 3 });
    expect(config.no_reboot).toBe(true);
  });
});

describe('what a container image says of its program', () => {
  const image = {
    entrypoint: ['/entry', 'first'],
    command: ['second'],
    env: ['PATH=/a', 'B=1=2', 'broken'],
    workingDir: '/work',
    user: 'web',
  };

  test('entrypoint and command, environment, folder and user', () => {
    expect(programOf(parse('--docker-archive', 'a'), undefined, image)).toMatchObject({
      argv: ['/entry', 'first', 'second'],
      env: { PATH: '/a', B: '1=2' },
      cwd: '/work',
      user: 'web',
    });
  });

  test('arguments take the place of its command, options that of the rest', () => {
    const options = '--docker-archive a --env B=3 --cwd / --user root'.split(' ');
    expect(programOf(parse(...options, '--', 'x', 'y'), undefined, image)).toMatchObject({
      argv: ['/entry', 'first', 'x', 'y'],
      env: { PATH: '/a', B: '3' },
      cwd: '/',
      user: 'root',
    });
  });

  test('another entrypoint has no use for its command', () => {
    const command = parse('--docker-archive', 'a', '--entrypoint', '/bin/sh');
    expect(programOf(command, undefined, image).argv).toEqual(['/bin/sh']);
  });

  test('one that names none is a mistake', () => {
    const empty = { ...image, entrypoint: [], command: [] };
    expect(() => programOf(parse('--docker-archive', 'a'), undefined, empty)).toThrow(/names no program/);
  });
});

describe('a program of tsvmm run', () => {
  const printed = 'one\n\u001b[31mtwo\u0007\r\nKernel panic\n';
  let local: LocalAgent;
  let here: ProgramProcess;
  let stops: number;
  let synced: number;
  let end: (end: VmEnd) => void;
  let vm: ProgramVm;

  beforeEach(async () => {
    local = await LocalAgent.start();
    here = new ProgramProcess();
    stops = 0;
    synced = 0;
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
    const { agent } = local;
    vm = {
      agent: {
        waitReady: (options) => agent.waitReady(options),
        exec: (argv, options) => agent.exec(argv, options),
        copyIn: (...args) => agent.copyIn(...args),
        copyOut: (...args) => agent.copyOut(...args),
        sync: () => {
          synced += 1;
          return Promise.resolve();
        },
      },
      exited,
      console: { tail: () => printed },
      start: () => Promise.resolve(),
      stop,
    };
  });
  afterEach(async () => {
    await local.stop();
    expect(stops).toBeGreaterThan(0);
    expect(here.signals.size).toBe(0);
    expect(here.deaths).toEqual([]);
  });

  function run(argv: readonly string[], options: Partial<GuestRun & ProgramRequest & { hasDisks: boolean }> = {}) {
    const { env = {}, cwd, user, timeout, hasDisks = false } = options;
    const program = { argv, env, cwd, user, timeout };
    const defaults: GuestRun = {
      bootTimeout: 60_000,
      copyIn: [],
      copyOut: [],
      quiet: false,
      prepare: () => Promise.resolve({ program, hasDisks, createVm: () => Promise.resolve(vm) }),
    };
    return runGuestProgram({ ...defaults, ...options }, here.streams, here.host);
  }

  function sh(script: string, options?: Parameters<typeof run>[1]): Promise<number> {
    return run(['sh', '-c', script], options);
  }

  test("its exit code is the command's, its streams are connected", async () => {
    const status = sh('cat; echo err >&2; exit 7');
    const output = buffer(here.stdout);
    const errors = buffer(here.stderr);
    here.stdin.end(Buffer.alloc(1_000_000, 'z'));
    expect(await status).toBe(7);
    here.stdout.end();
    here.stderr.end();
    expect((await output).equals(Buffer.alloc(1_000_000, 'z'))).toBe(true);
    expect((await errors).toString()).toBe('err\n');
    expect(here.said).toEqual([]);
    expect(synced).toBe(0);
  });

  test('bytes that are no UTF-8 pass as they are, both ways and on both outputs', async () => {
    const bytes = Buffer.from(Array.from({ length: 70_000 }, (_, index) => (index * 7) & 0xff));
    const status = sh('tee /dev/stderr');
    const outputs = [buffer(here.stdout), buffer(here.stderr)];
    here.stdin.end(bytes);
    expect(await status).toBe(0);
    here.stdout.end();
    here.stderr.end();
    for (const output of outputs) expect((await output).equals(bytes)).toBe(true);
  });

  test('an agent of another version, or what is none, is said: 125', async () => {
    for (const [says, message] of [
      [frame(FRAME.HELLO, words(MAGIC, VERSION + 5)), /speaks version/],
      [Buffer.from('220 mail.example.org ESMTP\r\n'), /no agent of tsvmm/],
    ] as const) {
      const { agent } = new ScriptedGuest({ says: [says] });
      vm = { ...vm, agent };
      here.said.length = 0;
      expect(await run(['true'])).toBe(125);
      expect(here.said).toEqual([expect.stringMatching(message)]);
    }
  });

  test('it has the variables and the folder that it was given', async () => {
    expect(await sh('test "$A $PWD" = "b c /usr"', { env: { A: 'b c' }, cwd: '/usr' })).toBe(0);
  });

  test('disks are written before the plug is pulled', async () => {
    expect(await sh('true', { hasDisks: true })).toBe(0);
    expect(synced).toBe(1);
  });

  test('it need not read its stdin to the end', async () => {
    expect(await run(['true'])).toBe(0);
    expect(here.stdin.destroyed).toBe(true);
  });

  test('a signal that ended it is 128 and its number', async () => {
    expect(await sh('kill -TERM $$')).toBe(143);
  });

  test('one that is not there is 127', async () => {
    expect(await run(['no-such-program'])).toBe(127);
    expect(here.said).toEqual([expect.stringContaining('the guest has no program no-such-program')]);
  });

  test('a file that is no program is 126', async () => {
    expect(await run(['/etc/passwd'])).toBe(126);
  });

  test('a program that takes too long is killed, and 124; what it left is copied', async () => {
    const path = local.path('left');
    const copyOut = [{ guest: path, host: local.path('copy') }];
    expect(await sh(`echo partly > ${path}; sleep 1000`, { timeout: 1000, copyOut })).toBe(124);
    expect(here.said).toEqual([expect.stringContaining('did not end within its 1000 ms')]);
    expect(readFileSync(local.path('copy'), 'utf8')).toBe('partly\n');
  });

  test('copies go in before it and out after it, also when it fails', async () => {
    writeFileSync(local.path('in'), 'text');
    mkdirSync(local.path('guest'));
    mkdirSync(local.path('out'));
    const copyIn = [{ host: local.path('in'), guest: `${local.path('guest')}/` }];
    const copyOut = [{ guest: local.path('guest'), host: local.path('out') }];
    expect(await sh('tr a-z A-Z < in > result; exit 3', { copyIn, copyOut, cwd: local.path('guest') })).toBe(3);
    expect(readFileSync(local.path('out/guest/result'), 'utf8')).toBe('TEXT');
  });

  test('what cannot be copied in is 125, and nothing is run', async () => {
    const copyIn = [{ host: local.path('none'), guest: local.path('in') }];
    expect(await sh(`touch ${local.path('ran')}`, { copyIn })).toBe(125);
    expect(existsSync(local.path('ran'))).toBe(false);
  });

  test('what cannot be copied out is said and 125, but the exit code of a program that failed stays', async () => {
    const copyOut = ['none', 'there'].map((name) => ({ guest: local.path(name), host: local.path(`${name}.out`) }));
    expect(await sh(`echo x > ${local.path('there')}`, { copyOut })).toBe(125);
    expect(here.said).toEqual([expect.stringContaining('the guest has nothing at')]);
    expect(existsSync(local.path('there.out'))).toBe(true);
  });

  test('a guest that ends before it is 125, and what it printed last is told', async () => {
    const status = sh('echo up; sleep 1000');
    await once(here.stdout, 'readable');
    end({ reason: 'crash', report: 'triple fault' });
    expect(await status).toBe(125);
    expect(here.said[0]).toBe('the guest ended before the program did');
    expect(here.said.slice(1)).toEqual([
      'the guest crashed\ntriple fault',
      'it printed last:',
      '| one',
      '| two',
      '| Kernel panic',
    ]);
  });

  test('an agent that does not call in time is 125, and what the guest printed last is told', async () => {
    vm = {
      ...vm,
      agent: { ...vm.agent, waitReady: () => Promise.reject(new AgentError('TIMEOUT', 'no call')) },
    };
    expect(await sh('true', { bootTimeout: 500 })).toBe(125);
    expect(here.said[0]).toBe('no agent has called from the guest within 0.5 s (--boot-timeout)');
    expect(here.said.at(-1)).toBe('| Kernel panic');
  });

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('%s goes to the program, which ends by it', async (signal, code) => {
    const status = sh('echo up; exec sleep 1000');
    await once(here.stdout, 'readable');
    here.send(signal);
    expect(await status).toBe(code);
    // At the very end only.
    expect(stops).toBe(1);
  });

  test('a program may live on after a signal, and its exit code stays', async () => {
    const status = sh('trap "exit 9" TERM; echo up; while :; do sleep 0.05; done');
    await once(here.stdout, 'readable');
    here.send('SIGTERM');
    expect(await status).toBe(9);
  });

  test('the same signal again ends the guest with a program that ignores it; SIGHUP beside it does not', async () => {
    const status = sh('trap "" TERM; trap "echo hup" HUP; echo up; while :; do sleep 0.05; done');
    await once(here.stdout, 'readable');
    here.stdout.read();
    here.send('SIGTERM');
    here.send('SIGHUP');
    await once(here.stdout, 'readable');
    expect(stops).toBe(0);
    here.send('SIGTERM');
    expect(await status).toBe(143);
  });

  test('a signal before there is a guest breaks the preparation off, and its files go', async () => {
    let folder = '';
    const prepare: GuestRun['prepare'] = async (files, signal) => {
      folder = files.place('root');
      writeFileSync(folder, 'half');
      setImmediate(() => {
        here.send('SIGINT');
      });
      await once(signal, 'abort');
      throw new Error('stopped half-way');
    };
    expect(await sh('true', { prepare })).toBe(130);
    expect(existsSync(folder)).toBe(false);
    // There was none to be stopped.
    stops = 1;
  });

  test('what preparing refuses is thrown, and its files go', async () => {
    let folder = '';
    const prepare: GuestRun['prepare'] = (files) => {
      folder = files.place('.');
      return Promise.reject(new AgentError('PROGRAM_NOT_FOUND', 'not here'));
    };
    expect(await sh('true', { prepare })).toBe(127);
    expect(() => readdirSync(folder)).toThrow(/ENOENT/);
    stops = 1;
  });
});
