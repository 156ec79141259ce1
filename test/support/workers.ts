// Runs a helper thread of a test to its end.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

/** Runs test/support/<name>.ts in a worker thread until it ends; rejects when it throws. */
export async function runWorker(name: string, workerData: unknown): Promise<void> {
  const worker = new Worker(new URL(`./${name}.js`, import.meta.url), { workerData, execArgv: [] });
  await once(worker, 'exit');
}
