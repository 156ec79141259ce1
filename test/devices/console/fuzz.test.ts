// The virtio console against drivers that write anything anywhere: nothing is thrown, nothing outside guest RAM and the
// console's own rings is touched, and the loop comes to rest.

import { expect, test } from '@jest/globals';
import { ConsoleDevice } from '../../../src/devices/console/device.js';
import { ConsoleHost } from '../../../src/devices/console/host.js';
import { CONSOLE_COUNTERS, createConsoleShared } from '../../../src/devices/console/settings.js';
import { featureWords } from '../../../src/devices/virtio/device.js';
import { EventLoop } from '../../../src/platform/event-loop.js';
import { createEventFd, signalEventFd } from '../../../src/platform/eventfd.js';
import { close } from '../../../src/platform/libc.js';
import { AddressGuard } from '../../support/address-guard.js';
import { GuardedRam } from '../../support/guarded-ram.js';
import { HIGH_BASE, HIGH_SIZE, HostileDriver, LOW_SIZE, NEXT_SIZE } from '../../support/hostile-driver.js';
import { forEachCase, fuzzRun, type Random } from '../../support/random.js';

const CASES = 30_000;
const RING_SIZE = 4096;
const RX_QUEUE = 0;
const TX_QUEUE = 1;

class HostileConsoleGuest extends HostileDriver {
  constructor(random: Random, ram: GuardedRam) {
    super(random, ram, 2);
  }

  post(): void {
    this.offerBytes(RX_QUEUE, true);
  }

  print(): void {
    this.offerBytes(TX_QUEUE, false);
  }

  private offerBytes(queue: number, writable: boolean): void {
    const { random } = this;
    const total = random.size(6000);
    const cuts = random.oneIn(4) ? random.between(1, 50) : random.between(1, 3);
    this.offer(queue, this.cut(this.place(total), total, cuts, writable));
  }
}

test('no driver, however hostile, makes the console throw or touch what is not the guest’s', () => {
  using ram = new GuardedRam(
    { gpa: 0, size: LOW_SIZE },
    { gpa: LOW_SIZE, size: NEXT_SIZE },
    { gpa: HIGH_BASE, size: HIGH_SIZE },
  );
  using guard = new AddressGuard(ram);
  const loop = new EventLoop();
  const deviceEvent = createEventFd();
  const hostEvent = createEventFd();
  const payload = new Uint8Array(3 * RING_SIZE).fill(0x5a);
  const totals = { rxBytes: 0, txBytes: 0, faults: 0, broken: 0 };

  forEachCase('console', fuzzRun(CASES), (random) => {
    ram.clear();
    const shared = createConsoleShared({ txRingSize: RING_SIZE, rxRingSize: RING_SIZE });
    guard.allow(shared.tx);
    guard.allow(shared.rx);
    const counters = new Float64Array(CONSOLE_COUNTERS.length);
    const host = new ConsoleHost(shared, () => {
      signalEventFd(deviceEvent);
    });
    const device = new ConsoleDevice(
      { kind: 'console', shared, deviceEvent, hostEvent },
      { loop, counters, log: () => undefined, updateConfig: () => undefined },
    );
    const guest = new HostileConsoleGuest(random, ram);
    const activate = (): void => {
      device.activate({
        memory: ram.memory,
        queues: guest.makeQueues(),
        features: featureWords([]),
        interrupt: guest.interrupt,
      });
    };
    const notify = (): void => {
      device.queueNotified(0);
      device.queueNotified(1);
    };
    activate();
    for (let step = random.between(4, 40); step > 0; step--) {
      switch (random.below(12)) {
        case 0:
        case 1:
        case 2:
          for (let posts = random.between(1, 4); posts > 0; posts--) guest.post();
          break;
        case 3:
        case 4:
        case 5:
          guest.print();
          break;
        case 6:
          if (random.oneIn(6)) guest.scribble();
          break;
        case 7:
          host.push(payload.subarray(0, random.size(payload.length)));
          break;
        case 8:
          if (!random.oneIn(12)) break;
          device.reset();
          if (!random.oneIn(4)) activate();
          break;
        case 9:
          host.drain((bytes) => (random.oneIn(3) ? random.below(bytes.length + 1) : bytes.length));
          break;
        case 10:
          if (random.oneIn(8)) device.configWritten(payload);
          notify();
          break;
        default:
          loop.turn(0);
      }
    }
    // A chain that a driver makes 4 GiB long goes on as long as the host takes it: not for ever, and not here.
    for (let turns = 0; turns < 5; turns++) {
      host.drain((bytes) => bytes.length);
      loop.turn(0);
    }
    totals.rxBytes += counters[0];
    totals.txBytes += counters[1];
    totals.faults += counters[3];
    totals.broken += guest.interrupt.resets;
    device.close();
    if (loop.watched !== 0) throw new Error(`${loop.watched} descriptors are still watched`);
    loop.turn(0);
    guard.forget();
    ram.check();
  });

  loop.close();
  close(deviceEvent);
  close(hostEvent);
  // The generator reaches what it is meant to reach; a single case, run again, need not.
  if (totals.txBytes > 100_000) {
    expect(Object.values(totals).every((total) => total > 0)).toBe(true);
    expect(guard.checked).toBeGreaterThan(0);
  }
  process.stdout.write(`console: ${JSON.stringify({ ...totals, checkedAddresses: guard.checked })}\n`);
});
