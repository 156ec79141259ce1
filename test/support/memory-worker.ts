// A worker of test/platform/guest-memory.test.ts: adds 1 to each of `length` bytes at `address`, through its own views.

import { parentPort, workerData } from 'node:worker_threads';
import { GuestMemory, type MemoryMap } from '../../src/platform/guest-memory.js';

const { map, address, length } = workerData as { map: MemoryMap; address: number; length: number };
const memory = new GuestMemory(map);
memory.write(
  address,
  memory.read(address, length).map((byte) => byte + 1),
);
parentPort?.postMessage('done');
