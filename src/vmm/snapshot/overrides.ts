// Replaces parts of a saved configuration that name things of the host: sockets, images, taps. Main thread.

import type { VmConfigInput } from '../../config/vm-config.js';

/**
 * Sections of a configuration to put over the saved one. Fields of a section replace the saved ones; of a list of devices
 * the first stands for the first, and so on, with {} for one that stays as it is.
 */
export type SnapshotOverrides = {
  readonly [Section in keyof VmConfigInput]?: NonNullable<VmConfigInput[Section]> extends readonly (infer Device)[]
    ? readonly Partial<Device>[]
    : NonNullable<VmConfigInput[Section]> extends object
      ? Partial<NonNullable<VmConfigInput[Section]>>
      : VmConfigInput[Section];
};

/** `saved` with `overrides` put over it; neither is checked here, and neither is changed. */
export function applyOverrides(saved: unknown, overrides: SnapshotOverrides = {}): unknown {
  return merge(saved, overrides);
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
