// The virtio console on a driven ring: its worker's half and the main thread's, in one thread.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { ConsoleDevice } from '../../../src/devices/console/device.js';
import { ConsoleHost } from '../../../src/devices/console/host.js';
import {
  CONFIG_EMERG_WR,
  CONSOLE_COUNTERS,
  consoleIdentity,
  createConsoleShared,
  VIRTIO_CONSOLE_F_EMERG_WRITE_BIT,
  VIRTIO_CONSOLE_F_SIZE_BIT,
} from '../../../src/devices/console/settings.js';
import { featureWords, hasFeature, type DeviceState } from '../../../src/devices/virtio/device.js';
import type { SplitQueue } from '../../../src/devices/virtio/queue.js';
import { EventLoop } from '../../../src/platform/event-loop.js';
import { createEventFd, drainEventFd, signalEventFd } from '../../../src/platform/eventfd.js';
import { close } from '../../../src/platform/libc.js';
import { KIB } from '../../../src/platform/units.js';
import { CountingInterrupt, DrivenRing, TestMemory } from '../../support/driven-ring.js';

const QUEUE_SIZE = 16;

/** A driver with both queues, a device, and the host's end. */
class Fixture implements Disposable {
  readonly ram = new TestMemory(512 * KIB, 512 * KIB);
  readonly rx = new DrivenRing(this.ram, QUEUE_SIZE);
  readonly tx = new DrivenRing(this.ram, QUEUE_SIZE);
  readonly interrupt = new CountingInterrupt();
  readonly counters = new Float64Array(CONSOLE_COUNTERS.length);
  readonly configUpdates: { offset: number; bytes: Uint8Array }[] = [];
  readonly log: string[] = [];
  readonly loop = new EventLoop();
  host!: ConsoleHost;
  device!: ConsoleDevice;
  private queues: readonly (SplitQueue | undefined)[] = [];
  private readonly deviceEvent = createEventFd();
  private readonly hostEvent = createEventFd();

  constructor(sizes: Parameters<typeof createConsoleShared>[0] = { txRingSize: 64, rxRingSize: 64 }) {
    this.makeDevice(sizes);
  }

  private makeDevice(sizes: Parameters<typeof createConsoleShared>[0]): void {
    const shared = createConsoleShared(sizes);
    const { deviceEvent, hostEvent, loop, counters } = this;
    this.host = new ConsoleHost(shared, () => {
      signalEventFd(deviceEvent);
    });
    this.device = new ConsoleDevice(
      { kind: 'console', shared, deviceEvent, hostEvent },
      {
        loop,
        counters,
        log: (_level, message) => this.log.push(message),
        updateConfig: (offset, bytes) => this.configUpdates.push({ offset, bytes: Uint8Array.from(bytes) }),
      },
    );
  }

  activate(queues: readonly (SplitQueue | undefined)[] = [this.rx.device(), this.tx.device()]): void {
    this.queues = queues;
    this.device.activate({ memory: this.ram.memory, queues, features: featureWords([]), interrupt: this.interrupt });
    this.notify();
  }

  /** Pauses the machine, as a snapshot does. */
  pause(): DeviceState {
    this.device.quiesce();
    for (const queue of this.queues) queue?.publish();
    return this.device.save();
  }

  /** The machine is saved, and goes on with another device and other rings of bytes over the same memory. */
  restore(): void {
    const state = JSON.parse(JSON.stringify(this.pause())) as DeviceState;
    const positions = this.queues.map((queue) => queue?.position);
    this.device.close();
    this.makeDevice({ txRingSize: 64, rxRingSize: 64 });
    const queues = [this.rx, this.tx].map((ring, index) => ring.device(undefined, positions[index]));
    this.queues = queues;
    this.device.activate({ memory: this.ram.memory, queues, features: featureWords([]), interrupt: this.interrupt });
    this.device.restore(state);
    this.notify();
  }

  notify(): void {
    this.device.queueNotified(0);
    this.device.queueNotified(1);
  }

  /** Lets the worker do everything that it was woken or has left over for. */
  turn(): void {
    for (let turns = 0; turns < 4; turns++) this.loop.turn(0);
  }

  /** Whether the main thread was woken since the last call. */
  get hostWoken(): boolean {
    return drainEventFd(this.hostEvent);
  }

