// The examples that need no kernel, as a user runs them; and the pool of clones that one of them is about.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { ClonePool } from '../../../examples/clone-pool.js';
import { Vm } from '../../../src/index.js';
import { Command, endCommands } from '../../support/command.js';
import { describeKvm } from '../../support/kvm.js';
import { eventually, openDescriptors } from '../../support/process-state.js';
import { testConfig, withVm } from '../../support/vms.js';

const EXAMPLES = fileURLToPath(new URL('../../../examples', import.meta.url));

let directory = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-examples-'));
});
afterEach(async () => {
  await endCommands();
  rmSync(directory, { recursive: true });
});

/** Its temporary files are in `directory`. */
function example(name: string, ...args: string[]): Command {
  const environment = { TMPDIR: directory, TSVMM_KERNEL: undefined };
  return new Command(process.execPath, [join(EXAMPLES, `${name}.js`), ...args], environment);
}

/** Nothing of a command that has ended is left. */
function expectNothingLeft(command: Command): void {
  expect(command.hasGroup()).toBe(false);
  expect(readdirSync(directory)).toEqual([]);
}

describe('options of the examples', () => {
  test.each(['chat', 'pool', 'sandbox', 'logs'])(
    '%s: --help prints the usage, and what is unknown is refused with it',
    async (name) => {
      const help = example(name, '--help');
      expect(await help.status).toBe(0);
      expect(help.output.stdout).toContain(`usage: node dist/examples/${name}.js`);
      const wrong = example(name, '--frobnicate');
      expect(await wrong.status).toBe(2);
      expect(wrong.output.stderr).toContain("Unknown option '--frobnicate'");
      expect(wrong.output.stderr).toContain('usage: ');
    },
  );

  test.each([
    ['pool', ['--max', '0'], '--max: "0" is not a whole number from 1 to 1000'],
    ['pool', ['--min', '3', '--max', '2'], '--min: "3" is not a whole number from 0 to 2'],
    ['pool', ['--kernel', 'vmlinux', '--crash', '2'], '--crash: only the built-in guest'],
    ['chat', ['hello'], "Unexpected argument 'hello'"],
    ['sandbox', ['--timeout', 'soon'], '--timeout: "soon" is not a whole number from 1 to 86400'],
    ['sandbox', ['--env', '=1', 'script.sh'], '--env: "=1" is not NAME=VALUE'],
    ['sandbox', ['one.sh', 'two.sh'], 'one file with code is enough, and "two.sh" is another'],
    ['logs', ['--metrics-port', '70000'], '--metrics-port: "70000" is not a whole number from 0 to 65535'],
    ['stream', ['none'], 'usage: node dist/examples/stream.js'],
  ])('%s %j is refused', async (name, args, message) => {
    const command = example(name, ...args);
    expect(await command.status).toBe(2);
    expect(command.output.stderr).toContain(message);
    expectNothingLeft(command);
  });
});

describeKvm('the chat example', () => {
  test('lines typed at one guest come out of the other, both ways', async () => {
    const chat = example('chat');
    await chat.waitFor('stdout', /connected; type something\n/);
    chat.type('good day\n');
    await chat.waitFor('stdout', /bob hears: good day\n/);
    chat.type('bob: to you, too\n< odd\n\nna\u00efve\n');
    chat.endInput();
    expect(await chat.status).toBe(0);
    expect(chat.output).toEqual({
      stdout:
        'alice and bob are connected; type something\nbob hears: good day\nalice hears: to you, too\nbob hears: < odd\n' +
        'bob hears: \nbob hears: na?ve\nalice has hung up\n',
      stderr: '',
    });
    expectNothingLeft(chat);
  });

  test('SIGINT while it waits for a line leaves nothing', async () => {
    const chat = example('chat');
    await chat.waitFor('stdout', /type something\n/);
    chat.kill('SIGINT');
    expect(await chat.status).toBe(130);
    expect(chat.output.stderr).toBe('');
    expectNothingLeft(chat);
  });
});

describeKvm('the pool example', () => {
  test('runs all jobs, those again whose guests crash', async () => {
    const pool = example('pool', '--jobs', '12', '--callers', '4', '--max', '3', '--crash', '5');
    expect(await pool.status).toBe(0);
    expect(pool.output.stderr).toBe('');
    expect(pool.output.stdout).toMatch(/^12 jobs, 4 at a time, in 2 to 3 clones\ndone: 12 jobs in /);
    expect(pool.output.stdout).toContain('crashed guests: 2, each job run again in another clone\n');
    expect(pool.output.stdout).toMatch(/clones: \d+ made, each used once; at most 3 at a time\n/);
    expectNothingLeft(pool);
  });

  test('SIGTERM in the middle leaves nothing', async () => {
    const pool = example('pool', '--jobs', '100000');
    await pool.waitFor('stdout', /100000 jobs/);
    pool.kill('SIGTERM');
    expect(await pool.status).toBe(143);
    expect(pool.output.stderr).toBe('');
    expectNothingLeft(pool);
  });
});

