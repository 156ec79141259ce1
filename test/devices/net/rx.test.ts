import { expect, test } from '@jest/globals';
import { MAX_FRAME } from '../../../src/devices/net/header.js';
import { VIRTIO_NET_F_GUEST_CSUM_BIT } from '../../../src/devices/net/settings.js';
import { frameOf, HEADER, headerBytes, NetGuest } from './net-guest.js';

test('a frame arrives whole, with its header, in one buffer where it fits', () => {
  using guest = new NetGuest({ features: [VIRTIO_NET_F_GUEST_CSUM_BIT] });
  guest.postRx(4);
  const header = headerBytes({ flags: 1, gsoType: 1, hdrLen: 54, gsoSize: 1448, csumStart: 34, csumOffset: 16 });
  guest.taps[0].send(frameOf(1000), header);
  const [{ header: got, frame, buffers }] = guest.turn().received();
  expect(buffers).toBe(1);
  expect(got.subarray(0, 10)).toEqual(header.subarray(0, 10));
  expect(frame).toEqual(frameOf(1000));
  expect(guest.counter('rx_frames')).toBe(1);
  expect(guest.counter('rx_bytes')).toBe(1000);
  expect(guest.interrupt.used).toBe(1);
});

test('frames of every size arrive whole in buffers of every size, and say how many they took', () => {
  const frameSizes = [14, 60, 99, 100, 101, 1500, 1524, 1525, 4083, 4084, 4085, 9000, 65_535, MAX_FRAME];
  const cuts = [[12], [13], [100], [1536], [4096], [65_600], [1, 11, 88], [5, 7, 1], [3, 8, 500, 1, 1]];
  for (const cut of cuts) {
    const capacity = cut.reduce((sum, length) => sum + length, 0);
    const sizes = frameSizes.filter((size) => size + HEADER <= 250 * capacity);
    using guest = new NetGuest({ queueSize: 256 });
    for (const size of sizes) {
      const buffers = Math.ceil((size + HEADER) / capacity);
      guest.postRx(buffers, cut, 0, 1);
      guest.taps[0].send(frameOf(size));
      const frames = guest.turn().received();
      expect(frames.map((each) => each.buffers)).toEqual([buffers]);
      expect(frames[0].frame.equals(frameOf(size))).toBe(true);
    }
    expect(guest.counter('rx_frames')).toBe(sizes.length);
    expect(guest.counter('rx_dropped')).toBe(0);
  }
});

test('many frames at once are published once, with one interrupt', () => {
  using guest = new NetGuest();
  guest.postRx(30);
  const sizes = Array.from({ length: 20 }, (_, index) => 60 + 10 * index);
  for (const size of sizes) guest.taps[0].send(frameOf(size));
  expect(
    guest
      .turn()
      .received()
      .map(({ frame }) => frame.length),
  ).toEqual(sizes);
  expect(guest.interrupt.used).toBe(1);
});

test('without buffers nothing is read; with the first ones it goes on', () => {
  using guest = new NetGuest();
  for (const size of [100, 200, 300]) guest.taps[0].send(frameOf(size));
  expect(guest.turn().received()).toEqual([]);
  // The driver is asked to notify.
  expect(guest.rx[0].availEvent).toBe(guest.rx[0].offered);
  guest.postRx(1);
  expect(
    guest
      .turn()
      .received()
      .map(({ frame }) => frame.length),
  ).toEqual([100]);
  guest.postRx(2);
  expect(
    guest
      .turn()
      .received()
      .map(({ frame }) => frame.length),
  ).toEqual([200, 300]);
  expect(guest.counter('rx_dropped')).toBe(0);
});

test('a frame longer than what is posted waits for more buffers and is not cut', () => {
  using guest = new NetGuest();
  guest.postRx(3, [100]);
  guest.taps[0].send(frameOf(1000));
  guest.taps[0].send(frameOf(50));
  expect(guest.turn().received()).toEqual([]);
  guest.postRx(3, [100]);
  expect(guest.turn().received()).toEqual([]);
  guest.postRx(4, [7, 90, 3]);
  expect(guest.turn().received()).toEqual([]);
  guest.postRx(2, [600]);
  const frames = guest.turn().received();
  expect(frames.map(({ buffers }) => buffers)).toEqual([11, 1]);
  expect(frames[0].frame).toEqual(frameOf(1000));
  expect(frames[1].frame).toEqual(frameOf(50));
  expect(guest.counter('rx_dropped')).toBe(0);
});

test('a frame longer than the whole ring can take is dropped, and the next one arrives', () => {
  using guest = new NetGuest({ queueSize: 4 });
  guest.postRx(4, [100]);
  guest.taps[0].send(frameOf(1000));
  guest.taps[0].send(frameOf(150));
  expect(
    guest
      .turn()
      .received()
      .map(({ frame }) => frame.length),
  ).toEqual([150]);
  expect(guest.counter('rx_dropped')).toBe(1);
});