  /** Prints `bytes` as one chain of the given cuts. */
  print(bytes: string | Buffer, ...cuts: number[]): number {
    const data = Buffer.from(bytes);
    const address = this.ram.allocate(data.length, 1);
    this.ram.memory.write(address, data);
    const ends = [...cuts, data.length];
    return this.tx.add(
      ends.map((end, index) => {
        const start = index === 0 ? 0 : ends[index - 1];
        return { address: address + start, length: end - start };
      }),
    );
  }

  /** Takes what was printed, `most` bytes of it. */
  take(most = Infinity): string {
    let text = '';
    this.host.drain((bytes) => {
      const count = Math.min(most - text.length, bytes.length);
      text += Buffer.from(bytes.subarray(0, count)).toString('latin1');
      return count;
    });
    return text;
  }

  /** Posts a receive chain; returns its address. */
  post(length: number): number {
    const address = this.ram.allocate(length);
    this.rx.add([{ address, length, writable: true }]);
    return address;
  }

  read(address: number, length: number): string {
    return Buffer.from(this.ram.memory.read(address, length)).toString('latin1');
  }

  [Symbol.dispose](): void {
    this.device.close();
    expect(this.loop.watched).toBe(0);
    this.loop.close();
    close(this.deviceEvent);
    close(this.hostEvent);
    this.ram.release();
  }
}

let fixture: Fixture;
beforeEach(() => {
  fixture = new Fixture();
});
afterEach(() => {
  fixture[Symbol.dispose]();
});

describe('guest to host', () => {
  test('chains of any cut are printed in order, used with length 0, with one interrupt for a batch', () => {
    fixture.activate();
    expect(fixture.host.arm()).toBe(true);
    fixture.print('hello', 1, 1, 4);
    fixture.print(' world');
    fixture.notify();
    expect(fixture.tx.collect().map(({ length }) => length)).toEqual([0, 0]);
    expect([fixture.interrupt.used, fixture.hostWoken, fixture.take()]).toEqual([1, true, 'hello world']);
    expect(Array.from(fixture.counters)).toEqual([0, 11, 1, 0]);
  });

  test('a host that is awake is not woken', () => {
    fixture.activate();
    fixture.print('x');
    fixture.notify();
    expect(fixture.hostWoken).toBe(false);
  });

  test('a chain larger than the ring waits half taken, holds those behind it up, and loses nothing', () => {
    fixture.activate();
    const long = Buffer.from(Array.from({ length: 300 }, (_, index) => 32 + (index % 90)));
    fixture.print(long, 100, 101);
    fixture.print('!');
    fixture.notify();
    expect(fixture.tx.collect()).toEqual([]);
    let text = '';
    while (text.length < 301) {
      const piece = fixture.take(40);
      expect(piece.length).toBeGreaterThan(0);
      text += piece;
      fixture.turn();
    }
    expect(text).toBe(`${long.toString()}!`);
    expect(fixture.tx.collect()).toHaveLength(2);
    expect(fixture.host.lost).toBe(0);
  });

  test('more chains than a turn’s share are all printed', () => {
    fixture[Symbol.dispose]();
    fixture = new Fixture({});
    const queues = [fixture.rx.device(), fixture.tx.device()];
    fixture.activate(queues);
    for (let round = 0; round < 5; round++) {
      for (let chain = 0; chain < QUEUE_SIZE; chain++) fixture.print(String.fromCharCode(97 + chain));
      fixture.notify();
      fixture.turn();
      expect(fixture.tx.collect()).toHaveLength(QUEUE_SIZE);
    }
    expect(fixture.take()).toBe('abcdefghijklmnop'.repeat(5));
  });

  test('a buffer across two pieces of guest memory is printed whole', () => {
    fixture.activate();
    const address = 512 * KIB - 3;
    fixture.ram.memory.write(address, Buffer.from('seamless'));
    fixture.tx.add([{ address, length: 8 }]);
    fixture.notify();
    expect(fixture.take()).toBe('seamless');
  });

  test('device-writable parts are not printed; an empty chain is given back', () => {
    fixture.activate();
    const address = fixture.ram.allocate(16);
    fixture.ram.memory.write(address, Buffer.from('abcdef'));
    fixture.tx.add([
      { address, length: 3 },
      { address: address + 3, length: 3, writable: true },
    ]);
    fixture.tx.add([{ address, length: 0 }]);
    fixture.notify();
    expect([fixture.take(), fixture.tx.collect().length]).toEqual(['abc', 2]);
  });
});

