// The schema of a configuration that comes from outside the type checker: library users in JavaScript, API bodies.
// It judges shape and types and fills in defaults; what the values may be is for the rules (rules/) to say.

import { z } from 'zod';
import { DEFAULT_RNG_SOURCE, DEFAULT_VM_CONFIG, defaultSerial, type VmConfig } from './vm-config.js';

const defaults = DEFAULT_VM_CONFIG;

const topology = z.strictObject({
  threads_per_core: z.number(),
  cores_per_die: z.number(),
  dies_per_package: z.number(),
  packages: z.number(),
});

const cpus = z
  .strictObject({
    boot_vcpus: z.number().default(defaults.cpus.boot_vcpus),
    max_vcpus: z.number().exactOptional(),
    topology: topology.exactOptional(),
    affinity: z.array(z.strictObject({ vcpu: z.number(), host_cpus: z.array(z.number()) })).exactOptional(),
    features: z.strictObject({ amx: z.boolean().default(false) }).exactOptional(),
  })
  // As in Cloud Hypervisor, more vCPUs at start mean at least as many at most.
  .transform(({ boot_vcpus, max_vcpus = boot_vcpus, ...rest }) => ({ boot_vcpus, max_vcpus, ...rest }));

const memory = z.strictObject({
  size: z.number().default(defaults.memory.size),
  mergeable: z.boolean().exactOptional(),
  shared: z.boolean().exactOptional(),
  hugepages: z.boolean().exactOptional(),
  hugepage_size: z.number().exactOptional(),
  prefault: z.boolean().exactOptional(),
  thp: z.boolean().exactOptional(),
});

const payload = z.strictObject({
  kernel: z.string().exactOptional(),
  initramfs: z.string().exactOptional(),
  cmdline: z.string().exactOptional(),
});

const console = z.strictObject({
  mode: z.enum(['Tty', 'Null', 'Off', 'File', 'Pty', 'Socket']),
  file: z.string().exactOptional(),
  socket: z.string().exactOptional(),
});

const debugConsole = z.strictObject({
  mode: z.enum(['Tty', 'Null', 'Off', 'File', 'Pty']),
  file: z.string().exactOptional(),
  iobase: z.number().exactOptional(),
});

const tokenBucket = z.strictObject({
  size: z.number(),
  one_time_burst: z.number().exactOptional(),
  refill_time: z.number(),
});

const rateLimiter = z.strictObject({ bandwidth: tokenBucket.exactOptional(), ops: tokenBucket.exactOptional() });

const disk = z.strictObject({
  path: z.string(),
  readonly: z.boolean().exactOptional(),
  direct: z.boolean().exactOptional(),
  num_queues: z.number().exactOptional(),
  queue_size: z.number().exactOptional(),
  rate_limiter_config: rateLimiter.exactOptional(),
  id: z.string().exactOptional(),
  serial: z.string().exactOptional(),
  image_type: z.enum(['Raw', 'Qcow2']).exactOptional(),
  backing_files: z.boolean().exactOptional(),
});

const net = z.strictObject({
  tap: z.string().exactOptional(),
  ip: z.string().exactOptional(),
  mask: z.string().exactOptional(),
  mac: z.string().exactOptional(),
  host_mac: z.string().exactOptional(),
  mtu: z.number().exactOptional(),
  num_queues: z.number().exactOptional(),
  queue_size: z.number().exactOptional(),
  id: z.string().exactOptional(),
  offload_tso: z.boolean().exactOptional(),
  offload_ufo: z.boolean().exactOptional(),
  offload_csum: z.boolean().exactOptional(),
  rate_limiter_config: rateLimiter.exactOptional(),
});

const pmem = z.strictObject({
  file: z.string(),
  size: z.number().exactOptional(),
  discard_writes: z.boolean().exactOptional(),
  id: z.string().exactOptional(),
});

