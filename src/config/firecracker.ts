// Reads the configuration file of Firecracker (its --config-file) and makes of it a configuration of this monitor. What
// has no counterpart here is left out with a note; what is not of that shape is refused.
//
// Shape: Firecracker's VmmConfig (src/vmm/src/resources.rs) and the API's bodies that it is made of. Left out of the
// shape: nothing that a configuration file may hold.

import { z } from 'zod';
import { MIB } from '../platform/units.js';
import { inFile } from './assembly.js';
import { ConfigError } from './config-error.js';
import { shapeError } from './shape-error.js';
import type { DiskConfig, NetConfig, PmemConfig, RateLimiterConfig, VmConfigInput } from './vm-config.js';
import { withoutAbsent } from './without-absent.js';

const tokenBucket = z.strictObject({
  size: z.number(),
  one_time_burst: z.number().exactOptional(),
  refill_time: z.number(),
});

const rateLimiter = z.strictObject({ bandwidth: tokenBucket.exactOptional(), ops: tokenBucket.exactOptional() });

const drive = z.strictObject({
  drive_id: z.string(),
  path_on_host: z.string().exactOptional(),
  is_root_device: z.boolean(),
  partuuid: z.string().exactOptional(),
  is_read_only: z.boolean().exactOptional(),
  cache_type: z.enum(['Unsafe', 'Writeback']).exactOptional(),
  io_engine: z.enum(['Sync', 'Async']).exactOptional(),
  rate_limiter: rateLimiter.exactOptional(),
  socket: z.string().exactOptional(),
});

const networkInterface = z.strictObject({
  iface_id: z.string(),
  host_dev_name: z.string(),
  guest_mac: z.string().exactOptional(),
  mtu: z.number().exactOptional(),
  rx_rate_limiter: rateLimiter.exactOptional(),
  tx_rate_limiter: rateLimiter.exactOptional(),
});

const firecrackerSchema = z.strictObject({
  'boot-source': z.strictObject({
    kernel_image_path: z.string(),
    initrd_path: z.string().exactOptional(),
    boot_args: z.string().exactOptional(),
  }),
  drives: z.array(drive).default([]),
  'machine-config': z
    .strictObject({
      vcpu_count: z.number(),
      mem_size_mib: z.number(),
      smt: z.boolean().exactOptional(),
      cpu_template: z.string().exactOptional(),
      track_dirty_pages: z.boolean().exactOptional(),
      huge_pages: z.enum(['None', '2M']).exactOptional(),
    })
    // Firecracker's own.
    .default({ vcpu_count: 1, mem_size_mib: 128 }),
  'network-interfaces': z.array(networkInterface).default([]),
  vsock: z
    .strictObject({ guest_cid: z.number(), uds_path: z.string(), vsock_id: z.string().exactOptional() })
    .exactOptional(),
  balloon: z
    .strictObject({
      amount_mib: z.number(),
      deflate_on_oom: z.boolean(),
      stats_polling_interval_s: z.number().exactOptional(),
      free_page_hinting: z.boolean().exactOptional(),
      free_page_reporting: z.boolean().exactOptional(),
    })
    .exactOptional(),
  pmem: z
    .array(
      z.strictObject({
        id: z.string(),
        path_on_host: z.string(),
        root_device: z.boolean().exactOptional(),
        read_only: z.boolean().exactOptional(),
        rate_limiter: z.unknown().exactOptional(),
      }),
    )
    .default([]),
  entropy: z.strictObject({ rate_limiter: rateLimiter.exactOptional() }).exactOptional(),
  serial: z
    .strictObject({ serial_out_path: z.string().exactOptional(), rate_limiter: z.unknown().exactOptional() })
    .exactOptional(),
  'cpu-config': z.unknown().exactOptional(),
  logger: z.unknown().exactOptional(),
  metrics: z.unknown().exactOptional(),
  'mmds-config': z.unknown().exactOptional(),
  'memory-hotplug': z.unknown().exactOptional(),
});

type FirecrackerConfig = z.infer<typeof firecrackerSchema>;

/** What src/boot gives a kernel that nobody gave a command line. */
export const DEFAULT_CMDLINE = 'console=ttyS0 reboot=k panic=-1';

export interface ConvertedConfig {
  readonly config: VmConfigInput;
  /** What was left out or is not quite the same, a line each. */
  readonly notes: readonly string[];
}