describe('host to guest', () => {
  test('input goes into posted buffers, as much as there is, with the length said', () => {
    fixture.activate();
    const first = fixture.post(4);
    const second = fixture.post(64);
    fixture.notify();
    expect(fixture.host.push(Buffer.from('typed'))).toBe(5);
    fixture.turn();
    expect(fixture.rx.collect().map(({ length }) => length)).toEqual([4, 1]);
    expect([fixture.read(first, 4), fixture.read(second, 1)]).toEqual(['type', 'd']);
    expect([fixture.interrupt.used, fixture.counters[0]]).toEqual([1, 5]);
  });

  test('input that comes before buffers, or before the driver, waits for them', () => {
    fixture.host.push(Buffer.from('early'));
    fixture.turn();
    fixture.activate();
    expect(fixture.rx.collect()).toEqual([]);
    const address = fixture.post(8);
    fixture.notify();
    expect([fixture.rx.collect()[0].length, fixture.read(address, 5)]).toEqual([5, 'early']);
  });

  test('what does not fit into the ring is told, and a wake-up comes when half of it is free', () => {
    fixture.activate();
    expect(fixture.host.push(new Uint8Array(100))).toBe(64);
    fixture.post(31);
    fixture.notify();
    fixture.turn();
    expect(fixture.hostWoken).toBe(false);
    fixture.post(1);
    fixture.notify();
    expect(fixture.hostWoken).toBe(true);
  });

  test('the driver is asked to notify only while input waits for buffers', () => {
    fixture.activate([fixture.rx.device({ eventIdx: false, indirect: true }), fixture.tx.device()]);
    expect(fixture.rx.usedFlags).toBe(1);
    fixture.host.push(Buffer.from('x'));
    fixture.turn();
    expect(fixture.rx.usedFlags).toBe(0);
    fixture.post(1);
    fixture.notify();
    expect(fixture.rx.usedFlags).toBe(1);
  });
});

describe('a driver that leaves or misbehaves', () => {
  test('after a reset no queue is touched, and the next driver gets what is left', () => {
    fixture.activate();
    fixture.print('y'.repeat(100));
    fixture.notify();
    fixture.device.reset();
    fixture.host.push(Buffer.from('later'));
    expect(fixture.take()).toBe('y'.repeat(64));
    fixture.turn();
    fixture.notify();
    expect([fixture.tx.collect(), fixture.take()]).toEqual([[], '']);
    const [rx, tx] = [new DrivenRing(fixture.ram, QUEUE_SIZE), new DrivenRing(fixture.ram, QUEUE_SIZE)];
    const address = fixture.ram.allocate(16);
    rx.add([{ address, length: 16, writable: true }]);
    fixture.activate([rx.device(), tx.device()]);
    expect(fixture.read(address, 5)).toBe('later');
  });

  test('queues that the driver left unused are left alone', () => {
    fixture.activate([undefined, undefined]);
    fixture.host.push(Buffer.from('x'));
    fixture.turn();
    expect(fixture.interrupt.used).toBe(0);
  });

  test('a bad chain is given back, counted and logged; the next is served', () => {
    fixture.activate();
    fixture.tx.add([{ address: 2 ** 40, length: 1 }]);
    fixture.print('ok');
    fixture.rx.add([{ address: 2 ** 40, length: 1, writable: true }]);
    const address = fixture.post(2);
    fixture.host.push(Buffer.from('in'));
    fixture.notify();
    fixture.turn();
    expect([fixture.take(), fixture.read(address, 2)]).toEqual(['ok', 'in']);
    expect([fixture.tx.collect().length, fixture.rx.collect().length, fixture.counters[3]]).toEqual([2, 2, 2]);
    expect(fixture.log).toEqual([
      expect.stringMatching(/^a transmit chain makes no sense \(\d+\)$/),
      expect.stringMatching(/^a receive chain makes no sense \(\d+\)$/),
    ]);
  });

  test.each([
    ['transmit', 1],
    ['receive', 0],
  ])('a broken %s ring makes the device ask for a reset', (_name, queue) => {
    fixture.activate();
    const ring = queue === 1 ? fixture.tx : fixture.rx;
    ring.offerHead(999);
    fixture.host.push(Buffer.from('x'));
    fixture.turn();
    fixture.notify();
    expect(fixture.interrupt.resets).toBe(1);
    fixture.notify();
    expect(fixture.interrupt.resets).toBe(1);
  });
});

