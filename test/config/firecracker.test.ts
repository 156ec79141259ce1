// Firecracker's configuration files, converted.

import { describe, expect, test } from '@jest/globals';
import { DEFAULT_LINUX_CMDLINE } from '../../src/boot/command-line.js';
import { ConfigError } from '../../src/config/config-error.js';
import { convertFirecrackerConfig, DEFAULT_CMDLINE } from '../../src/config/firecracker.js';
import { vmConfigSchema } from '../../src/config/schema.js';

const MIB = 1024 ** 2;

const BOOT = { kernel_image_path: 'vmlinux', boot_args: 'console=ttyS0 reboot=k panic=1 pci=off' };

function convert(input: unknown): ReturnType<typeof convertFirecrackerConfig> {
  const converted = convertFirecrackerConfig(input, 'fc.json');
  // What comes out has the shape of a configuration.
  expect(vmConfigSchema.safeParse(converted.config).error).toBeUndefined();
  return converted;
}

describe("Firecracker's configuration", () => {
  test('in its shortest form', () => {
    expect(convert({ 'boot-source': BOOT, drives: [] })).toEqual({
      config: {
        cpus: { boot_vcpus: 1, max_vcpus: 1 },
        memory: { size: 128 * MIB },
        payload: { kernel: 'vmlinux', cmdline: BOOT.boot_args },
        no_reboot: true,
      },
      notes: [],
    });
  });

  test('with everything', () => {
    const limiter = { bandwidth: { size: 1000, one_time_burst: 5, refill_time: 100 }, ops: null };
    const { config, notes } = convert({
      'boot-source': { ...BOOT, initrd_path: null },
      drives: [
        { drive_id: 'data', path_on_host: 'data.img', is_root_device: false, is_read_only: true, cache_type: 'Unsafe' },
        { drive_id: 'rootfs', path_on_host: 'root.ext4', is_root_device: true, partuuid: null, rate_limiter: limiter },
      ],
      'machine-config': { vcpu_count: 4, mem_size_mib: 1024, smt: true, huge_pages: '2M', track_dirty_pages: false },
      'cpu-config': null,
      'network-interfaces': [
        { iface_id: 'eth0', guest_mac: '06:00:AC:10:00:02', host_dev_name: 'tap0', rx_rate_limiter: limiter },
      ],
      vsock: { guest_cid: 3, uds_path: './v.sock' },
      balloon: { amount_mib: 64, deflate_on_oom: true, stats_polling_interval_s: 1 },
      pmem: [{ id: 'p', path_on_host: 'p.img', read_only: true }],
      entropy: { rate_limiter: null },
      serial: { serial_out_path: 'out.log' },
      logger: { log_path: 'fc.log' },
      metrics: null,
      'mmds-config': { network_interfaces: ['eth0'] },
    });
    const bandwidth = { size: 1000, one_time_burst: 5, refill_time: 100 };
    expect(config).toEqual({
      cpus: {
        boot_vcpus: 4,
        max_vcpus: 4,
        topology: { threads_per_core: 2, cores_per_die: 2, dies_per_package: 1, packages: 1 },
      },
      memory: { size: 1024 * MIB, hugepages: true, hugepage_size: 2 * MIB },
      payload: { kernel: 'vmlinux', cmdline: `${BOOT.boot_args} root=/dev/vda rw` },
      disks: [
        { path: 'root.ext4', id: 'rootfs', image_type: 'Raw', rate_limiter_config: { bandwidth } },
        { path: 'data.img', id: 'data', image_type: 'Raw', readonly: true },
      ],
      net: [{ tap: 'tap0', id: 'eth0', mac: '06:00:AC:10:00:02', rate_limiter_config: { bandwidth } }],
      pmem: [{ file: 'p.img', id: 'p', discard_writes: true }],
      vsock: { cid: 3, socket: './v.sock' },
      balloon: { size: 64 * MIB, deflate_on_oom: true },
      rng: { src: '/dev/urandom' },
      serial: { mode: 'File', file: 'out.log' },
      no_reboot: true,
    });
    expect(notes).toEqual([
      'fc.json: logger: left out: use --log-file and -v',
      expect.stringContaining('fc.json: mmds-config: left out: there is no metadata service'),
      expect.stringContaining('fc.json: drives[0].cache_type: Unsafe is left out'),
      expect.stringContaining('fc.json: network-interfaces[0]: both directions have the same rate limit'),
      expect.stringContaining('fc.json: pmem[0].read_only: the guest may write'),
    ]);
  });

  test('a root device by its partition, or in persistent memory', () => {
    const drive = {
      drive_id: 'r',
      path_on_host: 'r',
      is_root_device: true,
      partuuid: '0eaa91a0-01',
      is_read_only: true,
    };
    const byPartition = convert({ 'boot-source': BOOT, drives: [drive] });
    expect(byPartition.config.payload?.cmdline).toBe(`${BOOT.boot_args} root=PARTUUID=0eaa91a0-01 ro`);
    const pmem = [
      { id: 'a', path_on_host: 'a' },
      { id: 'b', path_on_host: 'b', root_device: true },
    ];
    expect(convert({ 'boot-source': BOOT, pmem }).config.payload?.cmdline).toBe(`${BOOT.boot_args} root=/dev/pmem1 rw`);
  });

  test('without a command line, it is that of every kernel here', () => {
    expect(DEFAULT_CMDLINE).toBe(DEFAULT_LINUX_CMDLINE);
    const { config, notes } = convert({ 'boot-source': { kernel_image_path: 'k' } });
    expect(config.payload).toEqual({ kernel: 'k', cmdline: DEFAULT_LINUX_CMDLINE });
    expect(notes).toEqual([expect.stringContaining('fc.json: boot-source.boot_args: missing')]);
  });

  test('a limit of zero is none, as in Firecracker', () => {
    const rate_limiter = { bandwidth: { size: 0, refill_time: 0 }, ops: { size: 5, refill_time: 10 } };
    const drives = [{ drive_id: 'd', path_on_host: 'd', is_root_device: false, rate_limiter }];
    expect(convert({ 'boot-source': BOOT, drives }).config.disks?.[0]?.rate_limiter_config).toEqual({
      ops: { size: 5, refill_time: 10 },
    });
  });

  test.each<[input: unknown, message: string]>([
    [{}, 'fc.json: boot-source: missing. Give an object.'],
    [{ 'boot-source': { kernel_image_pth: 'k' } }, 'fc.json: boot-source.kernel_image_path: missing'],
    [{ 'boot-source': BOOT, drivse: [] }, 'fc.json: drivse: no such key. Did you mean drives?'],
    [{ 'boot-source': BOOT, drives: [{ drive_id: 5 }] }, 'fc.json: drives[0].drive_id: 5 is not a string'],
    [
      { 'boot-source': BOOT, drives: [{ drive_id: 'v', is_root_device: false, socket: '/s' }] },
      'fc.json: drives[0].path_on_host: the drive is in another process',
    ],
    [
      {
        'boot-source': BOOT,
        drives: ['a', 'b'].map((drive_id) => ({ drive_id, path_on_host: drive_id, is_root_device: true })),
      },
      'fc.json: drives[1].is_root_device: there are two root devices. Choose one.',
    ],
    [[], 'fc.json: config: [] is not an object'],
  ])('%j is refused', (input, message) => {
    expect(() => convertFirecrackerConfig(input, 'fc.json')).toThrow(ConfigError);
    expect(() => convertFirecrackerConfig(input, 'fc.json')).toThrow(message);
  });
});