/** Makes a configuration of Firecracker's in `input`, which is from `file`. Throws ConfigError. */
export function convertFirecrackerConfig(input: unknown, file: string): ConvertedConfig {
  const given = withoutAbsent(input);
  const result = firecrackerSchema.safeParse(given);
  if (!result.success) throw shapeError(given, result.error, firecrackerSchema, inFile(file));
  return new Conversion(result.data, file).run();
}

/** Sections that are about Firecracker's process or about what does not exist here, each with what to do instead. */
const LEFT_OUT: readonly (readonly [section: keyof FirecrackerConfig, note: string])[] = [
  ['cpu-config', 'the guest gets the CPU model of the host'],
  ['logger', 'use --log-file and -v'],
  ['metrics', 'there is no file of metrics; the library has counters'],
  ['mmds-config', 'there is no metadata service; pass data on the command line or over vsock'],
  ['memory-hotplug', 'give the guest all its memory at start'],
];

class Conversion {
  private readonly source: FirecrackerConfig;
  private readonly file: string;
  private readonly notes: string[] = [];

  constructor(source: FirecrackerConfig, file: string) {
    this.source = source;
    this.file = file;
  }

  run(): ConvertedConfig {
    const { source } = this;
    const { vsock, balloon, entropy, serial } = source;
    for (const [section, note] of LEFT_OUT) if (source[section] !== undefined) this.note(section, `left out: ${note}`);
    const disks = this.disks();
    const net = source['network-interfaces'].map((card, index) => this.card(card, index));
    const pmem = source.pmem.map((device, index) => this.pmem(device, index));
    const config: VmConfigInput = {
      cpus: this.cpus(),
      memory: this.memory(),
      payload: this.payload(),
      ...(disks.length > 0 && { disks }),
      ...(net.length > 0 && { net }),
      ...(pmem.length > 0 && { pmem }),
      ...(vsock !== undefined && { vsock: { cid: vsock.guest_cid, socket: vsock.uds_path } }),
      ...(entropy !== undefined && { rng: { src: '/dev/urandom' } }),
      ...(balloon !== undefined && { balloon: this.balloon(balloon) }),
      ...(serial?.serial_out_path !== undefined && {
        serial: { mode: 'File' as const, file: serial.serial_out_path },
      }),
      // Firecracker ends when its guest reboots.
      no_reboot: true,
    };
    if (entropy?.rate_limiter !== undefined) this.note('entropy.rate_limiter', 'left out: rng has no rate limit');
    if (serial?.rate_limiter !== undefined) this.note('serial.rate_limiter', 'left out: the port has no rate limit');
    return { config, notes: this.notes };
  }

  private note(field: string, text: string): void {
    this.notes.push(`${this.file}: ${field}: ${text}`);
  }

  private cpus(): VmConfigInput['cpus'] & object {
    const { vcpu_count: count, smt, cpu_template } = this.source['machine-config'];
    if (cpu_template !== undefined && cpu_template !== 'None') {
      this.note('machine-config.cpu_template', 'left out: the guest gets the CPU model of the host');
    }
    const topology = { threads_per_core: 2, cores_per_die: count / 2, dies_per_package: 1, packages: 1 };
    return { boot_vcpus: count, max_vcpus: count, ...(smt === true && count % 2 === 0 && { topology }) };
  }

  private memory(): VmConfigInput['memory'] & object {
    const { mem_size_mib, huge_pages } = this.source['machine-config'];
    const size = mem_size_mib * MIB;
    return { size, ...(huge_pages === '2M' && { hugepages: true, hugepage_size: 2 * MIB }) };
  }

  /** Firecracker tells the kernel of its root device by itself. */
  private payload(): VmConfigInput['payload'] & object {
    const { kernel_image_path: kernel, initrd_path: initramfs, boot_args } = this.source['boot-source'];
    if (boot_args === undefined) {
      this.note('boot-source.boot_args', "missing: the command line is tsvmm's, with a console on the serial port");
    }
    const cmdline = [boot_args ?? DEFAULT_CMDLINE, ...this.rootArguments()].join(' ');
    return { kernel, ...(initramfs !== undefined && { initramfs }), cmdline };
  }