const balloon = z.strictObject({
  size: z.number(),
  deflate_on_oom: z.boolean().exactOptional(),
  free_page_reporting: z.boolean().exactOptional(),
});

const vsockPeer = z.strictObject({ cid: z.number(), socket: z.string() });

const vsock = z.strictObject({
  cid: z.number(),
  socket: z.string().exactOptional(),
  peers: z.array(vsockPeer).exactOptional(),
  max_connections: z.number().exactOptional(),
  buf_alloc: z.number().exactOptional(),
  poll_us: z.number().exactOptional(),
  connect_timeout_ms: z.number().exactOptional(),
});

const publish = z.strictObject({
  host: z.string().describe('Address of the host to listen at (127.0.0.1)').exactOptional(),
  host_port: z.number().describe('TCP port of the host; 0 for one that is free'),
  guest_port: z.number().describe('TCP port at 127.0.0.1 in the guest, reached by its agent').exactOptional(),
  vsock_port: z.number().describe('vsock port of the guest, in the place of guest_port').exactOptional(),
});

const hostService = z.strictObject({ name: z.string(), port: z.number().exactOptional(), to: z.string() });

const machine = z.strictObject({
  cpus: cpus.prefault({}),
  memory: memory.prefault({}),
  payload: payload.prefault({}),
  serial: console.exactOptional(),
  console: console.default(defaults.console),
  vsock: vsock.exactOptional(),
  disks: z.array(disk).exactOptional(),
  net: z.array(net).exactOptional(),
  pmem: z.array(pmem).exactOptional(),
  rng: z.strictObject({ src: z.string().default(DEFAULT_RNG_SOURCE) }).exactOptional(),
  balloon: balloon.exactOptional(),
  debug_console: debugConsole.exactOptional(),
  watchdog: z.boolean().exactOptional(),
  pvpanic: z.boolean().exactOptional(),
  io_threads: z.number().exactOptional(),
  no_reboot: z.boolean().exactOptional(),
  publish: z.array(publish).exactOptional(),
  host_services: z.array(hostService).exactOptional(),
});

export const vmConfigSchema = machine.transform(({ serial, ...rest }) => ({
  ...rest,
  serial: serial ?? defaultSerial(rest.console),
})) satisfies z.ZodType<VmConfig>;

/** The keys that the object at `path` may have, for suggesting the right one. Elements of arrays are all alike. */
export function keysAt(path: readonly PropertyKey[], schema: unknown = vmConfigSchema): string[] {
  const inner = path.reduce<unknown>(stepInto, schema);
  return Object.keys(shapeOf(inner));
}

function stepInto(schema: unknown, key: PropertyKey): unknown {
  const inner = plain(schema);
  return inner instanceof z.ZodArray ? inner.element : shapeOf(inner)[String(key)];
}

/**
 * The path of every field that is not itself an object: `memory.size`, `disks[].path`. `[]` stands for the index where
 * objects are in an array.
 */
export function fieldPaths(schema: unknown = vmConfigSchema, prefix = ''): string[] {
  const inner = plain(schema);
  if (inner instanceof z.ZodArray && plain(inner.element) instanceof z.ZodObject) {
    return fieldPaths(inner.element, `${prefix}[]`);
  }
  if (!(inner instanceof z.ZodObject)) return [prefix];
  return Object.entries(shapeOf(inner)).flatMap(([key, field]) =>
    fieldPaths(field, prefix === '' ? key : `${prefix}.${key}`),
  );
}

function shapeOf(schema: unknown): Readonly<Record<string, unknown>> {
  const inner = plain(schema);
  return inner instanceof z.ZodObject ? inner.shape : {};
}

/** A schema without its defaults and transformations. */
function plain(schema: unknown): unknown {
  if (schema instanceof z.ZodPipe) return plain(schema.in);
  if (schema instanceof z.ZodPrefault || schema instanceof z.ZodDefault || schema instanceof z.ZodExactOptional) {
    return plain(schema.unwrap());
  }
  return schema;
}
