// Two guests on real taps and a bridge of the host between them: what one sends arrives at the other as it was, cut
// and summed by the kernel where the other does not do that itself.

import { afterEach, beforeEach, expect, test } from '@jest/globals';
import {
  VIRTIO_NET_F_CSUM_BIT,
  VIRTIO_NET_F_GUEST_CSUM_BIT,
  VIRTIO_NET_F_GUEST_TSO4_BIT,
  VIRTIO_NET_F_HOST_TSO4_BIT,
} from '../../../src/devices/net/settings.js';
import { close } from '../../../src/platform/libc.js';
import { openTap } from '../../../src/platform/tap.js';
import { MIB, type Fd } from '../../../src/platform/units.js';
import {
  ETH_P_EXPERIMENT,
  numberedFrame,
  parseTcp,
  TCP_CSUM_OFFSET,
  TCP_CSUM_START,
  tcpFrame,
  TCP_HEADERS,
} from '../../support/frames.js';
import { describeNetwork } from '../../support/describe-network.js';
import { NetNamespace } from '../../support/net-namespace.js';
import { headerBytes, NetGuest, frameOf, type NetGuestOptions, type ReceivedFrame } from './net-guest.js';

const ANNE = Uint8Array.of(2, 0, 0, 0, 0, 1);
const BOB = Uint8Array.of(2, 0, 0, 0, 0, 2);
const SENDS_TSO = [VIRTIO_NET_F_CSUM_BIT, VIRTIO_NET_F_HOST_TSO4_BIT];
const LIMIT_MS = 20_000;

