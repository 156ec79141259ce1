// Runs code that is not trusted: in a microVM without network or shared folders, with bounds for time, memory and output.
//
//   node dist/examples/sandbox.js --kernel vmlinux script.sh
//   echo 'print(6 * 7)' | node dist/examples/sandbox.js --kernel vmlinux --program python3
//   node dist/examples/sandbox.js --kernel vmlinux --snapshot /var/tmp/sandbox --runs 3 script.sh
//
// A guest is booted once and saved. Each run has a clone of it, which takes a fraction of a boot, sees nothing of other
// runs, and is gone afterwards. What holds the code is the VM, not its user id: inside it may be root and break what it
// likes. docs/security.md says what that is worth.

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { addAbortSignal } from 'node:stream';
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import { AgentError, Vm, type ExecExit } from '../src/index.js';
import { LINUX_OPTIONS, LINUX_USAGE, savedLinux, temporaryFolder } from './linux-guest.js';
import { runProgram, UsageError, wholeNumber } from './program.js';

const USAGE = `usage: node dist/examples/sandbox.js [options] [FILE]

Runs the code in FILE, or on standard input, in a microVM. The exit status is 0 if every run ended with exit code 0, else 1.

  --program NAME    what runs the code (sh): a program of the host, which is put into the guest with its libraries;
                    arguments may follow in the same word, as in --program "busybox sh"
  --env NAME=VALUE  a variable for it; any number of times
  --timeout SECONDS for each run (10)
  --max-output KIB  of stdout and stderr together (1024)
  --runs N          run it so often, each time in a fresh clone (1)
${LINUX_USAGE}`;

/** Where the code is in the guest. */
const CODE = '/tmp/code';
const READY_LIMIT_MS = 30_000;
/** What the kernel says when it kills a process for want of memory. */
const OUT_OF_MEMORY = /Out of memory: Killed process \d+ \((.*?)\)/;
/** How long its words may take to come out of the console. */
const CONSOLE_LAG_MS = 1000;

interface Limits {
  readonly timeoutMs: number;
  readonly maxOutput: number;
  readonly signal: AbortSignal;
}

interface RunReport {
  /** How it ended, in words. */
  readonly outcome: string;
  readonly succeeded: boolean;
  /** As far as it came. */
  readonly stdout: string;
  readonly stderr: string;
  readonly milliseconds: { readonly clone: number; readonly run: number };
}

/** Runs `argv` in a clone of the guest in `snapshot`, with the file `code` of the host at CODE. */
async function runInClone(
  snapshot: string,
  code: string,
  argv: readonly string[],
  env: Readonly<Record<string, string>>,
  { timeoutMs, maxOutput, signal }: Limits,
): Promise<RunReport> {
  const begin = performance.now();
  await using vm = await Vm.restore(snapshot);
  await vm.resume();
  await vm.agent.waitReady({ timeout: READY_LIMIT_MS, signal });
  await vm.agent.copyIn(code, CODE, { signal });
  const ready = performance.now();

  const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  let size = 0;
  const tooMuch = new AbortController();
  const collect = (stream: keyof typeof output) => (piece: Buffer) => {
    size += piece.length;
    if (size > maxOutput) tooMuch.abort();
    else output[stream].push(piece);
  };
  let outcome: string;
  let succeeded = false;
  try {
    const program = await vm.agent.exec(argv, {
      env,
      cwd: '/tmp',
      timeout: timeoutMs,
      signal: AbortSignal.any([signal, tooMuch.signal]),
      onStdout: collect('stdout'),
      onStderr: collect('stderr'),
    });
    const exit = await program.result;
    outcome = (await outOfMemory(vm, exit)) ?? describeExit(exit);
    succeeded = exit.exitCode === 0;
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof AgentError)) throw error;
    if (tooMuch.signal.aborted) outcome = `too much output: more than ${maxOutput / 1024} KiB`;
    else if (error.code === 'TIMEOUT') outcome = `timed out after ${timeoutMs / 1000} s`;
    // It may do in its guest what it likes, for instance end it.
    else if (error.code === 'GUEST_GONE') outcome = 'the guest is gone';
    else throw error;
  }
  return {
    outcome,
    succeeded,
    stdout: Buffer.concat(output.stdout).toString(),
    stderr: Buffer.concat(output.stderr).toString(),
    milliseconds: { clone: ready - begin, run: performance.now() - ready },
  };
}