describeKvm('the stream example', () => {
  test('streams both ways and through echo', async () => {
    const stream = example('stream', '0.01');
    expect(await stream.status).toBe(0);
    expect(stream.output.stdout).toMatch(
      /^guest to host +10 MiB in [^\n]*\nhost to guest +10 MiB in [^\n]*\nthrough echo +10 MiB in [^\n]*\n$/,
    );
    expectNothingLeft(stream);
  });
});

describeKvm('a pool of clones', () => {
  let snapshot = '';
  let before = 0;

  beforeEach(async () => {
    await Vm.cooldown();
    before = openDescriptors();
    snapshot = join(directory, 'snapshot');
    await withVm(testConfig({ vsock: { cid: 3 } }), async (vm, console) => {
      await console.waitFor(/> $/);
      await vm.snapshot(snapshot);
    });
  });
  afterEach(async () => {
    await Vm.cooldown();
    await eventually('all descriptors are closed', () => openDescriptors() <= before);
  });

  async function echo(vm: Vm): Promise<string> {
    const stream = await vm.vsock.connect(7, { waitForDriver: true });
    stream.end('hello');
    let text = '';
    for await (const piece of stream) text += String(piece);
    return text;
  }

  test('makes clones ahead, serves in order up to its maximum, and refuses whom the queue has no place for', async () => {
    await using pool = new ClonePool({ snapshot, min: 1, max: 2, maxQueue: 1 });
    await eventually('a clone is ready', () => pool.counts.ready === 1);
    const [first, second] = await Promise.all([pool.acquire(), pool.acquire()]);
    expect(await Promise.all([first, second].map(echo))).toEqual(['hello', 'hello']);
    const third = pool.acquire();
    await expect(pool.acquire()).rejects.toMatchObject({ name: 'PoolError', code: 'QUEUE_FULL' });
    expect(pool.counts).toMatchObject({ ready: 0, busy: 2, making: 0, queued: 1 });
    await pool.release(first);
    const vm = await third;
    expect([first, second]).not.toContain(vm);
    expect(await first.exited).toEqual({ reason: 'stopped' });
    await Promise.all([second, vm].map((each) => pool.release(each)));
    await eventually('one is made ahead again', () => pool.counts.ready === 1);
  });

  test('a clone that crashes is replaced, whether somebody has it or not', async () => {
    const clones: Vm[] = [];
    const prepare = (vm: Vm): Promise<void> => {
      clones.push(vm);
      return Promise.resolve();
    };
    await using pool = new ClonePool({ snapshot, min: 1, max: 1, maxQueue: 1, prepare });
    await eventually('a clone is ready', () => pool.counts.ready === 1);
    await clones[0].console.write('fault\r');
    await eventually('another is ready', () => pool.counts.crashed === 1 && pool.counts.ready === 1);
    await pool.use(async (vm) => {
      expect(vm).toBe(clones[1]);
      await vm.console.write('fault\r');
      expect(await vm.exited).toMatchObject({ reason: 'crash' });
    });
    expect(await pool.use(echo)).toBe('hello');
  });

  test('who waits may leave, and is told when no clone can be made', async () => {
    const leave = new AbortController();
    await using pool = new ClonePool({ snapshot, min: 0, max: 1, maxQueue: 2 });
    const only = await pool.acquire();
    const waiting = pool.acquire(leave.signal);
    leave.abort(new Error('no patience'));
    await expect(waiting).rejects.toThrow('no patience');
    const next = pool.acquire();
    rmSync(snapshot, { recursive: true });
    await pool.release(only);
    await expect(next).rejects.toMatchObject({ name: 'VmError', code: 'SNAPSHOT' });
    await expect(pool.acquire()).rejects.toMatchObject({ code: 'SNAPSHOT' });
  });

  test('closing turns users away, and waits for those that have a clone', async () => {
    const pool = new ClonePool({ snapshot, min: 0, max: 1, maxQueue: 1 });
    const vm = await pool.acquire();
    const waiting = expect(pool.acquire()).rejects.toMatchObject({ code: 'CLOSED' });
    const closed = pool.close();
    await waiting;
    await expect(pool.acquire()).rejects.toMatchObject({ code: 'CLOSED' });
    expect(await echo(vm)).toBe('hello');
    await pool.release(vm);
    await closed;
    expect(pool.counts).toMatchObject({ ready: 0, busy: 0, making: 0, queued: 0 });
  });

  test('closing at once stops the clones that are in use', async () => {
    const pool = new ClonePool({ snapshot, min: 1, max: 2, maxQueue: 0 });
    const vm = await pool.acquire();
    await pool.close({ now: true });
    expect(await vm.exited).toEqual({ reason: 'stopped' });
    await pool.release(vm);
    expect(pool.counts).toMatchObject({ ready: 0, busy: 0, making: 0 });
  });

  test('bounds that contradict each other are refused', () => {
    expect(() => new ClonePool({ snapshot, min: 3, max: 2, maxQueue: 0 })).toThrow(RangeError);
    expect(() => new ClonePool({ snapshot, min: 0, max: 0, maxQueue: 0 })).toThrow(RangeError);
  });
});
