// From the command line's option texts to a checked configuration.

import { Assembly, type ConfigBase } from './assembly.js';
import { ConfigError } from './config-error.js';
import { withImpliedVsock } from './implied-vsock.js';
import type { OptionSpec } from './option-spec.js';
import { checkRules } from './rules/index.js';
import type { FieldNames } from './rules/rule.js';
import { markValid } from './valid-config.js';
import type { VmConfig } from './vm-config.js';
import { VM_OPTIONS } from './vm-options.js';

/** Option name, without dashes, to the values that it was given with, in order. */
export type OptionTexts = ReadonlyMap<string, readonly string[]>;

/**
 * Reads every VM option in `texts` (others are ignored), over `base` or the defaults, and checks; throws ConfigError.
 * Fields that an option names replace those of `base`; a device replaces the one of its name, or is one more.
 */
export function parseVmOptions(texts: OptionTexts, base?: ConfigBase): VmConfig {
  const { config: assembled, names } = assembleVmOptions(texts, base);
  const config = withImpliedVsock(assembled);
  checkRules(config, names);
  return markValid(config);
}

/** The same, not checked yet, and how messages name its fields. */
export function assembleVmOptions(texts: OptionTexts, base?: ConfigBase): { config: VmConfig; names: FieldNames } {
  const assembly = new Assembly(base);
  for (const spec of VM_OPTIONS) {
    const given = texts.get(spec.name) ?? [];
    refuseRepetition(spec, given);
    given.forEach((text, index) => {
      assembly.apply(spec, text, whichOf(index, given.length));
    });
  }
  return { config: assembly.finish(), names: assembly.names };
}

function refuseRepetition(spec: OptionSpec, given: readonly string[]): void {
  if (given.length < 2 || spec.repeatable) return;
  const option = `--${spec.name}`;
  throw new ConfigError(
    { option, value: given[1], label: option },
    { code: 'DUPLICATE', problem: `given ${given.length} times`, mend: 'Give it once.' },
  );
}

const ORDINALS = ['first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'seventh', 'eighth', 'ninth', 'tenth'];

/** Which of several options a message is about; nothing where there is one. */
function whichOf(index: number, count: number): string {
  return count < 2 ? '' : ` (${ORDINALS[index] ?? `number ${index + 1}`})`;
}
