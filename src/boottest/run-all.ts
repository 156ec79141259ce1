// Many boot tests side by side, as far as the processors that may be used go round. Main thread.

import { setMaxListeners } from 'node:events';
import { join } from 'node:path';
import type { PlannedTest } from './plan.js';
import type { TestResult } from './result.js';
import { runTest, type TestContext } from './run-test.js';

export interface RunOptions {
  /** Processors: tests run side by side while their vCPUs together are no more than that. */
  readonly jobs: number;
  /** A folder for console logs. */
  readonly artifacts?: string | undefined;
  /** Stops what runs and skips the rest. */
  readonly signal: AbortSignal;
  readonly onStart?: (test: PlannedTest) => void;
  readonly onResult?: (result: TestResult, index: number) => void;
  /** For tests of this file. */
  readonly run?: (test: PlannedTest, context: TestContext) => Promise<TestResult>;
}

/** Runs all of them, beginning in their order, and returns the results in that order. */
export async function runAll(tests: readonly PlannedTest[], options: RunOptions): Promise<TestResult[]> {
  const { jobs, artifacts, signal, onStart, onResult, run = runTest } = options;
  // Each test that runs listens to it.
  setMaxListeners(0, signal);
  const paths = logPaths(tests);
  const results: TestResult[] = [];
  const running = new Set<Promise<void>>();
  let free = jobs;
  for (const [index, test] of tests.entries()) {
    // One that has more than there are runs alone.
    const weight = Math.min(jobs, test.config.cpus.boot_vcpus);
    while (free < weight) await Promise.race(running);
    free -= weight;
    const logPath = artifacts === undefined ? undefined : join(artifacts, paths[index]);
    if (!signal.aborted) onStart?.(test);
    const one = run(test, { signal, logPath }).then((result) => {
      running.delete(one);
      free += weight;
      results[index] = result;
      onResult?.(result, index);
    });
    running.add(one);
  }
  await Promise.all(running);
  return results;
}

const MAX_NAME = 150;

/** A path for each test, by its names, without what a file system or a shell would stumble over. */
export function logPaths(tests: readonly { readonly suite: string; readonly name: string }[]): string[] {
  const taken = new Set<string>();
  return tests.map(({ suite, name }) => {
    const path = `${fileName(suite)}/${fileName(name)}`;
    let unique = path;
    for (let count = 2; taken.has(unique); count++) unique = `${path}-${count}`;
    taken.add(unique);
    return unique;
  });
}

function fileName(text: string): string {
  const plain = text.replaceAll(/[^\w.=+-]+/g, '_').replace(/^[.-]+/, '_');
  return plain.slice(0, MAX_NAME);
}
