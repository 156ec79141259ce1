import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

import { expect, test } from '@jest/globals';

import { SerialHost } from '../../../src/devices/legacy/serial-host.js';
import { createSerialShared } from '../../../src/devices/legacy/serial-shared.js';
import type { EchoSetup } from './serial-echo.worker.js';

test('an interrupt-driven guest in another thread echoes everything, with no wake-up or interrupt lost', async () => {
  const total = 100_000;
  const shared = createSerialShared({ txRingSize: 32, rxRingSize: 128 });
  const signals = new SharedArrayBuffer(8);
  const counters = new Int32Array(signals);
  const setup: EchoSetup = { shared, signals, total };
  const worker = new Worker(new URL('./serial-echo.worker.js', import.meta.url), { workerData: setup });
  const ended = once(worker, 'exit');
  try {
    const host = new SerialHost(shared, () => {
      Atomics.add(counters, 0, 1);
      Atomics.notify(counters, 0);
    });
    const input = Buffer.from(Array.from({ length: total }, (_, index) => (index * 7 + (index >> 8)) & 0xff));
    const output = Buffer.alloc(total);
    let pushed = 0;
    let received = 0;
    const deadline = Date.now() + 30_000;
    while (received < total) {
      const wakes = Atomics.load(counters, 1);
      pushed += host.push(input.subarray(pushed, pushed + 100));
      host.drain((bytes) => {
        output.set(bytes, received);
        received += bytes.length;
        return bytes.length;
      });
      const mayPush = pushed < total && host.push(input.subarray(pushed, pushed + 1)) === 1;
      if (mayPush) pushed++;
      // Both rings have nothing for us: sleep, and let the guest's side wake us.
      else if (received < total && host.arm()) {
        expect(Atomics.wait(counters, 1, wakes, 10_000)).not.toBe('timed-out');
      }
      expect(Date.now()).toBeLessThan(deadline);
    }
    expect(output.equals(input)).toBe(true);
    expect(host.lost).toBe(0);
    expect(await ended).toEqual([0]);
  } finally {
    await worker.terminate();
  }
}, 40_000);
