// Replaces parts of a saved configuration that name things of the host: sockets, images, taps. Main thread.

import { showValue } from '../../config/config-error.js';
import { machineDifference } from '../../config/same-machine.js';
import type { VmConfig, VmConfigInput } from '../../config/vm-config.js';
import { VmError } from '../errors.js';

/**
 * Sections of a configuration to put over the saved one. Fields of a section replace the saved ones; of a list of devices
 * the first stands for the first, and so on, with {} for one that stays as it is; but `publish` and
 * `host_services` are replaced as a whole. Only what is of the host can be replaced: those, paths, consoles, taps, rate limits, the vsock section, and how memory and threads are had.
 */
export type SnapshotOverrides = {
  readonly [Section in keyof VmConfigInput]?: NonNullable<VmConfigInput[Section]> extends readonly (infer Device)[]
    ? readonly Partial<Device>[]
    : NonNullable<VmConfigInput[Section]> extends object
      ? Partial<NonNullable<VmConfigInput[Section]>>
      : VmConfigInput[Section];
};

/** Lists that are replaced as a whole: the guest knows nothing of their elements. */
const LISTS: ReadonlySet<string> = new Set(['publish', 'host_services']);

/** Sections of which another mode says everything: what goes with one mode is wrong with another. */
const BY_MODE: ReadonlySet<string> = new Set(['serial', 'console', 'debug_console']);

/** `saved` with `overrides` put over it; neither is checked here, and neither is changed. */
export function applyOverrides(saved: unknown, overrides: SnapshotOverrides = {}): unknown {
  if (!isRecord(saved)) return saved;
  const result: Record<string, unknown> = { ...saved };
  for (const [section, over] of Object.entries<unknown>(overrides)) {
    const replaced = BY_MODE.has(section) && isRecord(over) && over['mode'] !== undefined;
    result[section] = replaced || (LISTS.has(section) && over !== undefined) ? over : merge(saved[section], over);
  }
  return result;
}

/**
 * A machine that was saved as `saved` is to be restored as `wanted`. Throws VmError SNAPSHOT when that is another one.
 */
export function refuseOtherMachine(directory: string, saved: VmConfig, wanted: VmConfig): void {
  const difference = machineDifference(saved, wanted);
  if (difference === undefined) return;
  const { field, saved: before, wanted: now } = difference;
  throw new VmError(
    'SNAPSHOT',
    `the snapshot in ${directory} cannot be restored with ${field} ${showValue(now)}: it was saved with ` +
      `${showValue(before)}, and its guest knows it so`,
    'leave it out; only what is of the host can be replaced',
  );
}

function merge(saved: unknown, over: unknown): unknown {
  if (over === undefined) return saved;
  if (Array.isArray(saved) && Array.isArray(over)) {
    const longer = saved.length > over.length ? saved : over;
    return longer.map((_, index): unknown => merge(saved[index], over[index]));
  }
  if (!isRecord(saved) || !isRecord(over)) return over;
  const names = new Set([...Object.keys(saved), ...Object.keys(over)]);
  return Object.fromEntries([...names].map((name) => [name, merge(saved[name], over[name])]));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
