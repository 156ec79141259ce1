import { describe, expect, test } from '@jest/globals';
import { EINVAL } from '../../../src/platform/errno.js';
import {
  VIRTIO_NET_F_GUEST_CSUM_BIT,
  VIRTIO_NET_F_GUEST_ECN_BIT,
  VIRTIO_NET_F_GUEST_TSO4_BIT,
  VIRTIO_NET_F_GUEST_TSO6_BIT,
  VIRTIO_NET_F_GUEST_UFO_BIT,
} from '../../../src/devices/net/settings.js';
import { TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_UFO } from '../../../src/platform/tap.js';
import { frameOf, NetGuest } from './net-guest.js';

const OK = 0;
const ERR = 1;
const MQ = 4;
const GUEST_OFFLOADS = 5;
const GUEST_FEATURES = [
  VIRTIO_NET_F_GUEST_CSUM_BIT,
  VIRTIO_NET_F_GUEST_TSO4_BIT,
  VIRTIO_NET_F_GUEST_TSO6_BIT,
  VIRTIO_NET_F_GUEST_ECN_BIT,
  VIRTIO_NET_F_GUEST_UFO_BIT,
];

function setPairs(guest: NetGuest, pairs: number): number | undefined {
  return guest.command(MQ, 0, pairs & 0xff, pairs >>> 8);
}

function setOffloads(guest: NetGuest, ...bits: number[]): number | undefined {
  const mask = bits.reduce((sum, bit) => sum | (1n << BigInt(bit)), 0n);
  return guest.command(
    GUEST_OFFLOADS,
    0,
    ...Array.from({ length: 8 }, (_, byte) => Number((mask >> BigInt(8 * byte)) & 0xffn)),
  );
}

describe('queue pairs', () => {
  test('the first pair alone is in use until the driver asks for more', () => {
    using guest = new NetGuest({ pairs: 3 });
    expect(guest.tapControl.attached).toEqual([true, false, false]);
    guest.postRx(2, [1536], 1);
    guest.taps[1].send(frameOf(100));
    expect(guest.turn().received(1)).toEqual([]);
    expect(guest.loop.watched).toBe(1);
  });

  test('each pair has a queue of the tap while it is in use', () => {
    using guest = new NetGuest({ pairs: 3 });
    expect(setPairs(guest, 3)).toBe(OK);
    expect(guest.tapControl.attached).toEqual([true, true, true]);
    for (let pair = 0; pair < 3; pair++) {
      guest.postRx(2, [1536], pair);
      guest.taps[pair].send(frameOf(100 + pair));
      guest.send(frameOf(200 + pair), undefined, undefined, pair);
    }
    guest.turn();
    for (let pair = 0; pair < 3; pair++) {
      expect(guest.received(pair).map(({ frame }) => frame.length)).toEqual([100 + pair]);
      expect(guest.taps[pair].receiveAll().map(({ length }) => length)).toEqual([200 + pair]);
    }
    expect(setPairs(guest, 1)).toBe(OK);
    expect(guest.tapControl.attached).toEqual([true, false, false]);
    expect(guest.loop.watched).toBe(1);
  });

  test('a pair that comes back goes on with the buffers that it held', () => {
    using guest = new NetGuest({ pairs: 2 });
    setPairs(guest, 2);
    guest.postRx(4, [1536], 1);
    guest.taps[1].send(frameOf(100));
    expect(guest.turn().received(1)).toHaveLength(1);
    setPairs(guest, 1);
    setPairs(guest, 2);
    for (const size of [200, 300, 400]) guest.taps[1].send(frameOf(size));
    expect(
      guest
        .turn()
        .received(1)
        .map(({ frame }) => frame.length),
    ).toEqual([200, 300, 400]);
  });

  test.each([0, 4, 0xffff])('a number of pairs that there is not is refused: %d', (pairs) => {
    using guest = new NetGuest({ pairs: 3 });
    expect(setPairs(guest, pairs)).toBe(ERR);
    expect(guest.tapControl.attached).toEqual([true, false, false]);
  });

  test('a reset leaves the first queue of the tap alone attached', () => {
    using guest = new NetGuest({ pairs: 2 });
    setPairs(guest, 2);
    guest.device.reset();
    expect(guest.tapControl.attached).toEqual([true, false]);
    expect(guest.loop.watched).toBe(0);
  });

  test('a driver without MQ finds its control queue behind the first pair, and may not ask for pairs', () => {
    using guest = new NetGuest({ pairs: 2, multiQueue: false });
    expect(setPairs(guest, 1)).toBe(ERR);
  });

  test('a tap that does not attach the queue is an error', () => {
    using guest = new NetGuest({ pairs: 2 });
    guest.tapControl.refuse = -EINVAL;
    expect(setPairs(guest, 2)).toBe(ERR);
    guest.tapControl.refuse = 0;
    expect(setPairs(guest, 2)).toBe(OK);
  });
});

