// A network device that is paused or saved in the middle of something, and goes on: by itself, or as another device over
// another tap and the same memory.

import { describe, expect, test } from '@jest/globals';
import { VIRTIO_NET_F_GUEST_CSUM_BIT, VIRTIO_NET_F_GUEST_TSO4_BIT } from '../../../src/devices/net/settings.js';
import { EINVAL } from '../../../src/platform/errno.js';
import { TUN_F_CSUM, TUN_F_TSO4 } from '../../../src/platform/tap.js';
import { frameOf, NetGuest } from './net-guest.js';

const MQ = 4;
const GUEST_OFFLOADS = 5;
const OK = 0;

/** The lengths of what was received. */
function lengths(guest: NetGuest, pair = 0): number[] {
  return guest
    .turn()
    .received(pair)
    .map(({ frame }) => frame.length);
}

describe('a pause', () => {
  test('posted buffers that the device holds are used afterwards, in order, none lost and none twice', () => {
    using guest = new NetGuest();
    guest.postRx(8);
    guest.taps[0].send(frameOf(100));
    expect(lengths(guest)).toEqual([100]);
    guest.pause();
    for (let size = 200; size < 900; size += 100) guest.taps[0].send(frameOf(size));
    expect(lengths(guest)).toEqual([200, 300, 400, 500, 600, 700, 800]);
    guest.taps[0].send(frameOf(900));
    expect(lengths(guest)).toEqual([]);
    guest.postRx(1);
    expect(lengths(guest)).toEqual([900]);
  });

  test.each([
    [1, [100]],
    [3, [100]],
    [2, [13]],
    [3, [1, 11, 88]],
  ])('a frame that waits for more buffers than %i of %j arrives whole afterwards', (posted, cut) => {
    using guest = new NetGuest({ queueSize: 256 });
    guest.postRx(posted, cut);
    guest.taps[0].send(frameOf(1500));
    expect(lengths(guest)).toEqual([]);
    guest.pause();
    guest.pause();
    const capacity = cut.reduce((sum, length) => sum + length, 0);
    // As many again as it needs in all, with a pause between each two.
    for (let more = posted; more * capacity < 1512; more++) {
      expect(guest.turn().received()).toEqual([]);
      guest.pause();
      guest.postRx(1, cut);
    }
    const [{ frame, buffers }] = guest.turn().received();
    expect(frame.equals(frameOf(1500))).toBe(true);
    expect(buffers).toBe(Math.ceil(1512 / capacity));
    expect(guest.counter('rx_dropped')).toBe(0);
  });

  test('without buffers, and in the middle of many frames', () => {
    using guest = new NetGuest();
    for (const size of [100, 200, 300]) guest.taps[0].send(frameOf(size));
    guest.turn();
    guest.pause();
    guest.postRx(2);
    expect(lengths(guest)).toEqual([100, 200]);
    guest.pause();
    guest.postRx(2);
    expect(lengths(guest)).toEqual([300]);
  });
});

describe('a restore', () => {
  test('frames go both ways over the other tap, in the buffers that were posted before', () => {
    using guest = new NetGuest();
    guest.postRx(4);
    guest.taps[0].send(frameOf(100));
    expect(lengths(guest)).toEqual([100]);
    guest.restore();
    guest.taps[0].send(frameOf(200));
    guest.send(frameOf(300));
    expect(lengths(guest)).toEqual([200]);
    expect(guest.taps[0].receiveAll().map(({ length }) => length)).toEqual([300]);
  });

  test('what the guest sent and was not taken yet is sent', () => {
    using guest = new NetGuest({ rateLimiter: { ops: { size: 1, refillTime: 1_000_000 } } });
    for (const size of [100, 200]) guest.send(frameOf(size));
    guest.turn();
    expect(guest.taps[0].receiveAll().map(({ length }) => length)).toEqual([100]);
    guest.restore().turn();
    expect(guest.taps[0].receiveAll().map(({ length }) => length)).toEqual([200]);
    expect(guest.tx[0].collect()).toHaveLength(2);
  });

  test('a frame that waited for buffers is lost with its tap, its buffers are not', () => {
    using guest = new NetGuest();
    guest.postRx(2, [100]);
    guest.taps[0].send(frameOf(1000));
    guest.turn();
    guest.restore();
    guest.taps[0].send(frameOf(80));
    guest.taps[0].send(frameOf(88));
    expect(lengths(guest)).toEqual([80, 88]);
  });

  test('the tap is told again what the driver can receive', () => {
    const features = [VIRTIO_NET_F_GUEST_CSUM_BIT, VIRTIO_NET_F_GUEST_TSO4_BIT];
    using guest = new NetGuest({ features });
    guest.restore();
    expect(guest.tapControl.offloads.at(-1)).toBe(TUN_F_CSUM | TUN_F_TSO4);
  });

  test('and no more than it has asked for since', () => {
    const features = [VIRTIO_NET_F_GUEST_CSUM_BIT, VIRTIO_NET_F_GUEST_TSO4_BIT];
    using guest = new NetGuest({ features });
    expect(guest.command(GUEST_OFFLOADS, 0, 1 << VIRTIO_NET_F_GUEST_CSUM_BIT, 0, 0, 0, 0, 0, 0, 0)).toBe(OK);
    guest.restore();
    expect(guest.tapControl.offloads.at(-1)).toBe(TUN_F_CSUM);
    expect(guest.command(GUEST_OFFLOADS, 0, 0, 0, 0, 0, 0, 0, 0, 0)).toBe(OK);
    guest.restore();
    expect(guest.tapControl.offloads.at(-1)).toBe(0);
  });

  test('as many pairs are in use as before, each with a queue of the tap', () => {
    using guest = new NetGuest({ pairs: 3 });
    expect(guest.command(MQ, 0, 2, 0)).toBe(OK);
    guest.restore();
    expect(guest.tapControl.attached).toEqual([true, true, false]);
    guest.postRx(2, [1536], 1);
    guest.taps[1].send(frameOf(100));
    guest.send(frameOf(200), undefined, undefined, 1);
    expect(lengths(guest, 1)).toEqual([100]);
    expect(guest.taps[1].receiveAll().map(({ length }) => length)).toEqual([200]);
    expect(guest.command(MQ, 0, 1, 0)).toBe(OK);
    expect(guest.tapControl.attached).toEqual([true, false, false]);
  });

  test('a link that was down for want of its tap is up again', () => {
    using guest = new NetGuest();
    guest.postRx(1);
    guest.taps[0].vanish();
    guest.turn();
    expect(guest.configWrites.at(-1)?.bytes).toEqual(Uint8Array.of(0, 0));
    guest.restore();
    expect(guest.configWrites.at(-1)).toEqual({ offset: 6, bytes: Uint8Array.of(1, 0) });
    guest.taps[0].send(frameOf(100));
    expect(lengths(guest)).toEqual([100]);
  });

  test('a state that cannot be, or that this tap cannot have, is refused', () => {
    using guest = new NetGuest({ pairs: 2 });
    const state = guest.pause();
    expect(() => {
      guest.device.restore({});
    }).toThrow(/has its pairs/);
    expect(() => {
      guest.device.restore({ ...state, pairs: 3 });
    }).toThrow(/cannot have 3 pairs/);
    expect(() => {
      guest.device.restore({ ...state, offloads: 0xff });
    }).toThrow(/does not take the offloads 255/);
    guest.tapControl.refuse = -EINVAL;
    expect(() => {
      guest.device.restore({ ...state, pairs: 2 });
    }).toThrow(/cannot have 2 pairs/);
    guest.tapControl.refuse = 0;
  });
});
