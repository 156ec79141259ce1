import { describe, expect, test } from '@jest/globals';
import {
  createWatchdogShared,
  Watchdog,
  WATCHDOG_BASE_PORT,
  WATCHDOG_PORT_COUNT,
  WATCHDOG_REG,
  WatchdogHost,
} from '../../../src/devices/legacy/watchdog.js';
import { signalEventFd } from '../../../src/platform/eventfd.js';
import { PortBus } from '../../../src/vmm/buses.js';
import { WatchdogMonitor } from '../../../src/vmm/watchdog.js';

const { CONTROL, KICK, PERIOD, COUNTDOWN, STATUS } = WATCHDOG_REG;

/** Two vCPUs' buses with one timer on them, its host end, and a clock that the test moves. */
class Fixture {
  now = 1_000_000;
  changes = 0;
  readonly host: WatchdogHost;
  readonly bus: PortBus;
  readonly otherBus: PortBus;

  constructor() {
    const shared = createWatchdogShared();
    const clock = (): number => this.now;
    const makeBus = (): PortBus => {
      const bus = new PortBus();
      bus.add(WATCHDOG_BASE_PORT, WATCHDOG_PORT_COUNT, new Watchdog(shared, () => this.changes++, clock));
      return bus;
    };
    this.bus = makeBus();
    this.otherBus = makeBus();
    this.host = new WatchdogHost(shared, clock);
  }

  out(register: number, value: number, bus = this.bus): void {
    const data = new Uint8Array(4);
    new DataView(data.buffer).setUint32(0, value, true);
    bus.write(WATCHDOG_BASE_PORT + register, 4, 1, data);
  }

  in(register: number, size = 4): number {
    const data = new Uint8Array(4);
    this.bus.read(WATCHDOG_BASE_PORT + register, size, 1, data);
    return new DataView(data.buffer).getUint32(0, true);
  }
}

describe('watchdog registers', () => {
  test('after reset the timer is stopped, at 30 s', () => {
    const fixture = new Fixture();
    expect([CONTROL, KICK, PERIOD, COUNTDOWN, STATUS].map((register) => fixture.in(register))).toEqual([
      0, 0, 300, 300, 0,
    ]);
    expect(fixture.host.left).toBeUndefined();
  });

  test('it counts down once started, starts anew with a kick of any vCPU, and stands still once stopped', () => {
    const fixture = new Fixture();
    fixture.out(PERIOD, 50);
    expect(fixture.changes).toBe(0);
    fixture.out(CONTROL, 1);
    expect(fixture.changes).toBe(1);
    fixture.now += 1950;
    expect([fixture.in(CONTROL), fixture.in(COUNTDOWN)]).toEqual([1, 31]);
    fixture.out(KICK, 0, fixture.otherBus);
    expect([fixture.changes, fixture.in(COUNTDOWN), fixture.host.left]).toEqual([1, 50, 5000]);
    fixture.out(CONTROL, 0);
    expect([fixture.in(CONTROL), fixture.in(COUNTDOWN), fixture.host.left]).toEqual([0, 50, undefined]);
    fixture.now += 1_000_000;
    expect(fixture.host.takeExpiry()).toBe(false);
  });

  test('a new period counts from now, and the main thread hears of it', () => {
    const fixture = new Fixture();
    fixture.out(CONTROL, 1);
    fixture.out(PERIOD, 10);
    expect([fixture.changes, fixture.host.left]).toEqual([2, 1000]);
    fixture.out(PERIOD, 0);
    expect(fixture.in(PERIOD)).toBe(10);
    fixture.out(PERIOD, 0xffff_ffff);
    expect([fixture.in(PERIOD), fixture.host.left]).toEqual([0xffff_ffff, 0xffff_ffff * 100]);
  });

  test('an expiry is seen once, stops the timer and stays in the status over a reset until it is cleared', () => {
    const fixture = new Fixture();
    fixture.out(PERIOD, 10);
    fixture.out(CONTROL, 1);
    fixture.now += 999;
    expect(fixture.host.takeExpiry()).toBe(false);
    fixture.now += 1;
    expect(fixture.in(COUNTDOWN)).toBe(0);
    expect(fixture.host.takeExpiry()).toBe(true);
    expect(fixture.host.takeExpiry()).toBe(false);
    fixture.host.reset();
    expect([CONTROL, PERIOD, STATUS].map((register) => fixture.in(register))).toEqual([0, 300, 1]);
    fixture.out(STATUS, 2);
    expect(fixture.in(STATUS)).toBe(1);
    fixture.out(STATUS, 1);
    expect(fixture.in(STATUS)).toBe(0);
  });

  test('narrow reads see parts of a register; narrow, crooked and read-only writes change nothing', () => {
    const fixture = new Fixture();
    fixture.out(PERIOD, 0x0403_0201);
    expect([fixture.in(PERIOD, 1), fixture.in(PERIOD + 3, 1)]).toEqual([1, 4]);
    expect(fixture.in(PERIOD + 2, 2)).toBe(0x0403);
    // Into the next register, which is the same countdown.
    expect(fixture.in(PERIOD + 1)).toBe(0x0104_0302);
    for (let port = 0; port < WATCHDOG_PORT_COUNT; port++) {
      fixture.bus.write(WATCHDOG_BASE_PORT + port, 1, 1, Uint8Array.of(0xff));
      fixture.bus.write(WATCHDOG_BASE_PORT + port, 2, 1, Uint8Array.of(0xff, 0xff));
      if (port % 4 !== 0) fixture.out(port, 0xffff_ffff);
    }
    fixture.out(COUNTDOWN, 7);
    expect([CONTROL, PERIOD, COUNTDOWN, STATUS].map((register) => fixture.in(register))).toEqual([
      0, 0x0403_0201, 0x0403_0201, 0,
    ]);
  });
});

