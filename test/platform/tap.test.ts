import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { EBUSY, EINVAL } from '../../src/platform/errno.js';
import { close } from '../../src/platform/libc.js';
import { formatMac, parseIpv4, parseMac, randomMac } from '../../src/platform/net-address.js';
import { NetInterface } from '../../src/platform/net-interface.js';
import {
  openTap,
  trySetOffload,
  trySetQueueAttached,
  TUN_F_CSUM,
  TUN_F_TSO4,
  type OpenTap,
} from '../../src/platform/tap.js';
import { describeNetwork } from '../support/describe-network.js';
import { NetNamespace } from '../support/net-namespace.js';

test('addresses are read as people write them', () => {
  expect(parseMac('52:54:00:aB:Cd:0f')).toEqual(Uint8Array.of(0x52, 0x54, 0, 0xab, 0xcd, 0x0f));
  expect(formatMac(Uint8Array.of(2, 0, 0, 0, 0, 0xff))).toBe('02:00:00:00:00:ff');
  for (const bad of ['', '52:54:00:ab:cd', '52:54:00:ab:cd:0f:11', '52-54-00-ab-cd-0f', '5:54:00:ab:cd:0f']) {
    expect(parseMac(bad)).toBeUndefined();
  }
  expect(parseIpv4('192.168.249.1')).toEqual(Uint8Array.of(192, 168, 249, 1));
  for (const bad of ['', '1.2.3', '1.2.3.256', '1.2.3.4.5', '01.2.3.4', '::1']) expect(parseIpv4(bad)).toBeUndefined();
});

test('a random address is of one station, and no vendor’s', () => {
  const seen = new Set<string>();
  for (let count = 0; count < 100; count++) {
    const mac = randomMac();
    expect(mac[0] & 3).toBe(2);
    seen.add(formatMac(mac));
  }
  expect(seen.size).toBe(100);
});

describeNetwork('taps', () => {
  let namespace: NetNamespace;
  beforeAll(async () => {
    namespace = await NetNamespace.create();
  });
  afterAll(async () => {
    await namespace[Symbol.asyncDispose]();
  });

  const links = (): string => namespace.ip('-o link');
  const withTap = async <T>(name: string | undefined, queues: number, body: (tap: OpenTap) => T): Promise<T> =>
    namespace.enter(() => {
      const tap = openTap(name, queues);
      try {
        return body(tap);
      } finally {
        tap.queues.forEach(close);
      }
    });
  const errnoOf = async (act: () => unknown): Promise<number> =>
    namespace.enter(() => {
      try {
        act();
      } catch (error) {
        return (error as { errno: number }).errno;
      }
      throw new Error('nothing was wrong');
    });

  test('without a name the kernel chooses one; the tap goes with its descriptor', async () => {
    const name = await withTap(undefined, 1, (tap) => {
      expect(tap.created).toBe(true);
      expect(links()).toContain(`${tap.name}:`);
      return tap.name;
    });
    expect(name).toMatch(/^tap\d+$/);
    expect(links()).not.toContain(name);
  });

  test('a tap that does not exist is created under its name, with a header before each frame', async () => {
    await withTap('guest0', 1, (tap) => {
      expect(tap).toMatchObject({ name: 'guest0', created: true });
      expect(namespace.ip('-d link show guest0')).toMatch(/tun type tap pi off vnet_hdr on/);
    });
    expect(links()).not.toContain('guest0');
  });

  test('one that exists is used and stays, whatever number of queues it was made for', async () => {
    namespace.ip('tuntap add dev kept mode tap');
    namespace.ip('tuntap add dev keptmq mode tap multi_queue');
    await withTap('kept', 1, (tap) => expect(tap.created).toBe(false));
    await withTap('keptmq', 1, (tap) => expect(tap.created).toBe(false));
    await withTap('keptmq', 2, ({ queues }) => expect(queues.length).toBe(2));
    expect(links()).toMatch(/kept:[^]*keptmq:/);
    namespace.ip('link del kept');
    namespace.ip('link del keptmq');
  });

  test('what is no tap, is taken, or has one queue, is an error that leaves nothing open', async () => {
    namespace.ip('link add bridge0 type bridge');
    expect(await errnoOf(() => openTap('bridge0', 1))).toBe(EINVAL);
    namespace.ip('link del bridge0');
    await withTap('single', 1, () => {
      try {
        openTap('single', 1);
      } catch (error) {
        expect(error).toMatchObject({ errno: EBUSY, path: 'single' });
        return;
      }
      throw new Error('it was opened twice');
    });
    namespace.ip('tuntap add dev onequeue mode tap');
    expect(await errnoOf(() => openTap('onequeue', 2))).toBe(EINVAL);
    // The first of the two was opened and has been closed.
    await withTap('onequeue', 1, () => undefined);
    namespace.ip('link del onequeue');
  });

  test('queues are detached and attached, and offloads set for all', async () => {
    await withTap('several', 3, ({ queues }) => {
      const count = (): string | undefined =>
        /numqueues (\d+) numdisabled (\d+)/.exec(namespace.ip('-d link show several'))?.[0];
      expect(count()).toBe('numqueues 3 numdisabled 0');
      expect(trySetQueueAttached(queues[2], false)).toBe(0);
      expect(count()).toBe('numqueues 2 numdisabled 1');
      expect(trySetQueueAttached(queues[2], false)).toBe(-EINVAL);
      expect(trySetQueueAttached(queues[2], true)).toBe(0);
      expect(count()).toBe('numqueues 3 numdisabled 0');
      expect(trySetOffload(queues[0], TUN_F_CSUM | TUN_F_TSO4)).toBe(0);
      // Segmentation without checksums makes no sense to the kernel either.
      expect(trySetOffload(queues[0], TUN_F_TSO4)).toBe(-EINVAL);
    });
  });

  test('an interface is given what differs, and asked what it has', async () => {
    await withTap('host0', 1, () => {
      using host = new NetInterface('host0');
      expect(host.exists()).toBe(true);
      expect(host.address).toBeUndefined();
      expect(host.isUp).toBe(false);
      host.setMac(Uint8Array.of(2, 1, 2, 3, 4, 5));
      host.setMtu(9000);
      host.setAddress(Uint8Array.of(10, 9, 8, 1), Uint8Array.of(255, 255, 255, 128));
      host.bringUp();
      const shown = namespace.ip('address show host0');
      expect(shown).toMatch(/mtu 9000/);
      expect(shown).toMatch(/link\/ether 02:01:02:03:04:05/);
      expect(shown).toMatch(/inet 10\.9\.8\.1\/25/);
      expect(shown).toMatch(/UP/);
      expect(host.mtu).toBe(9000);
      expect(formatMac(host.mac)).toBe('02:01:02:03:04:05');
      expect(host.address).toEqual(Uint8Array.of(10, 9, 8, 1));
      expect(host.netmask).toEqual(Uint8Array.of(255, 255, 255, 128));
      expect(() => {
        host.setMtu(70_000);
      }).toThrow('ioctl SIOCSIFMTU host0: EINVAL');
    });
    await namespace.enter(() => {
      using gone = new NetInterface('host0');
      expect(gone.exists()).toBe(false);
      expect(() => gone.mtu).toThrow('ENODEV');
    });
  });
});
