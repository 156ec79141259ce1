import { describe, expect, test } from '@jest/globals';
import { MAX_FRAME } from '../../../src/devices/net/header.js';
import {
  VIRTIO_NET_F_CSUM_BIT,
  VIRTIO_NET_F_HOST_ECN_BIT,
  VIRTIO_NET_F_HOST_TSO4_BIT,
  VIRTIO_NET_F_HOST_TSO6_BIT,
  VIRTIO_NET_F_HOST_UFO_BIT,
} from '../../../src/devices/net/settings.js';
import { frameOf, HEADER, headerBytes, NetGuest, type Header } from './net-guest.js';

const OFFLOADS = [
  VIRTIO_NET_F_CSUM_BIT,
  VIRTIO_NET_F_HOST_TSO4_BIT,
  VIRTIO_NET_F_HOST_TSO6_BIT,
  VIRTIO_NET_F_HOST_ECN_BIT,
  VIRTIO_NET_F_HOST_UFO_BIT,
];

const TCPV4 = 1;
const UDP = 3;
const TCPV6 = 4;
const ECN = 0x80;

test('frames of every size leave whole, however they are cut', () => {
  using guest = new NetGuest();
  const cuts = [[12], [1], [11, 2], [12, 14, 40], [5, 5, 5, 5, 5], [70_000], new Array<number>(1000).fill(7)];
  for (const cut of cuts) {
    for (const size of [14, 60, 1514, 9000, MAX_FRAME]) {
      guest.send(frameOf(size), headerBytes(), cut);
      guest.turn();
      expect(guest.taps[0].receive()?.frame.equals(frameOf(size))).toBe(true);
      expect(guest.tx[0].collect()).toHaveLength(1);
    }
  }
  expect(guest.counter('tx_frames')).toBe(cuts.length * 5);
  expect(guest.counter('tx_bytes')).toBe(cuts.length * (14 + 60 + 1514 + 9000 + MAX_FRAME));
  expect(guest.counter('tx_dropped')).toBe(0);
});

test('many frames are given back at once, with one interrupt, and in order', () => {
  using guest = new NetGuest();
  const heads = Array.from({ length: 20 }, (_, index) => guest.send(frameOf(100 + index)));
  guest.turn();
  expect(guest.tx[0].collect().map(({ id }) => id)).toEqual(heads);
  expect(guest.taps[0].receiveAll().map(({ length }) => length)).toEqual(heads.map((_, index) => 100 + index));
  expect(guest.interrupt.used).toBe(1);
});

test('a header that asks for what was negotiated goes through', () => {
  using guest = new NetGuest({ features: OFFLOADS });
  const headers: Header[] = [
    { flags: 1, csumStart: 34, csumOffset: 16 },
    { flags: 1, gsoType: TCPV4, gsoSize: 1448, hdrLen: 54, csumStart: 34, csumOffset: 16 },
    { flags: 1, gsoType: TCPV4 | ECN, gsoSize: 1448, hdrLen: 54, csumStart: 34, csumOffset: 16 },
    { flags: 1, gsoType: TCPV6, gsoSize: 1428, hdrLen: 74, csumStart: 54, csumOffset: 16 },
    { flags: 1, gsoType: UDP, gsoSize: 1480, hdrLen: 42, csumStart: 34, csumOffset: 6 },
  ];
  for (const header of headers) {
    guest.send(frameOf(3000), headerBytes(header));
    guest.turn();
    expect(guest.taps[0].receive()?.header.subarray(0, 10)).toEqual(headerBytes(header).subarray(0, 10));
  }
  expect(guest.counter('tx_dropped')).toBe(0);
});

describe('a frame is dropped and given back when its header asks for', () => {
  const cases: [string, Header, number[]][] = [
    ['a checksum that was not negotiated', { flags: 1, csumStart: 34, csumOffset: 16 }, []],
    ['a checksum beyond its end', { flags: 1, csumStart: 98, csumOffset: 1 }, OFFLOADS],
    ['a checksum far beyond its end', { flags: 1, csumStart: 0xffff, csumOffset: 0xffff }, OFFLOADS],
    ['a segmentation that was not negotiated', { gsoType: TCPV4, gsoSize: 100 }, [VIRTIO_NET_F_CSUM_BIT]],
    [
      'ECN that was not negotiated',
      { gsoType: TCPV4 | ECN, gsoSize: 100 },
      [VIRTIO_NET_F_CSUM_BIT, VIRTIO_NET_F_HOST_TSO4_BIT],
    ],
    [
      'a segmentation that was accepted without checksums',
      { gsoType: TCPV4, gsoSize: 9 },
      [VIRTIO_NET_F_HOST_TSO4_BIT],
    ],
    ['segments of no bytes', { gsoType: TCPV6, gsoSize: 0 }, OFFLOADS],
    ['a segmentation that there is not', { gsoType: 2, gsoSize: 100 }, OFFLOADS],
    ['another that there is not', { gsoType: 0x7f, gsoSize: 100 }, OFFLOADS],
    ['ECN of nothing', { gsoType: ECN, gsoSize: 100 }, OFFLOADS],
    ['ECN of UDP', { gsoType: UDP | ECN, gsoSize: 100 }, OFFLOADS],
  ];
  test.each(cases)('%s', (_name, header, features) => {
    using guest = new NetGuest({ features });
    guest.send(frameOf(100), headerBytes(header));
    guest.send(frameOf(60));
    guest.turn();
    expect(guest.tx[0].collect()).toHaveLength(2);
    expect(guest.taps[0].receiveAll().map(({ length }) => length)).toEqual([60]);
    expect(guest.counter('tx_dropped')).toBe(1);
    expect(guest.logged.filter((line) => line.startsWith('warn: transmitted frame dropped'))).toHaveLength(1);
  });
});