  private rootArguments(): string[] {
    const drive = this.source.drives.find(({ is_root_device }) => is_root_device);
    if (drive !== undefined) {
      const device = drive.partuuid === undefined ? '/dev/vda' : `PARTUUID=${drive.partuuid}`;
      return [`root=${device}`, drive.is_read_only === true ? 'ro' : 'rw'];
    }
    const index = this.source.pmem.findIndex(({ root_device }) => root_device === true);
    if (index < 0) return [];
    return [`root=/dev/pmem${index}`, this.source.pmem[index]?.read_only === true ? 'ro' : 'rw'];
  }

  /** The root device is the first, wherever it stands in the file. */
  private disks(): DiskConfig[] {
    const numbered = this.source.drives.map((drive, index) => ({ drive, index }));
    const roots = numbered.filter(({ drive }) => drive.is_root_device);
    const second = roots.at(1);
    if (second !== undefined) {
      throw new ConfigError(
        { ...inFile(this.file)(`drives[${second.index}].is_root_device`), value: true },
        { code: 'DUPLICATE', problem: 'there are two root devices', mend: 'Choose one.' },
      );
    }
    const others = numbered.filter(({ drive }) => !drive.is_root_device);
    return [...roots, ...others].map(({ drive, index }) => this.disk(drive, index));
  }

  private disk(drive: FirecrackerConfig['drives'][number], index: number): DiskConfig {
    const field = `drives[${index}]`;
    const { drive_id: id, path_on_host: path, is_read_only, rate_limiter } = drive;
    if (path === undefined) {
      throw new ConfigError(
        { ...inFile(this.file)(`${field}.path_on_host`), value: undefined },
        {
          code: 'NOT_SUPPORTED',
          problem: 'the drive is in another process (vhost-user), which is not supported by tsvmm',
          mend: 'Name an image.',
        },
      );
    }
    if (drive.cache_type === 'Unsafe') {
      this.note(`${field}.cache_type`, 'Unsafe is left out: what the guest flushes is written to the image');
    }
    return {
      path,
      id,
      // Firecracker does not look into images.
      image_type: 'Raw',
      ...(is_read_only === true && { readonly: true }),
      ...limit(rate_limiter),
    };
  }

  private card(card: FirecrackerConfig['network-interfaces'][number], index: number): NetConfig {
    const { iface_id: id, host_dev_name: tap, guest_mac: mac, mtu, rx_rate_limiter, tx_rate_limiter } = card;
    const [rx, tx] = [rx_rate_limiter, tx_rate_limiter].map((limiter) => JSON.stringify(limiter ?? {}));
    if (rx !== tx) {
      const which = rx_rate_limiter === undefined ? 'tx_rate_limiter' : 'rx_rate_limiter';
      this.note(`network-interfaces[${index}]`, `both directions have the same rate limit: ${which} is taken`);
    }
    return {
      tap,
      id,
      ...(mac !== undefined && { mac }),
      ...(mtu !== undefined && { mtu }),
      ...limit(rx_rate_limiter ?? tx_rate_limiter),
    };
  }

  private pmem(device: FirecrackerConfig['pmem'][number], index: number): PmemConfig {
    const { id, path_on_host: file, read_only, rate_limiter } = device;
    if (rate_limiter !== undefined) this.note(`pmem[${index}].rate_limiter`, 'left out: pmem has no rate limit');
    if (read_only === true) {
      this.note(`pmem[${index}].read_only`, 'the guest may write, but nothing of it gets to the file (discard_writes)');
    }
    return { file, id, ...(read_only === true && { discard_writes: true }) };
  }

  private balloon(balloon: FirecrackerConfig['balloon'] & object): VmConfigInput['balloon'] & object {
    const { amount_mib, deflate_on_oom, free_page_reporting, free_page_hinting } = balloon;
    if (free_page_hinting === true) {
      this.note('balloon.free_page_hinting', 'left out: use free_page_reporting');
    }
    return {
      size: amount_mib * MIB,
      deflate_on_oom,
      ...(free_page_reporting !== undefined && { free_page_reporting }),
    };
  }
}

/** A bucket of size or time zero is no limit to Firecracker. */
function limit(limiter: z.infer<typeof rateLimiter> | undefined): { rate_limiter_config?: RateLimiterConfig } {
  const buckets = Object.entries(limiter ?? {}).filter(([, { size, refill_time }]) => size > 0 && refill_time > 0);
  return buckets.length === 0 ? {} : { rate_limiter_config: Object.fromEntries(buckets) };
}
