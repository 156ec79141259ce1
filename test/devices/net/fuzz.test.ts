// A hostile guest against the network device over sockets in place of a tap: malformed rings and chains, headers with
// wrong fields, commands of all kinds, descriptors that change under way, resets at any time. Nothing is thrown, nothing
// outside guest RAM is touched or handed to the kernel, every frame that leaves has a header that it may have, and
// nothing is leaked.

import { expect, test } from '@jest/globals';
import { NetDevice } from '../../../src/devices/net/device.js';
import { MAX_FRAME, MIN_FRAME } from '../../../src/devices/net/header.js';
import {
  NET_COUNTERS,
  OFFLOAD_FEATURES,
  VIRTIO_NET_F_CTRL_GUEST_OFFLOADS_BIT,
  VIRTIO_NET_F_CTRL_VQ_BIT,
  VIRTIO_NET_F_MQ_BIT,
  VIRTIO_NET_F_MRG_RXBUF_BIT,
} from '../../../src/devices/net/settings.js';
import { featureWords } from '../../../src/devices/virtio/device.js';
import { EventLoop } from '../../../src/platform/event-loop.js';
import type { NativeBuffer } from '../../../src/platform/native-buffer.js';
import { AddressGuard } from '../../support/address-guard.js';
import { GuardedRam } from '../../support/guarded-ram.js';
import { HIGH_BASE, HIGH_SIZE, HostileDriver, LOW_SIZE, NEXT_SIZE } from '../../support/hostile-driver.js';
import { openDescriptors } from '../../support/process-state.js';
import { forEachCase, fuzzRun, type Random } from '../../support/random.js';
import { FakeTapQueue, frameOf, HEADER, headerBytes, NotedTapControl } from './net-guest.js';

const CASES = 20_000;
const PAIRS = 2;
const CONTROL = 2 * PAIRS;

const FEATURES = [
  VIRTIO_NET_F_MRG_RXBUF_BIT,
  VIRTIO_NET_F_CTRL_VQ_BIT,
  VIRTIO_NET_F_MQ_BIT,
  VIRTIO_NET_F_CTRL_GUEST_OFFLOADS_BIT,
  ...OFFLOAD_FEATURES.flatMap(({ guest, host }) => [guest, host]),
];

const PATTERN = frameOf(MAX_FRAME + 200);

class HostileNetGuest extends HostileDriver {
  constructor(random: Random, ram: GuardedRam) {
    super(random, ram, CONTROL + 1);
  }

  postRx(): void {
    const { random } = this;
    const total = random.oneIn(10) ? random.size(70_000) : random.between(HEADER - 2, 3000);
    const cuts = random.oneIn(3) ? random.between(1, 50) : random.between(1, 3);
    this.offer(2 * random.below(PAIRS), this.cut(this.place(total), total, cuts, true));
  }

  /** A frame whose header is right but for what `random` changes. */
  sendFrame(): void {
    const { random, view } = this;
    const length = random.oneIn(10) ? random.size(MAX_FRAME + 100) : random.between(MIN_FRAME - 2, 2000);
    const at = this.place(HEADER + length);
    const gso = random.oneIn(3);
    const words = [
      gso ? 1 | (random.pick([1, 3, 4, 0x81]) << 8) : random.below(2),
      gso ? random.size(1500) : 0,
      random.below(length),
      random.below(40),
    ];
    const halves = [words[0] & 0xffff, 54, words[1], words[2], words[3], 0];
    for (let mutations = this.breaks(2) ? random.between(1, 3) : 0; mutations > 0; mutations--) {
      halves[random.below(halves.length)] = random.bits() & 0xffff;
    }
    halves.forEach((half, index) => {
      view.setUint16(at + 2 * index, half, true);
    });
    const total = this.breaks(6) ? random.size(HEADER + length) : HEADER + length;
    const cuts = random.oneIn(4) ? random.between(1, 40) : random.between(1, 3);
    this.offer(2 * random.below(PAIRS) + 1, this.cut(at, total, cuts, false));
  }

  sendCommand(): void {
    const { random, view } = this;
    const length = random.between(1, 12);
    const at = this.place(16);
    view.setUint8(at, random.pick([4, 4, 5, random.below(8)]));
    view.setUint8(at + 1, random.oneIn(8) ? random.bits() : 0);
    view.setUint32(at + 2, random.oneIn(3) ? random.bits() : random.below(PAIRS + 2), true);
    view.setUint32(at + 6, random.oneIn(8) ? random.bits() : 0, true);
    const answer = this.cut(this.place(1), 1, 1, true);
    const command = this.cut(at, length, random.between(1, 4), false);
    // Without MQ the control queue is behind the first pair.
    this.offer(random.oneIn(4) ? 2 : CONTROL, this.breaks(10) ? command : [...command, ...answer]);
  }
}

/** The device's own memory that the kernel may be given. */
function ownMemory(device: NetDevice | undefined): NativeBuffer[] {
  const { pairs } = device as unknown as {
    pairs: { rx: { buffers?: { spill: NativeBuffer } }; tx: { header: { memory: NativeBuffer } } }[];
  };
  return pairs.flatMap(({ rx, tx }) => [tx.header.memory, ...(rx.buffers === undefined ? [] : [rx.buffers.spill])]);
}

