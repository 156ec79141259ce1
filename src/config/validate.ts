// The library's way in, and a configuration file's: any value at all becomes a checked configuration, or a ConfigError
// that names the field.

import { complainWith, byPath, type FieldNames } from './rules/rule.js';
import { checkRules } from './rules/index.js';
import { withImpliedVsock } from './implied-vsock.js';
import { withoutForeignFields } from './foreign-fields.js';
import { vmConfigSchema } from './schema.js';
import { shapeError } from './shape-error.js';
import { markValid } from './valid-config.js';
import type { VmConfig } from './vm-config.js';

/**
 * A complete, frozen copy of `input`, which may be anything, with the defaults filled in. Fields that are undefined or null
 * count as absent. Looks at the host as far as paths go: a kernel or disk that is not there is a mistake, too. `Vm.create`
 * does the same by itself. Throws ConfigError about the first thing that is wrong.
 */
export function validateVmConfig(input: unknown): VmConfig {
  const config = withImpliedVsock(completeVmConfig(input, byPath));
  checkRules(config, byPath);
  return markValid(config);
}

/**
 * `input` with the defaults filled in, of the right shape, and not judged further. Throws ConfigError about a field as
 * `names` has it.
 */
export function completeVmConfig(input: unknown, names: FieldNames): VmConfig {
  const given = withoutForeignFields(input, complainWith(names));
  const result = vmConfigSchema.safeParse(given);
  if (!result.success) throw shapeError(given, result.error, vmConfigSchema, names);
  // The schema's defaults are shared objects; what is handed out (and frozen) is the caller's own.
  return structuredClone(result.data);
}