describeNetwork('two guests on a bridge', () => {
  let namespace: NetNamespace;
  let anne: NetGuest;
  let bob: NetGuest;
  const opened: Fd[] = [];

  beforeEach(async () => {
    namespace = await NetNamespace.create();
    namespace.ip('link add bridge0 type bridge mcast_snooping 0');
    namespace.ip('link set bridge0 up');
  });
  afterEach(async () => {
    anne[Symbol.dispose]();
    bob[Symbol.dispose]();
    for (const fd of opened.splice(0)) close(fd);
    await namespace[Symbol.asyncDispose]();
  });

  async function guest(name: string, queues: number, options: NetGuestOptions): Promise<NetGuest> {
    const tap = await namespace.enter(() => openTap(name, queues));
    opened.push(...tap.queues);
    namespace.ip(`link set ${name} master bridge0 mtu 1500 up`);
    return new NetGuest({ queueSize: 256, memorySize: 64 * MIB, ...options, tap: tap.queues });
  }

  /** Turns both loops until `done`. */
  function until(done: () => boolean): void {
    const deadline = performance.now() + LIMIT_MS;
    while (!done()) {
      if (performance.now() > deadline) throw new Error(`not within ${LIMIT_MS} ms`);
      anne.loop.turn(1);
      bob.loop.turn(1);
    }
  }

  const ethertype = ({ frame }: ReceivedFrame): number => frame.readUInt16BE(12);

  test('thousands of frames of all sizes arrive both ways, in order and unchanged', async () => {
    anne = await guest('anne', 1, {});
    bob = await guest('bob', 1, { merge: false });
    const count = 3000;
    const length = (number: number): number => 60 + ((number * 37) % 1455);
    const arrived = [0, 0];
    const ends = [
      { me: anne, mac: ANNE, peer: BOB, side: 0 },
      { me: bob, mac: BOB, peer: ANNE, side: 1 },
    ];
    // Freed again as a driver does: the same few buffers over and over.
    for (let sent = 0; sent < count; sent += 50) {
      for (const { me, mac, peer } of ends) {
        me.postRx(60 - (me.rx[0].size - me.rx[0].freeDescriptors), [1536]);
        for (let number = sent; number < sent + 50; number++) {
          me.send(numberedFrame(mac, peer, number, length(number)));
        }
      }
      until(() => {
        for (const { me, mac, peer, side } of ends) {
          me.tx[0].collect();
          for (const received of me.received()) {
            if (ethertype(received) !== ETH_P_EXPERIMENT) continue;
            const number = arrived[side]++;
            const expected = numberedFrame(peer, mac, number, length(number));
            if (!received.frame.equals(expected)) throw new Error(`frame ${number} is not what was sent`);
          }
        }
        return arrived.every((each) => each === sent + 50);
      });
    }
    expect(anne.counter('tx_frames')).toBe(count);
    expect(bob.counter('tx_dropped') + anne.counter('tx_dropped')).toBe(0);
  });

  /** Anne sends 60,000 bytes in one piece; what Bob gets of it. */
  function sendLarge(): { payload: Buffer; frames: ReceivedFrame[] } {
    const payload = frameOf(60_000);
    const header = headerBytes({
      flags: 1,
      gsoType: 1,
      gsoSize: 1448,
      hdrLen: TCP_HEADERS,
      csumStart: TCP_CSUM_START,
      csumOffset: TCP_CSUM_OFFSET,
    });
    bob.postRx(128, [1536]);
    anne.send(tcpFrame({ from: ANNE, to: BOB, sequence: 1000, payload }), header, [12, TCP_HEADERS, 4096, 4096]);
    const frames: ReceivedFrame[] = [];
    until(() => {
      frames.push(...bob.received().filter(({ frame }) => parseTcp(frame) !== undefined));
      return frames.reduce((bytes, { frame }) => bytes + frame.length - TCP_HEADERS, 0) >= payload.length;
    });
    expect(anne.counter('tx_dropped')).toBe(0);
    return { payload, frames };
  }

  test('a large segment arrives in one piece where the receiver can take it', async () => {
    anne = await guest('anne', 1, { features: SENDS_TSO });
    bob = await guest('bob', 1, { features: [VIRTIO_NET_F_GUEST_CSUM_BIT, VIRTIO_NET_F_GUEST_TSO4_BIT] });
    const { payload, frames } = sendLarge();
    expect(frames).toHaveLength(1);
    const [{ header, frame, buffers }] = frames;
    expect(buffers).toBe(Math.ceil((12 + TCP_HEADERS + payload.length) / 1536));
    // Its checksum is still to be made: 5.1.6.4.
    expect(header[0]).toBe(1);
    expect(header[1]).toBe(1);
    expect(header.readUInt16LE(4)).toBe(1448);
    expect(parseTcp(frame)?.payload.equals(payload)).toBe(true);
  });

  test('a large segment arrives cut, and with checksums, where the receiver cannot', async () => {
    anne = await guest('anne', 1, { features: SENDS_TSO });
    bob = await guest('bob', 1, { merge: false });
    const { payload, frames } = sendLarge();
    expect(frames).toHaveLength(Math.ceil(payload.length / 1448));
    let sequence = 1000;
    for (const { header, frame } of frames) {
      const segment = parseTcp(frame);
      expect(header.subarray(0, 10)).toEqual(Buffer.alloc(10));
      expect(segment).toMatchObject({ sequence, valid: true });
      sequence += segment?.payload.length ?? 0;
    }
    expect(Buffer.concat(frames.map(({ frame }) => parseTcp(frame)?.payload ?? Buffer.alloc(0))).equals(payload)).toBe(
      true,
    );
  });

  test('what the kernel finds wrong in a header costs that frame alone', async () => {
    anne = await guest('anne', 1, { features: SENDS_TSO });
    bob = await guest('bob', 1, {});
    bob.postRx(4);
    // More header than frame.
    anne.send(numberedFrame(ANNE, BOB, 1, 100), headerBytes({ gsoType: 1, gsoSize: 100, hdrLen: 2000 }));
    anne.send(numberedFrame(ANNE, BOB, 2, 100));
    const numbers: number[] = [];
    until(() => {
      for (const received of bob.received()) {
        if (ethertype(received) === ETH_P_EXPERIMENT) numbers.push(received.frame.readUInt32BE(14));
      }
      return numbers.length > 0;
    });
    expect(numbers).toEqual([2]);
    expect(anne.counter('tx_dropped')).toBe(1);
    expect(anne.logged.some((line) => line.includes('the tap refused a frame: EINVAL'))).toBe(true);
  });

  test('with two pairs the host spreads flows over both, and nothing is lost when one goes', async () => {
    anne = await guest('anne', 1, {});
    bob = await guest('bob', 2, {});
    expect(bob.command(4, 0, 2, 0)).toBe(0);
    const got = [0, 0];
    const round = (): void => {
      for (const pair of [0, 1]) bob.postRx(bob.rx[pair].freeDescriptors, [1536], pair);
      for (let flow = 0; flow < 64; flow++) {
        anne.send(
          tcpFrame({
            from: Uint8Array.of(2, 0, 0, 0, flow, 1),
            to: BOB,
            sequence: flow * 7919,
            payload: frameOf(100, flow),
          }),
        );
      }
      let count = 0;
      until(() => {
        for (const pair of [0, 1]) {
          const frames = bob.received(pair).filter(({ frame }) => parseTcp(frame) !== undefined);
          got[pair] += frames.length;
          count += frames.length;
        }
        return count === 64;
      });
      anne.tx[0].collect();
    };
    round();
    expect(bob.command(4, 0, 1, 0)).toBe(0);
    const before = got[1];
    round();
    expect(got[1]).toBe(before);
    expect(bob.command(4, 0, 2, 0)).toBe(0);
    round();
    expect(got[0] + got[1]).toBe(3 * 64);
  });

  test('an interface that is down refuses frames, which are dropped, until it is up again', async () => {
    anne = await guest('anne', 1, {});
    bob = await guest('bob', 1, {});
    bob.postRx(4);
    namespace.ip('link set anne down');
    anne.send(numberedFrame(ANNE, BOB, 0, 100));
    until(() => anne.tx[0].collect().length === 1);
    expect(anne.counter('tx_dropped')).toBe(1);
    namespace.ip('link set anne up');
    anne.send(numberedFrame(ANNE, BOB, 1, 100));
    until(() => bob.received().some((received) => ethertype(received) === ETH_P_EXPERIMENT));
    expect(anne.configWrites).toEqual([]);
  });

  test('a tap that is deleted under way takes the link down', async () => {
    anne = await guest('anne', 1, {});
    bob = await guest('bob', 1, {});
    bob.postRx(4);
    bob.turn();
    namespace.ip('link del bob');
    until(() => bob.configWrites.length > 0);
    bob.send(numberedFrame(BOB, ANNE, 0, 100));
    until(() => bob.tx[0].collect().length === 1);
    expect(bob.counter('tx_dropped')).toBe(1);
  });
});
