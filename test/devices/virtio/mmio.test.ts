import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { featureWords } from '../../../src/devices/virtio/device.js';
import {
  createMmioPage,
  MmioDevicePage,
  MmioRegisters,
  type MmioDeviceIdentity,
} from '../../../src/devices/virtio/mmio.js';
import { createEventFd, drainEventFd, signalEventFd } from '../../../src/platform/eventfd.js';
import { close } from '../../../src/platform/libc.js';
import type { Fd } from '../../../src/platform/units.js';
import {
  ACTIVATIONS,
  CONFIG_SUM,
  CONFIG_WRITES,
  LOG_WORDS,
  READY,
  RESETS,
  SEEN_FEATURES_LOW,
  SEEN_QUEUE_SIZE,
  STOP,
  type RequestWorkerData,
} from './request-worker.js';

// Register offsets, spelled out again: a test that took them from the code could not find one wrong.
const MAGIC = 0x000;
const VERSION = 0x004;
const DEVICE_ID = 0x008;
const DEVICE_FEATURES = 0x010;
const DEVICE_FEATURES_SEL = 0x014;
const DRIVER_FEATURES = 0x020;
const DRIVER_FEATURES_SEL = 0x024;
const QUEUE_SEL = 0x030;
const QUEUE_NUM_MAX = 0x034;
const QUEUE_NUM = 0x038;
const QUEUE_READY = 0x044;
const QUEUE_NOTIFY = 0x050;
const INTERRUPT_STATUS = 0x060;
const INTERRUPT_ACK = 0x064;
const STATUS = 0x070;
const QUEUE_DESC_LOW = 0x080;
const QUEUE_DESC_HIGH = 0x084;
const QUEUE_DRIVER_LOW = 0x090;
const QUEUE_DEVICE_LOW = 0x0a0;
const SHM_LEN_LOW = 0x0b0;
const CONFIG_GENERATION = 0x0fc;
const CONFIG = 0x100;

const ACKNOWLEDGE = 1;
const DRIVER = 2;
const DRIVER_OK = 4;
const FEATURES_OK = 8;
const NEEDS_RESET = 0x40;
const FAILED = 0x80;

const IDENTITY: MmioDeviceIdentity = {
  deviceId: 19,
  features: featureWords([0, 28, 29, 32]),
  queueSizes: [256, 128, 8],
  config: Uint8Array.of(0x11, 0x22, 0x33, 0x44, 0x55),
  writableConfig: [{ offset: 4, length: 1 }],
};

let page: SharedArrayBuffer;
let requestEvent: Fd;
let irqEvent: Fd;
let registers: MmioRegisters;
let device: MmioDevicePage;
let notified: number[];
let worker: Worker;
let log: Int32Array;

// One worker for all tests: its page is put back into the reset state by the tests themselves.
beforeAll(async () => {
  requestEvent = createEventFd();
  irqEvent = createEventFd();
  page = createMmioPage(IDENTITY);
  log = new Int32Array(new SharedArrayBuffer(LOG_WORDS * 4));
  const workerData: RequestWorkerData = { page, requestEvent, irqEvent, log };
  worker = new Worker(new URL('./request-worker.js', import.meta.url), { workerData, execArgv: [] });
  Atomics.wait(log, READY, 0);
  await Promise.resolve();
});

afterAll(async () => {
  Atomics.store(log, STOP, 1);
  signalEventFd(requestEvent);
  await once(worker, 'exit');
  close(requestEvent);
  close(irqEvent);
});

beforeEach(() => {
  notified = [];
  registers = new MmioRegisters(
    page,
    requestEvent,
    (queue) => notified.push(queue),
    () => false,
  );
  device = new MmioDevicePage(page, irqEvent);
});

afterEach(() => {
  registers.write(STATUS, 4, 0);
  drainEventFd(irqEvent);
  log.fill(0, 0, STOP);
});

const read = (offset: number): number => registers.read(offset, 4);
const write = (offset: number, value: number): void => {
  registers.write(offset, 4, value);
};

