// The schema of a configuration that comes from outside the type checker: library users in JavaScript, API bodies.
// It judges shape and types and fills in defaults; what the values may be is for the rules (rules/) to say.

import { z } from 'zod';
import { DEFAULT_VM_CONFIG, type VmConfig } from './vm-config.js';

const defaults = DEFAULT_VM_CONFIG;

const cpus = z
  .strictObject({ boot_vcpus: z.number().default(defaults.cpus.boot_vcpus), max_vcpus: z.number().exactOptional() })
  // As in Cloud Hypervisor, more vCPUs at start mean at least as many at most.
  .transform(({ boot_vcpus, max_vcpus = boot_vcpus }) => ({ boot_vcpus, max_vcpus }));

const memory = z.strictObject({ size: z.number().default(defaults.memory.size) });

const payload = z.strictObject({
  kernel: z.string().exactOptional(),
  initramfs: z.string().exactOptional(),
  cmdline: z.string().exactOptional(),
});

const serial = z.strictObject({ mode: z.enum(['Tty', 'Null', 'Off', 'File']), file: z.string().exactOptional() });

const console = z.strictObject({ mode: z.enum(['Off']) });

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

export const vmConfigSchema = z.strictObject({
  cpus: cpus.prefault({}),
  memory: memory.prefault({}),
  payload: payload.prefault({}),
  serial: serial.default(defaults.serial),
  console: console.default(defaults.console),
  vsock: vsock.exactOptional(),
}) satisfies z.ZodType<VmConfig>;

/** The keys that the object at `path` may have, for suggesting the right one. */
export function keysAt(path: readonly PropertyKey[]): string[] {
  let schema: unknown = vmConfigSchema;
  for (const key of path) schema = shapeOf(schema)[String(key)];
  return Object.keys(shapeOf(schema));
}

/** The fields of an object schema, found under its defaults and transformations. */
function shapeOf(schema: unknown): Readonly<Record<string, unknown>> {
  if (schema instanceof z.ZodObject) return schema.shape;
  if (schema instanceof z.ZodPipe) return shapeOf(schema.in);
  if (schema instanceof z.ZodPrefault || schema instanceof z.ZodDefault || schema instanceof z.ZodExactOptional) {
    return shapeOf(schema.unwrap());
  }
  return {};
}