describe('watchdog monitor', () => {
  test('a countdown that nobody restarts ends in a call, once, and again after the next start', async () => {
    let expired: (() => void) | undefined;
    const monitor = new WatchdogMonitor(() => expired?.());
    try {
      const { shared, changedEvent } = monitor.handles;
      const device = new Watchdog(shared, () => {
        signalEventFd(changedEvent);
      });
      for (let round = 0; round < 2; round++) {
        await new Promise<void>((resolve) => {
          expired = resolve;
          device.writeWide(PERIOD, 4, 1);
          device.writeWide(CONTROL, 4, 1);
        });
        expect([device.readWide(CONTROL, 4), device.readWide(STATUS, 4)]).toEqual([0, 1]);
        monitor.reset();
        device.writeWide(STATUS, 4, 1);
      }
    } finally {
      monitor.close();
    }
  });
});

describe('a paused watchdog', () => {
  test('stands still, and goes on from where it was', () => {
    const fixture = new Fixture();
    fixture.out(PERIOD, 10);
    fixture.out(CONTROL, 1);
    fixture.now += 400;
    fixture.host.pause();
    fixture.host.pause();
    fixture.now += 5000;
    expect(fixture.host.left).toBe(600);
    expect(fixture.host.takeExpiry()).toBe(false);
    expect(fixture.host.save()).toMatchObject({ left: 600 });
    fixture.host.resume();
    expect(fixture.in(COUNTDOWN)).toBe(6);
    fixture.now += 599;
    expect(fixture.host.takeExpiry()).toBe(false);
    fixture.now += 1;
    expect(fixture.host.takeExpiry()).toBe(true);
  });

  test('that is stopped stays so; a reset of the machine ends the pause', () => {
    const fixture = new Fixture();
    fixture.host.pause();
    fixture.host.resume();
    expect(fixture.host.left).toBeUndefined();
    fixture.out(CONTROL, 1);
    fixture.host.pause();
    fixture.host.reset();
    expect(fixture.host.left).toBeUndefined();
    fixture.out(CONTROL, 1);
    fixture.now += 1000;
    expect(fixture.host.left).toBe(29_000);
  });

  test('that was restored waits for the machine to go on', () => {
    const fixture = new Fixture();
    fixture.host.restore({ left: 300, period: 10, status: 0 });
    fixture.host.pause();
    fixture.now += 10_000;
    fixture.host.resume();
    expect(fixture.host.left).toBe(300);
  });

  test('whose end comes on the way into the pause says so when it goes on', async () => {
    const expiries: number[] = [];
    const monitor = new WatchdogMonitor(() => expiries.push(monitorPhase));
    let monitorPhase = 0;
    try {
      const guest = new Watchdog(monitor.handles.shared, () => {
        signalEventFd(monitor.handles.changedEvent);
      });
      monitor.defer();
      guest.writeWide(PERIOD, 4, 1);
      guest.writeWide(CONTROL, 4, 1);
      await new Promise((resolve) => setTimeout(resolve, 150));
      monitor.pause();
      monitorPhase = 1;
      await new Promise((resolve) => setTimeout(resolve, 20));
      monitorPhase = 2;
      monitor.resume();
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(expiries).toEqual([2]);
    } finally {
      monitor.close();
    }
  });
});
