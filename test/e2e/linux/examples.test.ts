// The examples that take a Linux kernel, as a user runs them: one boot, saved by the first and used by all others.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { Command, endCommands } from '../../support/command.js';
import { describeKvm } from '../../support/kvm.js';
import { BOOT_LIMIT_MS, COMMAND_LIMIT_MS, LINUX_CMDLINE, testArtefact } from '../../support/linux-guest.js';

const EXAMPLES = fileURLToPath(new URL('../../../examples', import.meta.url));
/** Static: it starts in a tenth of the time that a dynamic shell takes where the guest's kernel is emulated. */
const SHELL = ['--program', '/usr/bin/busybox sh'];
/** Wide enough for a busy machine. */
const PATIENT = ['--timeout', '300'];

describeKvm('the examples with a Linux guest', () => {
  let directory = '';
  let temporary = '';
  let snapshot = '';

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'tsvmm-linux-examples-'));
    snapshot = join(directory, 'snapshot');
  });
  beforeEach(() => {
    temporary = mkdtempSync(join(directory, 'tmp-'));
  });
  afterEach(endCommands);
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });

  /** Its temporary files are in `temporary`, its guest in `snapshot`. */
  function example(name: string, ...args: string[]): Command {
    const environment = { TMPDIR: temporary, TSVMM_KERNEL: testArtefact('kernel') };
    return new Command(process.execPath, [join(EXAMPLES, `${name}.js`), '--snapshot', snapshot, ...args], environment);
  }

  /** A sandbox for a script. */
  function sandbox(script: string, ...args: string[]): Command {
    const file = join(directory, 'script.sh');
    writeFileSync(file, script);
    return example('sandbox', ...SHELL, ...args, file);
  }

  function expectNothingLeft(command: Command): void {
    expect(command.hasGroup()).toBe(false);
    expect(readdirSync(temporary)).toEqual([]);
  }

  test(
    'sandbox: boots once, and each run has both outputs, its exit code, and nothing of the run before',
    async () => {
      // Dynamic programs have to leave alone what the guest's kernel does not save there.
      const variable = 'GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW';
      const guest = ['--cmdline', `${LINUX_CMDLINE} ${variable}`, '--memory', '56'];
      const programs = ['sh', 'socat', 'tail'].flatMap((name) => ['--with', name]);
      const script = '[ -e mark ] && exit 9; echo >mark; echo "$WORD"; printf "\\033[2Jerr\\n" >&2; exit 3\n';
      const options = [...guest, ...programs, ...PATIENT, '--env', 'WORD=a b', '--runs', '2'];
      const command = sandbox(script, ...options);
      expect(await command.status).toBe(1);
      expect(command.output.stderr).toBe('the guest boots\n');
      const run = (number: number): string =>
        `run ${number}: exit code 3 \\(clone ready in [\\d.]+ s, ran [\\d.]+ s\\)\n` +
        `  stdout \\| a b\n  stderr \\| \u00ef\u00bf\u00bd\\[2Jerr\n`;
      expect(command.output.stdout).toMatch(new RegExp(`^${run(1)}${run(2)}$`));
      expectNothingLeft(command);
      expect(existsSync(join(snapshot, 'state.json'))).toBe(true);
    },
    BOOT_LIMIT_MS + 4 * COMMAND_LIMIT_MS,
  );

  test(
    'sandbox: code that does not end, and code that writes too much, are stopped',
    async () => {
      const endless = sandbox('echo begun; while :; do :; done\n', '--timeout', '20');
      expect(await endless.status).toBe(1);
      expect(endless.output.stdout).toMatch(/^run 1: timed out after 20 s \(.*\)\n {2}stdout \| begun\n$/);
      const verbose = sandbox('while :; do echo more; done\n', ...PATIENT, '--max-output', '1');
      expect(await verbose.status).toBe(1);
      expect(verbose.output.stdout).toMatch(/^run 1: too much output: more than 1 KiB /);
      expectNothingLeft(verbose);
    },
    3 * COMMAND_LIMIT_MS,
  );

  test(
    'sandbox: code that wants more memory than the guest has',
    async () => {
      const script = 'a=xxxxxxxxxxxxxxxx; while :; do a=$a$a$a$a; done\n';
      const greedy = sandbox(script, ...PATIENT);
      expect(await greedy.status).toBe(1);
      expect(greedy.output.stdout).toMatch(/^run 1: out of memory: busybox was killed /);
    },
    5 * COMMAND_LIMIT_MS,
  );

  test(
    'sandbox: SIGINT between two runs leaves nothing but what the user named',
    async () => {
      const command = sandbox('exit 0\n', ...PATIENT, '--runs', '1000');
      await command.waitFor('stdout', /^run 1: exit code 0 /, COMMAND_LIMIT_MS);
      command.kill('SIGINT');
      expect(await command.status).toBe(130);
      expect(command.output.stderr).toBe('');
      expectNothingLeft(command);
    },
    2 * COMMAND_LIMIT_MS,
  );

  test(
    'logs: no line is lost over a move to another VM, metrics are served, and the result comes out',
    async () => {
      const output = join(directory, 'logs');
      const command = example('logs', '--guests', '1', '--lines', '8', '--output', output);
      await command.waitFor('stdout', /metrics: (\S+)\n/, COMMAND_LIMIT_MS);
      const url = /metrics: (\S+)\n/.exec(command.output.stdout)?.[1] ?? '';
      const metrics = await (await fetch(url)).text();
      expect(metrics).toContain('# TYPE guest_log_lines_total counter\n');
      expect(await command.status).toBe(0);
      expect(command.output.stdout).toMatch(/guest-1: moved to another VM when \d+ of its lines had come\n/);
      expect(command.output.stdout).toContain('guest-1: 8 lines, none missing, none twice\n');
      const records = readFileSync(join(output, 'log.ndjson'), 'utf8').trimEnd().split('\n');
      const [first] = records.map((line) => JSON.parse(line) as { guest: string; line: number; entry: unknown });
      expect(records).toHaveLength(8);
      expect(first).toMatchObject({ guest: 'guest-1', line: 1, entry: { number: 1, message: 'measured', length: 0 } });
      expect(readFileSync(join(output, 'guest-1.result'), 'utf8')).toBe('1 0\n2 1\n3 2\n4 3\n5 4\n6 5\n7 6\n8 7\n');
      expectNothingLeft(command);
    },
    10 * COMMAND_LIMIT_MS,
  );

  test(
    'pool: each job runs a program in a clone of its own',
    async () => {
      const pool = example(
        'pool',
        '--jobs',
        '2',
        '--callers',
        '2',
        '--min',
        '0',
        '--max',
        '2',
        '--command',
        'exit $((JOB > 2))',
      );
      expect(await pool.status).toBe(0);
      expect(pool.output.stdout).toMatch(/done: 2 jobs in [^]*clones: 2 made, each used once/);
      expectNothingLeft(pool);
    },
    3 * COMMAND_LIMIT_MS,
  );

  test('without a kernel, and with a program that the host has not, it is said what is missing', async () => {
    const kernel = { TSVMM_KERNEL: undefined };
    const none = new Command(process.execPath, [join(EXAMPLES, 'sandbox.js'), '/dev/null'], kernel);
    expect(await none.status).toBe(2);
    expect(none.output.stderr).toContain('name a Linux kernel: --kernel FILE, or the variable TSVMM_KERNEL');
    const other = join(directory, 'other');
    const unknown = example('sandbox', '--snapshot', other, '--program', 'no-such-program', '/dev/null');
    expect(await unknown.status).toBe(1);
    expect(unknown.output.stderr).toMatch(/no-such-program/);
    expectNothingLeft(unknown);
  });
});
