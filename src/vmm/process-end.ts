// What becomes of VMs when the process ends under them: `process.exit`, or an exception that nobody catches. Main thread.
//
// Node then waits for its worker threads, and those of a VM wait for their guest: the process would neither end nor hear
// signals. So, when it says that it exits, they are taken out of their guests, devices let go of their files in order, and
// what others could see (sockets, pseudo-terminals) is removed. Threads that still load are waited for (loading-mark.ts). No promise is settled any more: all of it is done at once.
//
// Left out: signals whose default action ends the process, and kill -9. The kernel leaves nothing of a VM then but
// the names of sockets, which the next VM replaces.

import { writeSync } from 'node:fs';
import type { ControlBlock } from './control.js';
import type { LoadingMark } from './loading-mark.js';

/** As long as the orderly end of a VM gives its threads. */
const LIMIT_MS = 5000;
/** What a great many threads take to load on a busy machine: nothing is wrong with them. */
const LOAD_LIMIT_MS = 20_000;
/** Between two kicks. */
const KICK_INTERVAL_MS = 5;

/** Threads of a VM that block outside JavaScript. */
export interface BlockingThreads {
  /** Counts those that have left their loops. */
  readonly control: ControlBlock;
  readonly count: number;
  /** vCPUs go first: devices are let go of when no guest uses them. */
  readonly order: 'vcpus' | 'io';
  /** Takes them out of what they wait in; again and again, until they have heard. */
  kick(): void;
}

/** Something that has to be released though nobody waits for it. */
export interface Releasable {
  releaseAll(): void;
}

const loading = new Set<LoadingMark>();
const threads = new Set<BlockingThreads>();
const releasables = new Set<Releasable>();

/** Has the process wait for that thread before it ends, until `forget`. */
export function loadBeforeEnd(mark: LoadingMark): void {
  loading.add(mark);
  listen();
}

/** Has those threads ended when the process ends, until `forget`. */
export function endWithProcess(blocking: BlockingThreads): void {
  threads.add(blocking);
  listen();
}

/** Has that released when the process ends, after all threads, until `forget`. */
export function releaseWithProcess(releasable: Releasable): void {
  releasables.add(releasable);
  listen();
}

/** That has ended, or was released. */
export function forget(gone: LoadingMark | BlockingThreads | Releasable): void {
  loading.delete(gone as LoadingMark);
  threads.delete(gone as BlockingThreads);
  releasables.delete(gone as Releasable);
  // A process that has no VM has nothing of this left in it.
  if (loading.size + threads.size + releasables.size === 0) process.off('exit', endAll);
}

function listen(): void {
  if (!process.listeners('exit').includes(endAll)) process.on('exit', endAll);
}

function endAll(): void {
  const deadline = performance.now() + LIMIT_MS;
  for (const order of ['vcpus', 'io'] as const) {
    const group = [...threads].filter((blocking) => blocking.order === order);
    // All at once: many VMs take no longer than one.
    for (const { control } of group) control.requestStop();
    for (const blocking of group) {
      const { control, count } = blocking;
      while (!control.threadsEnded(count, KICK_INTERVAL_MS)) {
        if (performance.now() > deadline) giveUp();
        blocking.kick();
      }
    }
  }
  for (const releasable of releasables) {
    try {
      releasable.releaseAll();
    } catch {
      // Nobody is left to be told, and the kernel closes what was open.
    }
  }
  const loadDeadline = performance.now() + LOAD_LIMIT_MS;
  for (const mark of loading) {
    while (!mark.wait(KICK_INTERVAL_MS)) if (performance.now() > loadDeadline) giveUp();
  }
}

/** Node would wait for that thread for ever. */
function giveUp(): void {
  try {
    writeSync(2, 'tsvmm: a worker of a VM did not end with the process, which is a bug; killing the process\n');
  } catch {
    // Nobody reads it.
  }
  process.kill(process.pid, 'SIGKILL');
}
