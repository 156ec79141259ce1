import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { NetConfig } from '../../src/config/vm-config.js';
import {
  VIRTIO_NET_F_CSUM_BIT,
  VIRTIO_NET_F_GUEST_TSO4_BIT,
  VIRTIO_NET_F_HOST_TSO4_BIT,
  VIRTIO_NET_F_HOST_UFO_BIT,
  VIRTIO_NET_F_MQ_BIT,
} from '../../src/devices/net/settings.js';
import { hasFeature } from '../../src/devices/virtio/device.js';
import { attachNet } from '../../src/vmm/attach/net.js';
import { ReleaseStack } from '../../src/vmm/release-stack.js';
import { describeNetwork } from '../support/describe-network.js';
import { NetNamespace } from '../support/net-namespace.js';

describeNetwork('--net', () => {
  let namespace: NetNamespace;
  beforeAll(async () => {
    namespace = await NetNamespace.create();
  });
  afterAll(async () => {
    await namespace[Symbol.asyncDispose]();
  });

  type Attached = ReturnType<typeof attachNet>;

  /** Attaches a device for as long as `look` runs. */
  async function attach<T>(config: NetConfig, look: (device: Attached) => T, index = 0): Promise<T> {
    return namespace.enter(() => {
      const resources = new ReleaseStack();
      try {
        return look(attachNet(config, index, { resources, log: () => undefined }));
      } finally {
        resources.releaseAll();
      }
    });
  }

  const refusal = async (config: NetConfig): Promise<Error> => {
    try {
      await attach(config, () => undefined);
    } catch (error) {
      return error as Error;
    }
    throw new Error('it was not refused');
  };

  const macOf = ({ identity }: Attached): string => Buffer.from(identity.config.subarray(0, 6)).toString('hex');

  test('with nothing said: a tap of the kernel’s choice, up and without an address, and a random MAC', async () => {
    const macs = new Set<string>();
    for (let index = 0; index < 2; index++) {
      await attach(
        {},
        (device) => {
          expect(device.id).toBe(`_net${index}`);
          expect(device.identity.queueSizes).toEqual([256, 256, 64]);
          macs.add(macOf(device));
          expect(parseInt(macOf(device).slice(0, 2), 16) & 3).toBe(2);
          const shown = namespace.ip('address show dev tap0');
          expect(shown).toMatch(/<[^>]*\bUP\b/);
          expect(shown).not.toMatch(/inet/);
        },
        index,
      );
    }
    expect(macs.size).toBe(2);
    expect(namespace.ip('-o link')).not.toContain('tap0');
  });

  test('what is given is what the tap has, and what the guest is told', async () => {
    const config: NetConfig = {
      tap: 'guest0',
      ip: '10.1.2.1',
      mask: '255.255.255.128',
      mac: '52:54:00:12:34:56',
      host_mac: '52:54:00:12:34:57',
      mtu: 4000,
      num_queues: 4,
      queue_size: 512,
      id: 'lan',
    };
    await attach(config, (device) => {
      const shown = namespace.ip('address show dev guest0');
      expect(shown).toMatch(/mtu 4000/);
      expect(shown).toMatch(/link\/ether 52:54:00:12:34:57/);
      expect(shown).toMatch(/inet 10\.1\.2\.1\/25/);
      expect(device.id).toBe('lan');
      expect(device.settings.queues).toHaveLength(2);
      expect(device.identity.queueSizes).toEqual([512, 512, 512, 512, 64]);
      expect(hasFeature(device.identity.features, VIRTIO_NET_F_MQ_BIT)).toBe(true);
      // mac, status (link up), pairs, MTU
      expect(Buffer.from(device.identity.config).toString('hex')).toBe('525400123456' + '0100' + '0200' + 'a00f');
    });
  });

  test('a tap that exists keeps what is not given, and its MTU is the guest’s', async () => {
    namespace.ip('tuntap add dev kept mode tap');
    namespace.ip('link set kept mtu 2000 up');
    namespace.ip('address add 10.7.0.1/16 dev kept');
    await attach({ tap: 'kept' }, ({ identity }) => {
      expect(Buffer.from(identity.config).readUInt16LE(10)).toBe(2000);
    });
    expect(namespace.ip('address show dev kept')).toMatch(/mtu 2000[^]*inet 10\.7\.0\.1\/16/);
    namespace.ip('link del kept');
  });

  test('offloads that are switched off are not offered, nor those that need them', async () => {
    const offered = async (config: NetConfig): Promise<boolean[]> =>
      attach(config, ({ identity: { features } }) =>
        [VIRTIO_NET_F_CSUM_BIT, VIRTIO_NET_F_HOST_TSO4_BIT, VIRTIO_NET_F_GUEST_TSO4_BIT, VIRTIO_NET_F_HOST_UFO_BIT].map(
          (bit) => hasFeature(features, bit),
        ),
      );
    expect(await offered({})).toEqual([true, true, true, true]);
    expect(await offered({ offload_tso: false })).toEqual([true, false, false, true]);
    expect(await offered({ offload_ufo: false })).toEqual([true, true, true, false]);
    expect(await offered({ offload_csum: false })).toEqual([false, false, false, false]);
  });

  test('an interface that is no tap is refused by name', async () => {
    namespace.ip('link add bridge0 type bridge');
    expect((await refusal({ tap: 'bridge0' })).message).toMatch(
      /^--net tap=bridge0 is an interface, but not a tap; name a/,
    );
    expect((await refusal({ tap: 'bridge0', num_queues: 4 })).message).toMatch(/not a tap/);
    namespace.ip('link del bridge0');
  });

  test('a tap that another has is refused', async () => {
    await attach({ tap: 'taken' }, () => {
      const resources = new ReleaseStack();
      expect(() => attachNet({ tap: 'taken' }, 1, { resources, log: () => undefined })).toThrow(
        /^--net tap=taken is in use; give each/,
      );
      resources.releaseAll();
    });
  });

  test('a tap with one queue is refused for more, and says how to make another', async () => {
    namespace.ip('tuntap add dev single mode tap');
    expect((await refusal({ tap: 'single', num_queues: 6 })).message).toBe(
      '--net tap=single has one queue, and num_queues=6 needs 3; make the tap with `ip tuntap add ... multi_queue`, or leave num_queues out',
    );
    // Nothing was left open.
    await attach({ tap: 'single' }, () => undefined);
    namespace.ip('link del single');
  });

  test('what the kernel refuses is named by its option', async () => {
    expect((await refusal({ tap: 'big', mtu: 65_530 })).message).toMatch(
      /^--net mtu=65530 is refused by the kernel: .*EINVAL/,
    );
    expect(namespace.ip('-o link')).not.toContain('big');
  });

  test('a user without privilege is told what to do, and may use what was prepared', async () => {
    namespace.ip('tuntap add dev mine mode tap user 65534');
    namespace.ip('address add 10.8.0.1/24 dev mine');
    namespace.ip('link set mine mtu 1400 up');
    // Whether /dev/net/tun itself may be opened depends on the host.
    const denied = /^--net [^;]*may not[^;]*; (run as a user|make one as root: ip tuntap add dev \w+ mode tap user)/;
    const asNobody = async (config: NetConfig): Promise<string> =>
      namespace.enter(() => {
        const resources = new ReleaseStack();
        process.seteuid?.(65534);
        try {
          attachNet(config, 0, { resources, log: () => undefined });
          return 'attached';
        } catch (error) {
          return (error as Error).message;
        } finally {
          process.seteuid?.(0);
          resources.releaseAll();
        }
      });
    expect(await asNobody({})).toMatch(denied);
    expect(await asNobody({ tap: 'theirs', num_queues: 4 })).toMatch(denied);
    const prepared = await asNobody({ tap: 'mine', ip: '10.8.0.1', mtu: 1400 });
    if (!denied.test(prepared)) {
      expect(prepared).toBe('attached');
      expect(await asNobody({ tap: 'mine', mtu: 1401 })).toMatch(
        /^--net mtu=1401: this user may not change mine; do it beforehand as root: ip link set mine mtu 1401/,
      );
    }
    namespace.ip('link del mine');
  });
});