/** Negotiates as a driver does, up to FEATURES_OK. Returns the status read back. */
function negotiate(low = 0x3000_0001, high = 1): number {
  write(STATUS, ACKNOWLEDGE);
  write(STATUS, ACKNOWLEDGE | DRIVER);
  write(DRIVER_FEATURES_SEL, 0);
  write(DRIVER_FEATURES, low);
  write(DRIVER_FEATURES_SEL, 1);
  write(DRIVER_FEATURES, high);
  write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  return read(STATUS);
}

function setUpQueue(index: number, size: number): void {
  write(QUEUE_SEL, index);
  write(QUEUE_NUM, size);
  write(QUEUE_DESC_LOW, 0x1000);
  write(QUEUE_DESC_HIGH, 0x1);
  write(QUEUE_DRIVER_LOW, 0x2000);
  write(QUEUE_DEVICE_LOW, 0x3000);
  write(QUEUE_READY, 1);
}

describe('identification', () => {
  test('magic value, version 2 and the device id', () => {
    expect([read(MAGIC), read(VERSION), read(DEVICE_ID)]).toEqual([0x7472_6976, 2, 19]);
  });

  test('device features by selector; selectors beyond the second read as 0', () => {
    const words = [0, 1, 2, 0xffff_ffff].map((selector) => {
      write(DEVICE_FEATURES_SEL, selector);
      return read(DEVICE_FEATURES);
    });
    expect(words).toEqual([0x3000_0001, 1, 0, 0]);
  });

  test('queue sizes by selector; 0 for a queue that does not exist', () => {
    const sizes = [0, 1, 2, 3, 0xffff_ffff].map((selector) => {
      write(QUEUE_SEL, selector);
      return read(QUEUE_NUM_MAX);
    });
    expect(sizes).toEqual([256, 128, 8, 0, 0]);
  });

  test('there are no shared memory regions', () => {
    expect(read(SHM_LEN_LOW)).toBe(0xffff_ffff);
    expect(read(SHM_LEN_LOW + 4)).toBe(0xffff_ffff);
  });

  test('registers are 32 bits wide: other sizes read as 0 and write nothing', () => {
    expect([registers.read(MAGIC, 1), registers.read(MAGIC, 2), registers.read(MAGIC, 8)]).toEqual([0, 0, 0]);
    registers.write(STATUS, 1, ACKNOWLEDGE);
    expect(read(STATUS)).toBe(0);
  });
});

describe('the configuration space', () => {
  test('each write to a writable field is seen by the worker before the driver goes on; others change nothing', () => {
    for (let value = 1; value <= 100; value++) registers.write(CONFIG + 4, 1, value);
    expect([log[CONFIG_WRITES], log[CONFIG_SUM]]).toEqual([100, 5050]);
    registers.write(CONFIG + 3, 1, 0);
    registers.write(CONFIG + 3, 2, 0);
    registers.write(CONFIG + 4, 2, 0);
    registers.write(CONFIG + 5, 1, 0);
    expect([log[CONFIG_WRITES], registers.read(CONFIG + 3, 2)]).toEqual([100, 0x6444]);
    registers.write(CONFIG + 4, 1, 0x55);
    log.fill(0, CONFIG_WRITES);
  });

  test('a write is not waited for when the VM is stopping', () => {
    const lonely = createMmioPage(IDENTITY);
    const stopping = new MmioRegisters(
      lonely,
      irqEvent,
      () => undefined,
      () => true,
    );
    stopping.write(CONFIG + 4, 1, 7);
    expect(new MmioDevicePage(lonely, irqEvent).writtenConfig()?.[4]).toBe(7);
  });

  test('is read in 1, 2 and 4 bytes at any offset, and as 0 beyond its end', () => {
    expect(registers.read(CONFIG, 1)).toBe(0x11);
    expect(registers.read(CONFIG + 1, 2)).toBe(0x3322);
    expect(registers.read(CONFIG, 4)).toBe(0x4433_2211);
    expect(registers.read(CONFIG + 4, 4)).toBe(0x55);
    expect(registers.read(CONFIG + 5, 4)).toBe(0);
    expect(registers.read(CONFIG + 0x800, 4)).toBe(0);
  });

  test('is not writable', () => {
    registers.write(CONFIG, 4, 0xffff_ffff);
    expect(registers.read(CONFIG, 4)).toBe(0x4433_2211);
  });

  test('an update by the device is visible with a new generation, and interrupts', () => {
    const generation = read(CONFIG_GENERATION);
    device.updateConfig(4, Uint8Array.of(0x66));
    device.configurationChanged();
    expect(registers.read(CONFIG + 4, 1)).toBe(0x66);
    expect(read(CONFIG_GENERATION)).toBe(generation + 1);
    expect(read(INTERRUPT_STATUS)).toBe(2);
    expect(drainEventFd(irqEvent)).toBe(true);
    device.updateConfig(4, Uint8Array.of(0x55));
  });
});

