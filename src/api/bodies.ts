// The bodies of requests, other than a VM's configuration. Fields that Cloud Hypervisor has and that change nothing here
// are taken and passed over. Main thread.

import { isAbsolute } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import type { SnapshotOverrides } from '../vmm/snapshot/overrides.js';
import type { ResizeRequest } from './monitor.js';
import { ApiError, badRequest } from './errors.js';

/** Anything that JSON can say; undefined when there is no body. Throws ApiError 400. */
export function parseJson(text: string): unknown {
  if (text.trim() === '') return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    throw new ApiError(400, ['Failed to deserialize JSON', detail], error);
  }
}

/** Clients that send a body with everything send an empty one with what takes none. Throws ApiError 400. */
export function refuseBody(body: unknown): void {
  const empty =
    body === undefined || body === null || (typeof body === 'object' && Object.keys(body).length === 0) || body === '';
  if (!empty) throw badRequest('this request takes no body');
}

const size = z.number().int().min(0);

const resize = z.strictObject({
  desired_vcpus: size.nullish(),
  desired_ram: size.nullish(),
  desired_balloon: size.nullish(),
});

export function resizeRequest(body: unknown): ResizeRequest {
  const { desired_vcpus, desired_ram, desired_balloon } = parse(resize, body);
  return {
    desired_vcpus: desired_vcpus ?? undefined,
    desired_ram: desired_ram ?? undefined,
    desired_balloon: desired_balloon ?? undefined,
  };
}

const destination = z.strictObject({ destination_url: z.string() });

const snapshot = z.strictObject({
  destination_url: z.string(),
  /** Ours: only what has changed since the VM was restored. */
  diff: z.boolean().nullish(),
});

export interface SnapshotRequest {
  readonly directory: string;
  readonly diff: boolean;
}

export function snapshotRequest(body: unknown): SnapshotRequest {
  const { destination_url, diff } = parse(snapshot, body);
  return { directory: pathOf('destination_url', destination_url), diff: diff === true };
}

/** The path that a core is to be written to. */
export function destinationPath(body: unknown): string {
  return pathOf('destination_url', parse(destination, body).destination_url);
}

const restore = z.strictObject({
  source_url: z.string(),
  prefault: z.boolean().nullish(),
  resume: z.boolean().nullish(),
  /** Memory is always mapped, and read as the guest touches it. */
  memory_restore_mode: z.string().nullish(),
  net_fds: z.array(z.never('descriptors are not handed over; name taps in the configuration')).nullish(),
  mem_fds: z.array(z.never('descriptors are not handed over; leave this out')).nullish(),
  /** Ours: sections of the configuration to put over the saved one. */
  overrides: z.record(z.string(), z.unknown()).nullish(),
});

export interface RestoreRequest {
  readonly directory: string;
  readonly resume: boolean;
  readonly overrides: SnapshotOverrides;
}

export function restoreRequest(body: unknown): RestoreRequest {
  const { source_url, prefault, resume, overrides } = parse(restore, body);
  // What the sections may be is checked with the whole configuration.
  const given = (overrides ?? {}) as SnapshotOverrides;
  return {
    directory: pathOf('source_url', source_url),
    resume: resume === true,
    overrides: prefault === true ? { ...given, memory: { ...given.memory, prefault } } : given,
  };
}

/** A configuration as vm.info tells it has the paths of pseudo-terminals, which are not for a client to choose. */
export function withoutPtyPaths(config: unknown): unknown {
  if (typeof config !== 'object' || config === null || Array.isArray(config)) return config;
  const entries = Object.entries(config).map(([section, value]: [string, unknown]) => {
    const isPty = typeof value === 'object' && value !== null && 'mode' in value && value.mode === 'Pty';
    return [section, isPty ? { ...value, file: undefined } : value];
  });
  return Object.fromEntries(entries) as unknown;
}

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  if (body === undefined) throw badRequest('this request takes a JSON body');
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const messages = result.error.issues.map(({ path, message }) => [path.join('.'), message].filter(Boolean).join(': '));
  throw new ApiError(400, ['Failed to deserialize JSON', ...messages], result.error);
}

/** `file:///path`, or an absolute path. */
function pathOf(field: string, url: string): string {
  if (isAbsolute(url)) return url;
  try {
    return fileURLToPath(url);
  } catch {
    throw badRequest(`${field}: ${JSON.stringify(url)} is not the URL of a file. Write file:///path/to/it.`);
  }
}
