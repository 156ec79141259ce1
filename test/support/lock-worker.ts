// A worker of test/platform/shared-lock.test.ts: counts up under the lock, without atomics.

import { workerData } from 'node:worker_threads';
import { acquire, release } from '../../src/platform/shared-lock.js';

const { words, rounds } = workerData as { words: Int32Array; rounds: number };
for (let round = 0; round < rounds; round++) {
  acquire(words, 0);
  words[1] = words[1] + 1;
  release(words, 0);
}