describe('offloads for the guest', () => {
  test('the tap does what the driver negotiated, and nothing without a driver', () => {
    using guest = new NetGuest({ features: GUEST_FEATURES });
    expect(guest.tapControl.offloads).toEqual([TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO]);
    guest.device.reset();
    expect(guest.tapControl.offloads.at(-1)).toBe(0);
  });

  test('segmentation without checksums is left out, as is ECN without segmentation', () => {
    using guest = new NetGuest({ features: [VIRTIO_NET_F_GUEST_TSO4_BIT] });
    guest.device.reset();
    guest.activate([VIRTIO_NET_F_GUEST_CSUM_BIT, VIRTIO_NET_F_GUEST_ECN_BIT]);
    expect(guest.tapControl.offloads).toEqual([0, 0, TUN_F_CSUM]);
  });

  test('the driver may have less for a while, and what it negotiated again', () => {
    using guest = new NetGuest({ features: GUEST_FEATURES });
    expect(setOffloads(guest)).toBe(OK);
    expect(guest.tapControl.offloads.at(-1)).toBe(0);
    expect(setOffloads(guest, VIRTIO_NET_F_GUEST_CSUM_BIT, VIRTIO_NET_F_GUEST_TSO4_BIT)).toBe(OK);
    expect(guest.tapControl.offloads.at(-1)).toBe(TUN_F_CSUM | TUN_F_TSO4);
  });

  test.each([
    ['not negotiated', [VIRTIO_NET_F_GUEST_CSUM_BIT, VIRTIO_NET_F_GUEST_UFO_BIT]],
    ['without what it needs', [VIRTIO_NET_F_GUEST_TSO4_BIT]],
    ['no offload at all', [3]],
    ['beyond 32 bits', [40]],
  ])('what is %s is refused, and nothing changes', (_name, bits) => {
    using guest = new NetGuest({ features: [VIRTIO_NET_F_GUEST_CSUM_BIT, VIRTIO_NET_F_GUEST_TSO4_BIT] });
    expect(setOffloads(guest, ...bits)).toBe(ERR);
    expect(guest.tapControl.offloads).toHaveLength(1);
  });

  test('a tap that refuses is an error', () => {
    using guest = new NetGuest({ features: GUEST_FEATURES });
    guest.tapControl.refuse = -EINVAL;
    expect(setOffloads(guest)).toBe(ERR);
  });
});

describe('the control queue', () => {
  test.each([
    ['an unknown class', [9, 0]],
    ['an unknown command', [MQ, 7, 1, 0]],
    ['receive modes, which are not offered', [0, 0, 1]],
    ['a command without its data', [MQ, 0]],
    ['a class alone', [MQ]],
  ])('%s is answered with an error', (_name, bytes) => {
    using guest = new NetGuest({ pairs: 2 });
    expect(guest.command(...bytes)).toBe(ERR);
  });

  test('a command without room for an answer is given back', () => {
    using guest = new NetGuest();
    guest.controlRing.add([{ address: guest.ram.allocate(4), length: 4 }]);
    guest.turn();
    expect(guest.controlRing.collect()).toEqual([{ id: 0, length: 0 }]);
  });

  test('a command in pieces is understood, and only the first byte of its answer written', () => {
    using guest = new NetGuest({ pairs: 2 });
    const bytes = [MQ, 0, 2, 0].map((byte) => {
      const address = guest.ram.allocate(1, 1);
      guest.ram.bytes[address] = byte;
      return { address, length: 1 };
    });
    const answer = guest.ram.allocate(4);
    guest.ram.bytes.fill(0xee, answer, answer + 4);
    guest.controlRing.addIndirect([...bytes, { address: answer, length: 4, writable: true }]);
    guest.turn();
    expect(guest.controlRing.collect().map(({ length }) => length)).toEqual([1]);
    expect([...guest.ram.bytes.subarray(answer, answer + 4)]).toEqual([OK, 0xee, 0xee, 0xee]);
  });
});