test('flags that a driver may not set are not passed on', () => {
  using guest = new NetGuest({ features: OFFLOADS });
  guest.send(frameOf(100), headerBytes({ flags: 0xfe }));
  guest.turn();
  expect(guest.taps[0].receive()?.header[0]).toBe(0);
});

test('chains that hold no frame are dropped and given back', () => {
  using guest = new NetGuest();
  const ring = guest.tx[0];
  const buffer = (length: number, writable = false) => ({ address: guest.ram.allocate(length), length, writable });
  ring.add([buffer(5)]);
  ring.add([buffer(HEADER)]);
  ring.add([buffer(HEADER), buffer(13)]);
  ring.add([buffer(HEADER), { address: 0x4000, length: MAX_FRAME + 1 }]);
  ring.add([buffer(100, true)]);
  ring.add([{ address: 0xf000_0000, length: 100 }]);
  // Too many pieces for one call.
  ring.addIndirect([
    { address: 0x4000, length: 13 },
    ...new Array<{ address: number; length: number }>(1023).fill({ address: 0x4000, length: 2 }),
  ]);
  guest.send(frameOf(60));
  guest.turn();
  expect(ring.collect().map(({ length }) => length)).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
  expect(guest.taps[0].receiveAll()).toEqual([frameOf(60)]);
  expect(guest.counter('tx_dropped')).toBe(7);
});

test('a header that changes under way is not what the tap gets', () => {
  using guest = new NetGuest({ features: OFFLOADS });
  // The same twelve bytes are the header and, behind it, the beginning of the frame: only the copy counts.
  const address = guest.ram.allocate(200);
  guest.ram.bytes.fill(0, address, address + 200);
  guest.ram.bytes[address] = 0xff & ~1;
  guest.tx[0].add([
    { address, length: 12 },
    { address, length: 60 },
  ]);
  guest.turn();
  const sent = guest.taps[0].receive();
  expect(sent?.header[0]).toBe(0);
  expect(sent?.frame[0]).toBe(0xfe);
});

test('a tap without room keeps the frames in their queue, in order, until it has some', () => {
  using guest = new NetGuest({ queueSize: 256 });
  const sizes: number[] = [];
  // More than the socket takes.
  for (let index = 0; index < 40; index++) {
    sizes.push(20_000 + index);
    guest.send(frameOf(20_000 + index));
  }
  guest.turn();
  const taken = guest.tx[0].collect().length;
  expect(taken).toBeLessThan(40);
  const received: number[] = [];
  while (received.length < 40) {
    const frames = guest.taps[0].receiveAll();
    expect(frames.length).toBeGreaterThan(0);
    received.push(...frames.map(({ length }) => length));
    guest.turn();
  }
  expect(received).toEqual(sizes);
  expect(taken + guest.tx[0].collect().length).toBe(40);
  expect(guest.counter('tx_dropped')).toBe(0);
});

test('a full tap does not keep frames from being received', () => {
  using guest = new NetGuest({ queueSize: 256 });
  guest.postRx(4);
  for (let index = 0; index < 40; index++) guest.send(frameOf(20_000));
  guest.turn();
  guest.taps[0].send(frameOf(99));
  expect(guest.turn().received()).toHaveLength(1);
});

test('a broken transmit ring makes the device need a reset', () => {
  using guest = new NetGuest();
  guest.tx[0].offerHead(64);
  guest.turn();
  expect(guest.interrupt.resets).toBe(1);
  guest.device.reset();
  guest.activate();
  guest.send(frameOf(60));
  guest.turn();
  expect(guest.taps[0].receive()?.frame.length).toBe(60);
});

test('a busy driver is asked not to notify, and asked again before the loop sleeps', () => {
  using guest = new NetGuest({ eventIdx: false });
  guest.send(frameOf(60));
  // A turn that finds work does not go to sleep.
  guest.loop.turn(1000);
  expect(guest.tx[0].usedFlags).toBe(1);
  guest.loop.turn(1);
  expect(guest.tx[0].usedFlags).toBe(0);
});
