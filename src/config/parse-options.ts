// From the command line's option texts to a checked configuration.

import { ConfigError } from './config-error.js';
import type { ConfigPart, OptionSpec } from './option-spec.js';
import { checkRules } from './rules/index.js';
import { byPath, type FieldNames } from './rules/rule.js';
import { markValid } from './valid-config.js';
import { DEFAULT_VM_CONFIG, type VmConfig } from './vm-config.js';
import { VM_OPTIONS } from './vm-options.js';

/** Option name, without dashes, to the values that it was given with, in order. */
export type OptionTexts = ReadonlyMap<string, readonly string[]>;

/** Reads every VM option in `texts` (others are ignored), fills in the defaults and checks; throws ConfigError. */
export function parseVmOptions(texts: OptionTexts): VmConfig {
  let config: VmConfig = DEFAULT_VM_CONFIG;
  for (const spec of VM_OPTIONS) {
    const given = texts.get(spec.name) ?? [];
    refuseRepetition(spec, given);
    for (const text of given) config = merge(config, spec.read(text));
  }
  checkRules(config, byOption);
  return markValid(structuredClone(config));
}

function refuseRepetition(spec: OptionSpec, given: readonly string[]): void {
  if (given.length < 2 || spec.repeatable) return;
  const option = `--${spec.name}`;
  throw new ConfigError(
    { option, value: given[1], label: option },
    { code: 'DUPLICATE', problem: `given ${given.length} times`, mend: 'Give it once.' },
  );
}

function merge(config: VmConfig, part: ConfigPart): VmConfig {
  const merged: Record<string, unknown> = { ...config };
  for (const [section, given] of Object.entries(part)) merged[section] = combine(merged[section], given);
  // Each part holds whole values of the fields that it names, so a complete configuration stays one.
  return merged as unknown as VmConfig;
}

/** Devices of a kind add up, fields of a section replace those before, and anything else is simply replaced. */
function combine(before: unknown, given: unknown): unknown {
  if (Array.isArray(given)) return [...((before as unknown[] | undefined) ?? []), ...(given as unknown[])];
  if (typeof given === 'object' && given !== null) return { ...(before as object | undefined), ...given };
  return given;
}

/** On the command line a field is known by the option and key that set it. */
const byOption: FieldNames = (field) => {
  for (const spec of VM_OPTIONS) {
    const label = Object.hasOwn(spec.labels, field) ? spec.labels[field] : undefined;
    if (label !== undefined) {
      const [option = label, key] = label.split(' ');
      return { option, key, label };
    }
  }
  return byPath(field);
};