function act(random: Random, tap: FakeTapQueue): void {
  if (random.oneIn(3)) {
    for (let reads = random.below(5); reads > 0; reads--) checkSent(tap);
    return;
  }
  const length = random.oneIn(8) ? random.size(PATTERN.length) : random.between(MIN_FRAME - 2, 1600);
  tap.send(PATTERN.subarray(0, length), headerBytes({ flags: random.below(3) }));
}

/** What left for the tap has a header that the device lets through. */
function checkSent(tap: FakeTapQueue): void {
  const sent = tap.receive();
  if (sent === undefined) return;
  const { header, frame } = sent;
  if (frame.length < MIN_FRAME || frame.length > MAX_FRAME) throw new Error(`a frame of ${frame.length} bytes left`);
  if (header[0] > 1) throw new Error(`flags ${header[0]} left`);
  if (![0, 1, 3, 4, 0x81, 0x84].includes(header[1])) throw new Error(`segmentation ${header[1]} left`);
  const end = header.readUInt16LE(6) + header.readUInt16LE(8) + 2;
  if (header[0] === 1 && end > frame.length) throw new Error('a checksum beyond its frame left');
}

function timersOf(loop: EventLoop): number {
  return (loop as unknown as { timers: { heap: unknown[] } }).timers.heap.length;
}

test("no guest, however hostile, makes the device throw, leak, or touch what is not the guest's", () => {
  using ram = new GuardedRam(
    { gpa: 0, size: LOW_SIZE },
    { gpa: LOW_SIZE, size: NEXT_SIZE },
    { gpa: HIGH_BASE, size: HIGH_SIZE },
  );
  const taps = Array.from({ length: PAIRS }, () => new FakeTapQueue());
  const loop = new EventLoop();
  let time = 0;
  loop.now = () => time;
  let device: NetDevice | undefined;
  using guard = new AddressGuard(ram, () => ownMemory(device));
  const descriptors = openDescriptors();
  const counters = new Float64Array(NET_COUNTERS.length);
  let broken = 0;

  forEachCase('net', fuzzRun(CASES), (random) => {
    ram.clear();
    const limit = { ops: { size: 8, refillTime: 10 }, bandwidth: { size: 4096, refillTime: 10 } };
    const made = new NetDevice(
      { kind: 'net', queues: taps.map(({ fd }) => fd), rateLimiter: random.oneIn(4) ? limit : undefined },
      { loop, log: () => undefined, updateConfig: () => undefined, counters },
      new NotedTapControl(PAIRS),
    );
    device = made;
    const guest = new HostileNetGuest(random, ram);
    const activate = (): void => {
      const queues = guest.makeQueues();
      made.activate({
        memory: ram.memory,
        queues: random.oneIn(20) ? queues.map((queue) => (random.oneIn(5) ? undefined : queue)) : queues,
        features: featureWords(FEATURES.filter(() => !random.oneIn(4))),
        interrupt: guest.interrupt,
      });
    };
    activate();
    for (let posts = random.below(6); posts > 0; posts--) guest.postRx();
    for (let step = random.between(4, 40); step > 0; step--) {
      switch (random.below(12)) {
        case 0:
        case 1:
          for (let posts = random.between(1, 4); posts > 0; posts--) guest.postRx();
          break;
        case 2:
        case 3:
        case 4:
          guest.sendFrame();
          break;
        case 5:
          if (random.oneIn(6)) guest.scribble();
          break;
        case 6:
        case 7:
          act(random, random.pick(taps));
          break;
        case 8:
          if (!random.oneIn(12)) break;
          made.reset();
          if (!random.oneIn(4)) activate();
          break;
        case 9:
          guest.sendCommand();
          break;
        default:
          time += random.below(5);
          loop.turn(0);
      }
    }
    for (let turns = 0; turns < 3; turns++) loop.turn(0);
    broken += guest.interrupt.resets;
    made.close();
    if (loop.watched !== 0) throw new Error(`${loop.watched} descriptors are still watched`);
    if (timersOf(loop) !== 0) throw new Error(`${timersOf(loop)} timers are still set`);
    ram.check();
    // The next case starts with empty queues on this side; what waits for its guest is stale and dropped by it.
    for (const tap of taps) tap.receiveAll();
  });

  expect(openDescriptors()).toBe(descriptors);
  for (const tap of taps) tap.close();
  loop.close();
  const totals = Object.fromEntries(NET_COUNTERS.map((name, index) => [name, counters[index]]));
  // The generator reaches what it is meant to reach; a single case, run again, need not.
  if (counters[0] > 1_000_000) {
    expect(Object.values(totals).every((total) => total > 0)).toBe(true);
    expect(broken).toBeGreaterThan(0);
    expect(guard.checked).toBeGreaterThan(0);
  }
  process.stdout.write(`net: ${JSON.stringify({ ...totals, broken, checkedAddresses: guard.checked })}\n`);
});