describe('feature negotiation', () => {
  test('a subset of what is offered is accepted', () => {
    expect(negotiate(1)).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK);
  });

  test.each([
    ['a feature that was not offered', 0x2, 1],
    ['a feature of the upper word that was not offered', 0, 3],
    ['the lack of VERSION_1', 1, 0],
  ])('%s is refused: FEATURES_OK stays clear', (_name, low, high) => {
    expect(negotiate(low, high)).toBe(ACKNOWLEDGE | DRIVER);
  });

  test('a refused driver may try again', () => {
    negotiate(0x2);
    expect(negotiate(0x1)).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK);
  });

  test('features are fixed once FEATURES_OK is set', () => {
    negotiate(1);
    write(DRIVER_FEATURES_SEL, 0);
    write(DRIVER_FEATURES, 0);
    expect(device.driverFeatures()).toEqual({ low: 1, high: 1 });
  });

  test('DRIVER_OK without FEATURES_OK is not accepted, and activates nothing', () => {
    negotiate(0x2);
    write(STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    expect(read(STATUS)).toBe(ACKNOWLEDGE | DRIVER);
    expect(log[ACTIVATIONS]).toBe(0);
  });

  test('DRIVER_OK after FAILED is not accepted', () => {
    negotiate();
    write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED);
    write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED | DRIVER_OK);
    expect(read(STATUS) & DRIVER_OK).toBe(0);
    expect(log[ACTIVATIONS]).toBe(0);
  });

  test('bits once set stay set, and NEEDS_RESET is not the driver’s to set', () => {
    negotiate();
    write(STATUS, ACKNOWLEDGE | NEEDS_RESET);
    expect(read(STATUS)).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK);
  });
});

describe('queues', () => {
  test('what the driver wrote is what the device gets', () => {
    negotiate();
    setUpQueue(1, 64);
    expect(device.queueLayout(1)).toEqual({
      size: 64,
      descriptorTable: 0x1_0000_1000,
      availableRing: 0x2000,
      usedRing: 0x3000,
    });
    expect(device.queueLayout(0)).toBeUndefined();
    expect(device.queueCount).toBe(3);
  });

  test('a size of 0, or above the maximum, is ignored', () => {
    negotiate();
    setUpQueue(1, 64);
    write(QUEUE_READY, 0);
    write(QUEUE_NUM, 0);
    write(QUEUE_NUM, 129);
    write(QUEUE_READY, 1);
    expect(device.queueLayout(1)?.size).toBe(64);
  });

  test('a ready queue does not change', () => {
    negotiate();
    setUpQueue(0, 64);
    write(QUEUE_NUM, 32);
    write(QUEUE_DESC_LOW, 0x9000);
    expect(device.queueLayout(0)).toMatchObject({ size: 64, descriptorTable: 0x1_0000_1000 });
    expect(read(QUEUE_READY)).toBe(1);
  });

  test('set-up before FEATURES_OK is ignored', () => {
    setUpQueue(0, 64);
    expect(read(QUEUE_READY)).toBe(0);
    expect(device.queueLayout(0)).toBeUndefined();
  });

  test('set-up after DRIVER_OK is ignored', () => {
    negotiate();
    write(STATUS, read(STATUS) | DRIVER_OK);
    setUpQueue(0, 64);
    expect(device.queueLayout(0)).toBeUndefined();
  });

  test('registers of a queue that does not exist do nothing', () => {
    negotiate();
    setUpQueue(7, 64);
    expect(read(QUEUE_READY)).toBe(0);
  });

  test('a notification that exits to user space is passed on, unless it names no queue', () => {
    write(QUEUE_NOTIFY, 2);
    write(QUEUE_NOTIFY, 3);
    write(QUEUE_NOTIFY, 0xffff_ffff);
    expect(notified).toEqual([2]);
  });
});

