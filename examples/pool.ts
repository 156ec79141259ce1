// Runs many jobs in clones of one snapshot, each in a VM of its own that was up before the job came.
//
//   node dist/examples/pool.js                                 with the guest built into tsvmm: no kernel needed
//   node dist/examples/pool.js --jobs 200 --max 8 --crash 10   every tenth job brings its guest down
//   node dist/examples/pool.js --kernel vmlinux                with Linux: each job runs a program
//
// clone-pool.ts is the pool, to be lifted into a program of your own; this file is what a service would do with it.

import { parseArgs } from 'node:util';
import { Vm } from '../src/index.js';
import { ClonePool } from './clone-pool.js';
import {
  LINUX_OPTIONS,
  LINUX_USAGE,
  namedKernel,
  savedLinux,
  temporaryFolder,
  type SavedGuest,
} from './linux-guest.js';
import { runProgram, UsageError, wholeNumber } from './program.js';

const USAGE = `usage: node dist/examples/pool.js [options]

Boots a guest, saves it, and runs jobs in clones of it: a job of the built-in guest sends data through its echo service,
one of a Linux guest runs a shell command.

  --jobs N          jobs in all (100)
  --min N           clones that wait ready (2)
  --max N           clones at most (4)
  --callers N       jobs that are asked for at the same time (8)
  --crash N         every Nth job crashes its guest, and is run again in another (none; built-in guest only)
  --command TEXT    what a job of a Linux guest runs by sh -c (echo done)
${LINUX_USAGE}`;

const MIB = 2 ** 20;
const ECHO = 7;
/** A job that has not ended by then has hung. */
const JOB_LIMIT_MS = 300_000;

/** What is run in the clones. */
interface Workload {
  save(signal: AbortSignal): Promise<SavedGuest>;
  prepare(vm: Vm, signal: AbortSignal): Promise<void>;
  /** Rejects when the guest did not do its job. */
  job(vm: Vm, number: number, signal: AbortSignal): Promise<void>;
}

/** The guest that is built into tsvmm. */
const BUILT_IN: Workload = {
  save: async (signal) => {
    const saved = await temporaryFolder();
    try {
      await using vm = await Vm.create({ memory: { size: 32 * MIB }, serial: { mode: 'Null' }, vsock: { cid: 3 } });
      await vm.start();
      (await vm.vsock.connect(ECHO, { waitForDriver: true, signal })).destroy();
      await vm.snapshot(saved.folder);
      return saved;
    } catch (error) {
      await saved[Symbol.asyncDispose]();
      throw error;
    }
  },
  prepare: async (vm, signal) => {
    (await vm.vsock.connect(ECHO, { waitForDriver: true, signal })).destroy();
  },
  job: async (vm, number, signal) => {
    const sent = Buffer.alloc(64 * 1024, `job ${number} `);
    const stream = await vm.vsock.connect(ECHO, { signal });
    stream.end(sent);
    const pieces: Buffer[] = [];
    for await (const piece of stream) pieces.push(piece as Buffer);
    if (!Buffer.concat(pieces).equals(sent)) throw new Error(`job ${number}: the echo differs from what was sent`);
  },
};

function linux(values: Parameters<typeof savedLinux>[0], command: string): Workload {
  return {
    save: (signal) => savedLinux(values, ['sh'], signal),
    prepare: (vm, signal) => vm.agent.waitReady({ timeout: JOB_LIMIT_MS, signal }),
    job: async (vm, number, signal) => {
      const env = { JOB: String(number) };
      const { exitCode, stderr } = await vm.agent.run(['sh', '-c', command], { env, signal, timeout: JOB_LIMIT_MS });
      if (exitCode !== 0) throw new Error(`job ${number}: exit code ${exitCode}\n${stderr.toString()}`);
    },
  };
}

/** Times in milliseconds, as one line. */
function spread(times: readonly number[]): string {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (part: number): string => (sorted[Math.floor((sorted.length - 1) * part)] ?? 0).toFixed(1);
  return `median ${at(0.5)} ms, 95 % within ${at(0.95)} ms, longest ${at(1)} ms`;
}

await runProgram(USAGE, async (signal) => {
  const { values } = parseArgs({
    options: {
      jobs: { type: 'string', default: '100' },
      min: { type: 'string', default: '2' },
      max: { type: 'string', default: '4' },
      callers: { type: 'string', default: '8' },
      crash: { type: 'string' },
      command: { type: 'string', default: 'echo done' },
      ...LINUX_OPTIONS,
    },
  });
  const jobs = wholeNumber('jobs', values.jobs, 1, 1_000_000);
  const max = wholeNumber('max', values.max, 1, 1000);
  const min = wholeNumber('min', values.min, 0, max);
  const callers = wholeNumber('callers', values.callers, 1, 10_000);
  const crash = values.crash === undefined ? Infinity : wholeNumber('crash', values.crash, 1, jobs);
  const useLinux = values.snapshot !== undefined || namedKernel(values) !== undefined;
  if (useLinux && crash !== Infinity)
    throw new UsageError('--crash: only the built-in guest crashes when it is told to');
  const workload = useLinux ? linux(values, values.command) : BUILT_IN;

  await using saved = await workload.save(signal);
  const before = process.memoryUsage.rss();
  await using pool = new ClonePool({
    snapshot: saved.folder,
    min,
    max,
    maxQueue: callers,
    prepare: (vm) => workload.prepare(vm, signal),
  });
  const waits: number[] = [];
  const runs: number[] = [];
  let retried = 0;
  let peak = before;
  let mostClones = 0;

  /** In a clone of its own; what goes wrong is for the caller to judge. */
  const runOnce = async (number: number, brings: 'result' | 'crash'): Promise<void> => {
    const asked = performance.now();
    await pool.use(async (vm) => {
      const begin = performance.now();
      // The built-in guest's console has a command for it.
      if (brings === 'crash') await vm.console.write('fault\r').then(() => vm.exited);
      await workload.job(vm, number, signal);
      waits.push(begin - asked);
      runs.push(performance.now() - begin);
      const { ready, busy, making } = pool.counts;
      peak = Math.max(peak, process.memoryUsage.rss());
      mostClones = Math.max(mostClones, ready + busy + making);
    }, signal);
  };
  const runJob = async (number: number): Promise<void> => {
    try {
      await runOnce(number, number % crash === 0 ? 'crash' : 'result');
    } catch (error) {
      signal.throwIfAborted();
      if (number % crash !== 0) throw error;
      retried++;
      await runOnce(number, 'result');
    }
  };

  console.log(`${jobs} jobs, ${callers} at a time, in ${min} to ${max} clones`);
  const begin = performance.now();
  let next = 1;
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (next <= jobs) await runJob(next++);
    }),
  );
  const seconds = (performance.now() - begin) / 1000;
  // Those that have a clone finish, the others are stopped: after this there is no VM.
  await pool.close();

  const mebibytes = (bytes: number): string => `${(bytes / MIB).toFixed(0)} MiB`;
  console.log(`done: ${runs.length} jobs in ${seconds.toFixed(2)} s, ${(jobs / seconds).toFixed(1)} a second`);
  if (crash !== Infinity) console.log(`crashed guests: ${retried}, each job run again in another clone`);
  console.log(`waiting for a clone: ${spread(waits)}`);
  console.log(`running the job: ${spread(runs)}`);
  console.log(`clones: ${pool.counts.made} made, each used once; at most ${mostClones} at a time`);
  console.log(`memory: ${mebibytes(before)} before the first clone, ${mebibytes(peak)} at most`);
  return 0;
});
