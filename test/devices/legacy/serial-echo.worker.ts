// A guest's serial driver in a thread of its own, for serial-threads.test.ts: echoes every byte it receives, driven by
// interrupts alone, in the way of Linux's 8250 driver (identify, receive, transmit, until nothing is pending).

import { workerData } from 'node:worker_threads';

import type { SerialShared } from '../../../src/devices/legacy/serial-shared.js';
import { SerialPort } from '../../../src/devices/legacy/serial.js';

export interface EchoSetup {
  readonly shared: SerialShared;
  /** Word 0 counts interrupt edges, word 1 wake-ups of the consumer. */
  readonly signals: SharedArrayBuffer;
  /** Bytes to echo before the thread ends. */
  readonly total: number;
}

const { shared, signals, total } = workerData as EchoSetup;
const counters = new Int32Array(signals);

function signal(index: number): void {
  Atomics.add(counters, index, 1);
  Atomics.notify(counters, index);
}

const port = new SerialPort(
  shared,
  () => {
    signal(0);
  },
  () => {
    signal(1);
  },
);

const RDI = 1;
const THRI = 2;
let echoed = 0;
const queue: number[] = [];
port.write(2, 0x01);
port.write(1, RDI);

let handled = 0;
while (echoed < total) {
  // Sleeps until there is an edge that was not handled: a lost one would end the test by its time limit.
  Atomics.wait(counters, 0, handled);
  handled = Atomics.load(counters, 0);
  while ((port.read(2) & 1) === 0) {
    // Bounded, as a driver's buffer is: what is not taken must be announced again.
    for (let count = 0; count < 64 && (port.read(5) & 1) !== 0; count++) queue.push(port.read(0));
    if (queue.length > 0 && (port.read(5) & 0x20) !== 0) {
      const burst = queue.splice(0, 16);
      for (const byte of burst) port.write(0, byte);
      echoed += burst.length;
    }
    port.write(1, queue.length > 0 ? RDI | THRI : RDI);
  }
}
