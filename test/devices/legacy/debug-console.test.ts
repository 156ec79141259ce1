import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect, test } from '@jest/globals';
import {
  createDebugConsoleShared,
  DebugConsole,
  DebugConsoleHost,
  DEBUG_CONSOLE_READBACK,
} from '../../../src/devices/legacy/debug-console.js';
import type { DebugWriterSetup } from './debug-writer.worker.js';

test('bytes come out in order, one by one or as a string; reading says that somebody listens', () => {
  const shared = createDebugConsoleShared(64);
  let wakes = 0;
  const port = new DebugConsole(shared, () => wakes++);
  const host = new DebugConsoleHost(shared);
  expect(port.read()).toBe(DEBUG_CONSOLE_READBACK);
  expect(host.arm()).toBe(true);
  port.write(0, 0x41);
  port.writeString(Buffer.from('BC'));
  expect(wakes).toBe(1);
  expect(host.pending).toBe(3);
  expect(host.arm()).toBe(false);
  let text = '';
  expect(
    host.drain((bytes) => {
      text += Buffer.from(bytes).toString();
      return bytes.length;
    }),
  ).toBe(true);
  expect(text).toBe('ABC');
});

test('what does not fit is lost and counted, never waited for', () => {
  const shared = createDebugConsoleShared(32);
  const port = new DebugConsole(shared, () => undefined);
  const host = new DebugConsoleHost(shared);
  port.writeString(new Uint8Array(40));
  expect([host.pending, host.lost]).toEqual([32, 8]);
});

test('two vCPUs that write at once lose nothing, and each keeps its order', async () => {
  const shared = createDebugConsoleShared();
  const host = new DebugConsoleHost(shared);
  const lines = 4000;
  const workers = ['a', 'b'].map((name) => {
    const workerData: DebugWriterSetup = { shared, name, lines };
    return new Worker(new URL('./debug-writer.worker.js', import.meta.url), { workerData });
  });
  try {
    await Promise.all(workers.map((worker) => once(worker, 'exit')));
    let text = '';
    host.drain((bytes) => {
      text += Buffer.from(bytes).toString();
      return bytes.length;
    });
    expect(host.lost).toBe(0);
    const found = text.split('\n').slice(0, -1);
    for (const name of ['a', 'b']) {
      const own = found.filter((line) => line.startsWith(name));
      expect(own).toEqual(Array.from({ length: lines }, (_, index) => `${name}${index}`));
    }
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
});
