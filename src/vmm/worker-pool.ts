// Worker threads started before there is a VM for them. A worker takes some 45 ms to load; this lets that time overlap
// with the loading of the main thread's own modules. Imports next to nothing for that reason.

import type { IoThreadPlan } from './device-plan.js';
import type { IoMessage, IoStart, VcpuMessage, VcpuStart } from './worker-protocol.js';
import { WorkerThread } from './worker-thread.js';

export type VcpuThread = WorkerThread<VcpuStart, VcpuMessage>;
export type IoThread = WorkerThread<IoStart, IoMessage>;

const spareVcpus: VcpuThread[] = [];
const spareIo: { readonly kinds: string; readonly thread: IoThread }[] = [];

function newVcpuThread(): VcpuThread {
  return new WorkerThread('vcpu', new URL('./vcpu-worker.js', import.meta.url));
}

function newIoThread(plan: IoThreadPlan): IoThread {
  return new WorkerThread('io', new URL('./io-worker.js', import.meta.url), { preload: plan });
}

/** Starts the threads that the next VM will take. They do not keep the process alive while nobody takes them. */
export function prestartWorkers(needed: { readonly vcpus: number; readonly io: readonly IoThreadPlan[] }): void {
  while (spareVcpus.length < needed.vcpus) spareVcpus.push(newVcpuThread());
  for (const plan of needed.io) spareIo.push({ kinds: plan.join(), thread: newIoThread(plan) });
}

/** A vCPU thread that nobody uses: one started before, or a new one. */
export function takeVcpuThread(): VcpuThread {
  return spareVcpus.shift() ?? newVcpuThread();
}

/** An I/O thread that nobody uses, with the code for `plan`: one started before, or a new one. */
export function takeIoThread(plan: IoThreadPlan): IoThread {
  const index = spareIo.findIndex(({ kinds }) => kinds === plan.join());
  if (index < 0) return newIoThread(plan);
  return spareIo.splice(index, 1)[0].thread;
}
