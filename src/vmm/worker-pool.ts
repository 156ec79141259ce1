// The worker threads of this process that wait for a VM: where each VM takes its own, and leaves them when it ends. Main
// thread. Imports next to nothing, so that threads load while the main thread loads its own modules.
//
// A thread takes some 45 ms to load, which is most of what a first VM takes to its first instruction. So they are kept for the
// next VM, and `keepReady` has some started ahead, and replaced when they are taken. Importing this starts nothing; idle
// threads do not keep the process alive, there are never many of them, and they end when nobody wants them for a while.

import type { IoThreadPlan } from './device-plan.js';
import { PooledThread } from './pooled-thread.js';
import { Shelf } from './thread-shelf.js';
import type { IoMessage, IoStart, VcpuMessage, VcpuStart } from './worker-protocol.js';
import { WorkerThread } from './worker-thread.js';

export type VcpuThread = WorkerThread<VcpuStart, VcpuMessage>;
export type IoThread = WorkerThread<IoStart, IoMessage>;

/** What VMs of one configuration need. */
export interface NeededThreads {
  readonly vcpus: number;
  readonly io: readonly IoThreadPlan[];
}

const vcpus = new Shelf(() => new PooledThread('vcpu', new URL('./vcpu-worker.js', import.meta.url), []));
/** By the kinds of device whose code the threads have loaded. */
const io = new Map<string, Shelf>();

function ioShelf(plan: IoThreadPlan): Shelf {
  const kinds = plan.join();
  let shelf = io.get(kinds);
  if (shelf === undefined) {
    shelf = new Shelf(() => new PooledThread('io', new URL('./io-worker.js', import.meta.url), plan));
    io.set(kinds, shelf);
  }
  return shelf;
}

/** How many threads are needed from each shelf. */
function perShelf(needed: NeededThreads): Map<Shelf, number> {
  const counts = new Map([[vcpus, needed.vcpus]]);
  for (const plan of needed.io) counts.set(ioShelf(plan), (counts.get(ioShelf(plan)) ?? 0) + 1);
  return counts;
}

/** Starts what the next VM will take, as far as it is not there. */
export function prestartWorkers(needed: NeededThreads): void {
  for (const [shelf, count] of perShelf(needed)) shelf.fill(count);
}

/**
 * From now on has the threads of `vms` more VMs idle, always: those that are taken are replaced soon afterwards. Resolves when
 * they are loaded.
 */
export async function keepReady(needed: NeededThreads, vms: number): Promise<void> {
  await Promise.all([...perShelf(needed)].map(([shelf, count]) => shelf.keep(count * vms)));
}

/** Ends every idle thread, and keeps none ready any more. Resolves when they are gone. */
export async function endIdleThreads(): Promise<void> {
  await Promise.all([vcpus, ...io.values()].map((shelf) => shelf.clear()));
}

/** A vCPU thread that nobody uses: an idle one, or a new one. */
export function takeVcpuThread(): VcpuThread {
  return new WorkerThread(vcpus.takeIdle() ?? vcpus.takeNew(), (thread) => {
    vcpus.put(thread);
  });
}

/** An I/O thread that nobody uses: an idle one with the code for `plan`, one with other code, or a new one. */
export function takeIoThread(plan: IoThreadPlan): IoThread {
  const shelf = ioShelf(plan);
  const others = [...io.values()].filter((other) => other !== shelf);
  const thread = shelf.takeIdle() ?? firstOf(others, (other) => other.takeSurplus()) ?? shelf.takeNew();
  // By then it has the code for this plan.
  return new WorkerThread(thread, (done) => {
    shelf.put(done);
  });
}

function firstOf<S, T>(sources: readonly S[], take: (source: S) => T | undefined): T | undefined {
  for (const source of sources) {
    const taken = take(source);
    if (taken !== undefined) return taken;
  }
  return undefined;
}