function describeExit({ exitCode, signal }: ExecExit): string {
  return signal === null ? `exit code ${exitCode}` : `ended by ${signal}`;
}

/** Whether the guest's kernel has killed something for want of memory; then its own words for what. */
async function outOfMemory(vm: Vm, { exitCode, signal }: ExecExit): Promise<string | undefined> {
  // A shell says of a program of its own that SIGKILL ended: 128 + 9.
  const killed = signal === 'SIGKILL' || exitCode === 137;
  try {
    const { captures } = await vm.console.waitFor(OUT_OF_MEMORY, { timeout: killed ? CONSOLE_LAG_MS : 0 });
    return `out of memory: ${captures[0]} was killed`;
  } catch {
    return undefined;
  }
}

/** What comes from a guest must not steer the terminal. */
function printable(output: string): string {
  return output.replace(/[^\P{C}\n\t]/gu, '\u{fffd}');
}

function print(number: number, { outcome, stdout, stderr, milliseconds }: RunReport): void {
  const seconds = (time: number): string => (time / 1000).toFixed(2);
  console.log(
    `run ${number}: ${outcome} (clone ready in ${seconds(milliseconds.clone)} s, ran ${seconds(milliseconds.run)} s)`,
  );
  for (const [name, output] of Object.entries({ stdout, stderr })) {
    for (const line of printable(output).trimEnd().split('\n')) if (output !== '') console.log(`  ${name} | ${line}`);
  }
}

function variables(given: readonly string[]): Record<string, string> {
  const pairs = given.map((each): [string, string] => {
    const end = each.indexOf('=');
    if (end < 1) throw new UsageError(`--env: "${each}" is not NAME=VALUE`);
    return [each.slice(0, end), each.slice(end + 1)];
  });
  return Object.fromEntries(pairs);
}

await runProgram(USAGE, async (signal) => {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      program: { type: 'string', default: 'sh' },
      env: { type: 'string', multiple: true, default: [] },
      timeout: { type: 'string', default: '10' },
      'max-output': { type: 'string', default: '1024' },
      runs: { type: 'string', default: '1' },
      ...LINUX_OPTIONS,
    },
  });
  const interpreter = values.program.split(' ').filter((word) => word !== '');
  if (interpreter.length === 0) throw new UsageError('--program names no program');
  const file = positionals.at(0);
  if (positionals.length > 1) throw new UsageError(`one file with code is enough, and "${positionals[1]}" is another`);
  const runs = wholeNumber('runs', values.runs, 1, 1_000_000);
  const env = variables(values.env);
  const limits = {
    timeoutMs: wholeNumber('timeout', values.timeout, 1, 86_400) * 1000,
    maxOutput: wholeNumber('max-output', values['max-output'], 1, 1_048_576) * 1024,
    signal,
  };

  await using temporary = await temporaryFolder();
  const code = join(temporary.folder, 'code');
  await writeFile(code, file === undefined ? await text(addAbortSignal(signal, process.stdin)) : await readFile(file));
  await using saved = await savedLinux(values, interpreter.slice(0, 1), signal);
  let failed = 0;
  for (let number = 1; number <= runs; number++) {
    const report = await runInClone(saved.folder, code, [...interpreter, CODE], env, limits);
    print(number, report);
    if (!report.succeeded) failed++;
  }
  return failed === 0 ? 0 : 1;
});