test('a driver that does not merge gets each frame in one chain; one that does not fit is dropped', () => {
  using guest = new NetGuest({ merge: false });
  guest.postRx(3, [12, 500, 500]);
  for (const size of [900, 1001, 1000]) guest.taps[0].send(frameOf(size));
  expect(
    guest
      .turn()
      .received()
      .map(({ frame, buffers }) => [frame.length, buffers]),
  ).toEqual([
    [900, 1],
    [1000, 1],
  ]);
  expect(guest.counter('rx_dropped')).toBe(1);
});

test('a frame longer than any there may be is dropped, not cut', () => {
  using guest = new NetGuest();
  guest.postRx(60, [1536]);
  guest.taps[0].send(frameOf(MAX_FRAME + 5000));
  guest.taps[0].send(frameOf(100));
  expect(
    guest
      .turn()
      .received()
      .map(({ frame }) => frame.length),
  ).toEqual([100]);
  expect(guest.counter('rx_dropped')).toBe(1);
});

test('without checksum offload the flags are cleared, wherever the header lies', () => {
  using guest = new NetGuest();
  guest.postRx(1).postRx(1, [1, 200]).postRx(1, [9, 2, 200]);
  for (let count = 0; count < 3; count++) guest.taps[0].send(frameOf(100), headerBytes({ flags: 2 }));
  const frames = guest.turn().received();
  expect(frames.map(({ header }) => header[0])).toEqual([0, 0, 0]);
  expect(frames.every(({ frame }) => frame.equals(frameOf(100)))).toBe(true);
});

test('chains that are no receive buffers are given back, and the others used', () => {
  using guest = new NetGuest();
  const ring = guest.rx[0];
  const readable = ring.add([{ address: guest.ram.allocate(200), length: 200 }]);
  const short = ring.add([{ address: guest.ram.allocate(11), length: 11, writable: true }]);
  const nowhere = ring.add([{ address: 0xffff_0000, length: 200, writable: true }]);
  const good = ring.add([{ address: guest.ram.allocate(200), length: 200, writable: true }]);
  guest.taps[0].send(frameOf(100));
  guest.turn();
  expect(ring.collect()).toEqual([
    { id: readable, length: 0 },
    { id: short, length: 0 },
    { id: nowhere, length: 0 },
    { id: good, length: 112 },
  ]);
  expect(guest.logged.filter((line) => line.startsWith('warn: unusable chain'))).toHaveLength(3);
});

test('a broken receive ring makes the device need a reset', () => {
  using guest = new NetGuest();
  guest.rx[0].offerHead(1000);
  guest.taps[0].send(frameOf(100));
  guest.turn();
  expect(guest.interrupt.resets).toBe(1);
  expect(guest.loop.watched).toBe(0);
  guest.device.reset();
  guest.activate();
  guest.postRx(1);
  guest.taps[0].send(frameOf(70));
  expect(guest.turn().received()).toHaveLength(1);
});

test('what came before the driver is dropped: it was for another', () => {
  using guest = new NetGuest();
  guest.device.reset();
  for (let count = 0; count < 5; count++) guest.taps[0].send(frameOf(100));
  guest.activate();
  guest.postRx(5);
  guest.taps[0].send(frameOf(77));
  expect(
    guest
      .turn()
      .received()
      .map(({ frame }) => frame.length),
  ).toEqual([77]);
  expect(guest.counter('rx_dropped')).toBe(5);
});

test('a reset forgets held buffers and a parked frame', () => {
  using guest = new NetGuest();
  guest.postRx(2, [100]);
  guest.taps[0].send(frameOf(500));
  guest.turn();
  const old = guest.rx[0];
  guest.device.reset();
  guest.taps[0].send(frameOf(501));
  guest.turn();
  expect(old.collect()).toEqual([]);
  guest.activate();
  guest.postRx(10, [100]);
  guest.taps[0].send(frameOf(502));
  expect(
    guest
      .turn()
      .received()
      .map(({ frame }) => frame.length),
  ).toEqual([502]);
  expect(old.collect()).toEqual([]);
});

test('a tap that is gone takes the link down, once, and the device goes on answering', () => {
  using guest = new NetGuest();
  guest.postRx(2);
  guest.taps[0].vanish();
  guest.turn();
  expect(guest.configWrites).toEqual([{ offset: 6, bytes: new Uint8Array(2) }]);
  expect(guest.logged.some((line) => line.startsWith('error: the tap cannot be read any more'))).toBe(true);
  guest.send(frameOf(60));
  guest.turn(5);
  expect(guest.tx[0].collect()).toHaveLength(1);
  expect(guest.counter('tx_dropped')).toBe(1);
  expect(guest.configWrites).toHaveLength(1);
});

test('runts of the host are dropped', () => {
  using guest = new NetGuest();
  guest.postRx(3);
  guest.taps[0].sendRaw(new Uint8Array(5));
  guest.taps[0].send(frameOf(13));
  guest.taps[0].send(frameOf(14));
  expect(
    guest
      .turn()
      .received()
      .map(({ frame }) => frame.length),
  ).toEqual([14]);
  expect(guest.counter('rx_dropped')).toBe(2);
});
