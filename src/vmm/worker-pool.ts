// Worker threads started before there is a VM for them. A worker takes some 45 ms to load; this lets that time overlap
// with the loading of the main thread's own modules. Imports next to nothing for that reason.

import type { DeviceKind } from './device-kinds.js';
import type { IoMessage, IoStart, VcpuMessage, VcpuStart } from './worker-protocol.js';
import { WorkerThread } from './worker-thread.js';

export type VcpuThread = WorkerThread<VcpuStart, VcpuMessage>;
export type IoThread = WorkerThread<IoStart, IoMessage>;

let spareVcpu: VcpuThread | undefined;
let spareIo: IoThread | undefined;

function newVcpuThread(): VcpuThread {
  return new WorkerThread('vcpu', new URL('./vcpu-worker.js', import.meta.url));
}

function newIoThread(preload: readonly DeviceKind[] = []): IoThread {
  return new WorkerThread('io', new URL('./io-worker.js', import.meta.url), { preload });
}

/** Starts the threads that the next VM will take. They do not keep the process alive while nobody takes them. */
export function prestartWorkers(needed: { readonly io: boolean }): void {
  spareVcpu ??= newVcpuThread();
  if (needed.io) spareIo ??= newIoThread();
}

/** A vCPU thread that nobody uses: the one started before, or a new one. */
export function takeVcpuThread(): VcpuThread {
  const thread = spareVcpu ?? newVcpuThread();
  spareVcpu = undefined;
  return thread;
}

/** An I/O thread that nobody uses: the one started before, or a new one. */
export function takeIoThread(): IoThread {
  const thread = spareIo ?? newIoThread();
  spareIo = undefined;
  return thread;
}