describe('requests to the I/O worker', () => {
  test('DRIVER_OK returns when the worker has activated the device, with all it was told', () => {
    negotiate(0x2000_0001);
    setUpQueue(1, 32);
    write(STATUS, read(STATUS) | DRIVER_OK);
    expect(log[ACTIVATIONS]).toBe(1);
    expect(log[SEEN_QUEUE_SIZE]).toBe(32);
    expect(log[SEEN_FEATURES_LOW]).toBe(0x2000_0001);
    write(STATUS, read(STATUS) | DRIVER_OK);
    expect(log[ACTIVATIONS]).toBe(1);
  });

  test('a reset returns when the worker has let go of the queues; everything is as at the beginning', () => {
    negotiate();
    setUpQueue(0, 32);
    write(STATUS, read(STATUS) | DRIVER_OK);
    device.usedBuffers();
    write(STATUS, 0);
    expect(log[RESETS]).toBe(1);
    expect([read(STATUS), read(INTERRUPT_STATUS)]).toEqual([0, 0]);
    expect(device.queueLayout(0)).toBeUndefined();
    expect(device.driverFeatures()).toEqual({ low: 0, high: 0 });
    expect(negotiate()).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK);
  });

  test('a reset before DRIVER_OK needs no worker', () => {
    negotiate();
    write(STATUS, 0);
    expect(log[RESETS]).toBe(0);
    expect(read(STATUS)).toBe(0);
  });

  test('a wait for a worker that is gone ends when the VM is stopping', () => {
    const lonely = createMmioPage(IDENTITY);
    const event = createEventFd();
    const stopping = new MmioRegisters(
      lonely,
      event,
      () => undefined,
      () => true,
    );
    stopping.write(DRIVER_FEATURES_SEL, 4, 1);
    stopping.write(DRIVER_FEATURES, 4, 1);
    stopping.write(STATUS, 4, FEATURES_OK);
    stopping.write(STATUS, 4, FEATURES_OK | DRIVER_OK);
    expect(drainEventFd(event)).toBe(true);
    expect(new MmioDevicePage(lonely, event).pendingRequest()).toBe('activate');
    close(event);
  });
});

describe('interrupts', () => {
  test('used buffers set bit 0 and signal; the driver clears what it acknowledges', () => {
    device.usedBuffers();
    device.configurationChanged();
    expect(read(INTERRUPT_STATUS)).toBe(3);
    write(INTERRUPT_ACK, 1);
    expect(read(INTERRUPT_STATUS)).toBe(2);
    expect(drainEventFd(irqEvent)).toBe(true);
  });

  test('NEEDS_RESET shows in the status and comes as a configuration change', () => {
    negotiate();
    device.needsReset();
    expect(read(STATUS) & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(read(INTERRUPT_STATUS)).toBe(2);
  });
});

test('rule 3: no sequence of register accesses throws, and a reset always leads back to the beginning', () => {
  const access = fc.record({
    // Status is left out of what is written at random here: activations would wait for the worker thousands of times.
    offset: fc.integer({ min: 0, max: 0x120 }).filter((offset) => offset !== STATUS),
    size: fc.constantFrom(1, 2, 4, 8),
    value: fc.oneof(fc.integer({ min: 0, max: 0xffff_ffff }), fc.constantFrom(0, 1, 2, 3, 256)),
    write: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
      negotiate();
      for (const { offset, size, value, write: isWrite } of accesses) {
        if (isWrite) registers.write(offset, size, value);
        else expect(registers.read(offset, size)).toBeGreaterThanOrEqual(0);
      }
      write(STATUS, 0);
      expect([read(STATUS), read(INTERRUPT_STATUS), read(QUEUE_READY)]).toEqual([0, 0, 0]);
    }),
    { numRuns: 500 },
  );
});

test('more queues or configuration than a page holds are refused', () => {
  expect(() => createMmioPage({ ...IDENTITY, queueSizes: Array<number>(65).fill(2) })).toThrow(RangeError);
  expect(() => createMmioPage({ ...IDENTITY, config: new Uint8Array(257) })).toThrow(RangeError);
});
