// A worker of mmio.test.ts: answers a device's requests as an I/O worker would, and notes what it saw.

import { workerData } from 'node:worker_threads';
import { MmioDevicePage } from '../../../src/devices/virtio/mmio.js';
import { Epoll, EPOLLIN } from '../../../src/platform/epoll.js';
import { drainEventFd } from '../../../src/platform/eventfd.js';
import type { Fd } from '../../../src/platform/units.js';

// The test imports the words of the log from here: then there is no worker data.
/** Words of the shared log. */
export const ACTIVATIONS = 0;
export const RESETS = 1;
/** What the worker saw of queue 1 and of the features at the last activation. */
export const SEEN_QUEUE_SIZE = 2;
export const SEEN_FEATURES_LOW = 3;
export const STOP = 4;
export const READY = 5;
/** How often the configuration space was written to, and the sum of its last byte over these writes. */
export const CONFIG_WRITES = 6;
export const CONFIG_SUM = 7;
export const LOG_WORDS = 8;

export interface RequestWorkerData {
  readonly page: SharedArrayBuffer;
  readonly requestEvent: Fd;
  readonly irqEvent: Fd;
  readonly log: Int32Array;
}

const data = workerData as RequestWorkerData | null;
if (data !== null) {
  const { log } = data;
  const page = new MmioDevicePage(data.page, data.irqEvent);
  const epoll = new Epoll();
  epoll.add(data.requestEvent, EPOLLIN, 0);
  Atomics.store(log, READY, 1);
  Atomics.notify(log, READY);
  while (Atomics.load(log, STOP) === 0) {
    epoll.wait(-1);
    drainEventFd(data.requestEvent);
    const written = page.writtenConfig();
    if (written !== undefined) {
      Atomics.add(log, CONFIG_WRITES, 1);
      Atomics.add(log, CONFIG_SUM, written[written.length - 1]);
      page.configTaken();
    }
    const request = page.pendingRequest();
    if (request === undefined) continue;
    if (request === 'activate') {
      log[SEEN_QUEUE_SIZE] = page.queueLayout(1)?.size ?? -1;
      log[SEEN_FEATURES_LOW] = page.driverFeatures().low;
    }
    Atomics.add(log, request === 'activate' ? ACTIVATIONS : RESETS, 1);
    page.acknowledge();
  }
  epoll.close();
}
