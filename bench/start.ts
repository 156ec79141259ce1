// Time from the start of the process to the guest's first instruction, with its parts, as a user of the command sees it.
//
// The reference is Node itself: a process that loads nothing and ends.

import { spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { StartTimes } from '../src/vmm/start-times.js';
import { compared, median, type Bench, type Figure } from './harness.js';

const ROUNDS = 9;
const PROGRAM = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const MARKER = 'start times: ';

/** Runs the command until its guest prints its prompt, then ends it; the times it logged, and when it was spawned. */
async function startOnce(work: string, round: number): Promise<StartTimes & { spawned: number }> {
  const logFile = join(work, `start-${round}.log`);
  const spawned = performance.timeOrigin + performance.now();
  const child = spawn(process.execPath, [PROGRAM, '-vv', '--log-file', logFile], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  child.kill('SIGTERM');
  await ended;
  const line = readFileSync(logFile, 'utf8')
    .split('\n')
    .find((text) => text.includes(MARKER));
  if (line === undefined) throw new Error(`${logFile} has no line with "${MARKER}"`);
  const json = line.slice(line.indexOf(MARKER) + MARKER.length);
  return { ...(JSON.parse(json.slice(0, json.lastIndexOf('}') + 1)) as StartTimes), spawned };
}

function measureNode(): number {
  const begin = performance.now();
  spawnSync(process.execPath, ['-e', '0']);
  return performance.now() - begin;
}

export const start: Bench = {
  name: 'start',
  description: "time to the guest's first instruction, with its parts, against an empty Node process",
  async run(work) {
    const rounds: (StartTimes & { spawned: number })[] = [];
    const node: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      rounds.push(await startOnce(work, round));
      node.push(measureNode());
    }
    const part = (name: string, of: (times: StartTimes & { spawned: number }) => number): Figure => ({
      name,
      value: median(rounds.map(of)),
      unit: 'ms',
    });
    return [
      compared(
        'process start to first instruction',
        'ms',
        median(rounds.map((t) => t.firstInstruction - t.spawned)),
        median(node),
      ),
      part('  Node is ready', (t) => t.node - t.spawned),
      part('  modules of the main thread', (t) => t.create - t.node),
      part('  KVM opened', (t) => t.kvm - t.create),
      part('  VM and memory', (t) => t.memory - t.kvm),
      part('  guest loaded', (t) => t.loaded - t.memory),
      part('  waiting for the vCPU worker', (t) => Math.max(0, t.workerLoaded - t.loaded)),
      part('  vCPU set up', (t) => t.entering - Math.max(t.workerLoaded, t.loaded)),
      part('  first instruction', (t) => t.firstInstruction - t.entering),
      part('worker start, overlapped with the rest', (t) => t.workerLoaded - t.kvm),
    ];
  },
};
