// The mark of a configuration that has been checked: it is frozen and remembered, so that building a machine from what
// the command line parsed does not load the schema library and check again (30 ms before the guest's first instruction).

import type { VmConfig } from './vm-config.js';

const checked = new WeakSet<VmConfig>();

/** Freezes `config` and remembers it as checked. */
export function markValid(config: VmConfig): VmConfig {
  for (const section of Object.values(config)) Object.freeze(section);
  checked.add(Object.freeze(config));
  return config;
}

/** `config` when it has been checked already, else what `validateVmConfig` makes of it; throws ConfigError. */
export async function ensureValidVmConfig(config: unknown): Promise<VmConfig> {
  if (typeof config === 'object' && config !== null && checked.has(config as VmConfig)) return config as VmConfig;
  const { validateVmConfig } = await import('./validate.js');
  return validateVmConfig(config);
}