describe('configuration', () => {
  test('a console on a terminal knows its size and hears of changes; another does not offer it', () => {
    const identity = consoleIdentity({ columns: 132, rows: 43 });
    expect(hasFeature(identity.features, VIRTIO_CONSOLE_F_SIZE_BIT)).toBe(true);
    expect([...identity.config]).toEqual([132, 0, 43, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    const without = consoleIdentity(undefined);
    expect(hasFeature(without.features, VIRTIO_CONSOLE_F_SIZE_BIT)).toBe(false);
    expect(hasFeature(without.features, VIRTIO_CONSOLE_F_EMERG_WRITE_BIT)).toBe(true);
    fixture.host.resize({ columns: 300, rows: 80 });
    fixture.turn();
    fixture.host.resize({ columns: 300, rows: 80 });
    fixture.turn();
    expect(fixture.configUpdates).toEqual([{ offset: 0, bytes: Uint8Array.of(44, 1, 80, 0) }]);
  });

  test('an emergency write is printed without any queue, and counted as lost when there is no room', () => {
    const config = new Uint8Array(12);
    expect(fixture.host.arm()).toBe(true);
    for (const character of Buffer.from('panic')) {
      config[CONFIG_EMERG_WR] = character;
      fixture.device.configWritten(config);
    }
    expect([fixture.hostWoken, fixture.take()]).toEqual([true, 'panic']);
    for (let count = 0; count < 65; count++) fixture.device.configWritten(config);
    expect([fixture.take().length, fixture.host.lost]).toEqual([64, 1]);
  });
});

describe('a pause and a restore', () => {
  const long = Array.from({ length: 300 }, (_, index) => String.fromCharCode(32 + (index % 90))).join('');

  test('a chain that is half printed goes back, and the rest of it follows', () => {
    fixture.activate();
    fixture.print(long, 10, 100, 101);
    fixture.print('!');
    fixture.notify();
    let text = '';
    while (text.length < 301) {
      fixture.pause();
      fixture.pause();
      text += fixture.take(40);
      fixture.notify();
      fixture.turn();
    }
    expect(text).toBe(`${long}!`);
    expect(fixture.tx.collect()).toHaveLength(2);
  });

  test.each([0, 1, 63, 64, 65, 200])(
    'a restored console prints what the saved one had not, after %i bytes',
    (taken) => {
      fixture.activate();
      fixture.print(long, 10, 100, 101);
      fixture.print('!');
      fixture.notify();
      let before = '';
      while (before.length < taken) {
        before += fixture.take(taken - before.length);
        fixture.turn();
      }
      // What is in the ring goes to whoever reads the console of the saved VM.
      const state = fixture.pause();
      before += fixture.take(64);
      expect(state).toEqual({ taken: before.length });
      fixture.restore();
      let after = '';
      while (before.length + after.length < 301) {
        const piece = fixture.take();
        expect(piece).not.toBe('');
        after += piece;
        fixture.turn();
      }
      expect(before + after).toBe(`${long}!`);
      expect(fixture.tx.collect()).toHaveLength(2);
      expect(fixture.pause()).toEqual({ taken: 0 });
    },
  );

  test('what is typed goes into buffers that were posted before', () => {
    fixture.activate();
    const address = fixture.post(16);
    fixture.restore();
    fixture.host.push(Buffer.from('typed'));
    fixture.turn();
    expect(fixture.rx.collect().map(({ length }) => length)).toEqual([5]);
    expect(fixture.read(address, 5)).toBe('typed');
  });

  test('a state that says more was taken than the guest has in its chain does no harm', () => {
    fixture.activate();
    fixture.device.restore({ taken: 1000 });
    fixture.print('abc', 1);
    fixture.print('def');
    fixture.notify();
    expect(fixture.take()).toBe('def');
    expect(fixture.tx.collect()).toHaveLength(2);
    expect(() => {
      fixture.device.restore({});
    }).toThrow(/what was taken/);
  });
});
