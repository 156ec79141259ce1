import { expect, test } from '@jest/globals';
import { acquire, release } from '../../src/platform/shared-lock.js';
import { runWorker } from '../support/workers.js';

test('a counter that three threads raise under the lock loses no step', async () => {
  const words = new Int32Array(new SharedArrayBuffer(8));
  const rounds = 20_000;
  const others = [runWorker('lock-worker', { words, rounds }), runWorker('lock-worker', { words, rounds })];
  for (let round = 0; round < rounds; round++) {
    acquire(words, 0);
    words[1] = words[1] + 1;
    release(words, 0);
  }
  await Promise.all(others);
  expect(words[1]).toBe(3 * rounds);
});
