// Any sequence of register accesses, with the vsock device behind the registers and a hostile driver in guest RAM:
// nothing is thrown, nothing outside guest RAM is touched, and a reset brings back the state at power-on.
//
// The vCPU's half and the I/O worker's half run in one thread here: a signal to the request eventfd is followed by a
// turn of the loop at once, as if the worker were infinitely fast. That is what makes so many cases possible, and each
// of them repeatable.

import { expect, test } from '@jest/globals';
import { createMmioPage, MmioRegisters } from '../../../src/devices/virtio/mmio.js';
import { EventLoop } from '../../../src/platform/event-loop.js';
import { createEventFd, signalEventFd } from '../../../src/platform/eventfd.js';
import { close, libc } from '../../../src/platform/libc.js';
import { TWO_POW_32, type Fd } from '../../../src/platform/units.js';
import { MmioBackend } from '../../../src/vmm/mmio-backend.js';
import { VsockDevice } from '../../../src/vsock/device.js';
import { vsockIdentity } from '../../../src/vsock/settings.js';
import { AddressGuard } from '../../support/address-guard.js';
import { GuardedRam } from '../../support/guarded-ram.js';
import { HIGH_BASE, HIGH_SIZE, LOW_SIZE, NEXT_SIZE } from '../../support/hostile-driver.js';
import { HostileGuest, HOSTILE_CID } from '../../support/hostile-guest.js';
import { openDescriptors } from '../../support/process-state.js';
import { forEachCase, fuzzRun, type Random } from '../../support/random.js';

const CASES = 60_000;

const REG_DRIVER_FEATURES = 0x20;
const REG_DRIVER_FEATURES_SEL = 0x24;
const REG_QUEUE_SEL = 0x30;
const REG_QUEUE_NUM = 0x38;
const REG_QUEUE_READY = 0x44;
const REG_QUEUE_NOTIFY = 0x50;
const REG_STATUS = 0x70;
const REG_QUEUE_DESC = 0x80;
const REG_QUEUE_DRIVER = 0x90;
const REG_QUEUE_DEVICE = 0xa0;
const REGISTERS = [
  0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x20, 0x24, 0x30, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90,
  0x94, 0xa0, 0xa4, 0xac, 0xb0, 0xb4, 0xb8, 0xbc, 0xfc, 0x100, 0x104, 0x108,
];

/** The steps of a driver's start (3.1.1), of which a case may leave out, repeat or change any. */
function* driverStart(guest: HostileGuest): Generator<readonly [register: number, value: number]> {
  yield [REG_STATUS, 0];
  yield [REG_STATUS, 1];
  yield [REG_STATUS, 3];
  yield [REG_DRIVER_FEATURES_SEL, 0];
  yield [REG_DRIVER_FEATURES, (guest.features.indirect ? 1 << 28 : 0) | (guest.features.eventIdx ? 1 << 29 : 0)];
  yield [REG_DRIVER_FEATURES_SEL, 1];
  yield [REG_DRIVER_FEATURES, 1];
  yield [REG_STATUS, 0xb];
  for (const [index, layout] of guest.makeRings().entries()) {
    yield [REG_QUEUE_SEL, index];
    yield [REG_QUEUE_NUM, layout.size];
    yield [REG_QUEUE_DESC, layout.descriptorTable];
    yield [REG_QUEUE_DRIVER, layout.availableRing];
    yield [REG_QUEUE_DEVICE, layout.usedRing];
    yield [REG_QUEUE_READY, 1];
  }
  yield [REG_STATUS, 0xf];
}

function anyValue(random: Random): number {
  switch (random.below(5)) {
    case 0:
      return random.bits();
    case 1:
      return 0xffff_ffff - random.below(2);
    case 2:
      return 2 ** random.below(32);
    default:
      return random.below(16);
  }
}

function anyAccess(random: Random, registers: MmioRegisters): void {
  const offset = random.oneIn(8) ? random.below(0x1000) : random.pick(REGISTERS);
  const size = random.oneIn(8) ? random.pick([1, 2, 8]) : 4;
  if (random.oneIn(3)) checkedRead(registers, offset, size);
  // 0 to Status takes all back: seldom, or nothing would ever get far.
  else if (offset !== REG_STATUS || random.oneIn(4)) registers.write(offset, size, anyValue(random));
}

function checkedRead(registers: MmioRegisters, offset: number, size: number): number {
  const value = registers.read(offset, size);
  if (!(value >= 0 && value < TWO_POW_32 && value % 1 === 0)) throw new Error(`register ${offset} reads as ${value}`);
  return value;
}

/** Everything that can be read, of every queue. */
function dump(registers: MmioRegisters): string {
  const values: number[] = [];
  for (let queue = 0; queue < 4; queue++) {
    registers.write(REG_QUEUE_SEL, 4, queue);
    for (const register of REGISTERS) values.push(registers.read(register, 4));
  }
  registers.write(REG_QUEUE_SEL, 4, 0);
  return values.join();
}

test('no sequence of register accesses makes the device throw, leave guest RAM, or keep a reset from working', () => {
  using ram = new GuardedRam(
    { gpa: 0, size: LOW_SIZE },
    { gpa: LOW_SIZE, size: NEXT_SIZE },
    { gpa: HIGH_BASE, size: HIGH_SIZE },
  );
  using guard = new AddressGuard(ram);
  const descriptors = openDescriptors();
  const loop = new EventLoop();
  const requestEvent = createEventFd();
  const irqEvent = createEventFd();
  const queueEvents = [createEventFd(), createEventFd(), createEventFd()];
  const calls = libc as { write: typeof libc.write };
  const { write } = calls;
  calls.write = (fd, buffer, count) => {
    const result = write(fd, buffer, count);
    if (fd === requestEvent) loop.turn(0);
    return result;
  };
  const totals = { activations: 0, resets: 0, faults: 0, needsReset: 0 };
  try {
    forEachCase('mmio', fuzzRun(CASES), (random) => {
      ram.clear();
      const device = new VsockDevice({
        guestCid: HOSTILE_CID,
        socketPath: '/dev/null/nobody',
        loop,
        log: () => undefined,
      });
      const page = createMmioPage(vsockIdentity(HOSTILE_CID));
      const backend = new MmioBackend({
        loop,
        memory: ram.memory,
        handles: { page, requestEvent, queueEvents, irqEvent },
        log: (_level, message) => {
          if (message.includes('activated')) totals.activations++;
          if (message.includes('reset by')) totals.resets++;
        },
      });
      backend.serve(device);
      // A wait for the worker that is not over when it begins would never be: the worker has had its turn.
      const registers = new MmioRegisters(
        page,
        requestEvent,
        (queue) => signalEventFd(queueEvents[queue]),
        () => {
          throw new Error('a request was not answered');
        },
      );
      const atPowerOn = dump(registers);
      const guest = new HostileGuest(random, ram);
      guest.hostPorts = [5];

      const rarity = random.pick([3, 20, 200]);
      for (let starts = random.between(1, 2); starts > 0; starts--) {
        for (const [register, value] of driverStart(guest)) {
          if (random.oneIn(rarity)) continue;
          registers.write(register, 4, random.oneIn(rarity) ? anyValue(random) : value);
          if (random.oneIn(rarity)) anyAccess(random, registers);
        }
        for (let posts = random.below(4); posts > 0; posts--) guest.postRx();
        for (let step = random.below(10); step > 0; step--) {
          if (random.oneIn(2)) guest.sendPacket();
          if (random.oneIn(4)) anyAccess(random, registers);
          registers.write(REG_QUEUE_NOTIFY, 4, random.oneIn(10) ? anyValue(random) : random.below(3));
          if (random.oneIn(2)) loop.turn(0);
        }
      }
      if ((checkedRead(registers, REG_STATUS, 4) & 0x40) !== 0) totals.needsReset++;
      registers.write(REG_STATUS, 4, 0);
      if (dump(registers) !== atPowerOn) throw new Error('a reset does not bring back the state at power-on');
      if (device.connectionCount !== 0) throw new Error('connections are left after a reset');
      totals.faults += device.counters.snapshot().guestFaults;
      backend.close();
      if (loop.watched !== 0) throw new Error(`${loop.watched} descriptors are still watched`);
      ram.check();
    });
  } finally {
    calls.write = write;
  }
  for (const fd of [requestEvent, irqEvent, ...queueEvents] as Fd[]) close(fd);
  loop.close();
  expect(openDescriptors()).toBe(descriptors);
  if (totals.activations > 100) expect(Object.values(totals).every((total) => total > 0)).toBe(true);
  process.stdout.write(`mmio: ${JSON.stringify({ ...totals, checkedAddresses: guard.checked })}\n`);
});
