// The library's way in: any value at all becomes a checked configuration, or a ConfigError that names the field.

import type { z } from 'zod';
import { type Complaint, ConfigError, showValue } from './config-error.js';
import { suggest } from './nearest.js';
import { checkRules } from './rules/index.js';
import { byPath } from './rules/rule.js';
import { keysAt, vmConfigSchema } from './schema.js';
import { markValid } from './valid-config.js';
import type { VmConfig } from './vm-config.js';

/**
 * A complete, frozen copy of `input` with the defaults filled in. Fields that are undefined count as absent.
 * @throws {ConfigError} about the first thing that is wrong
 */
export function validateVmConfig(input: unknown): VmConfig {
  const given = withoutUndefined(input);
  const result = vmConfigSchema.safeParse(given);
  if (!result.success) throw configError(given, result.error);
  // The schema's defaults are shared objects; what is handed out (and frozen) is the caller's own.
  const config = structuredClone(result.data) as VmConfig;
  checkRules(config, byPath);
  return markValid(config);
}

type Issue = z.core.$ZodIssue;

function configError(input: unknown, error: z.ZodError): ConfigError {
  const issue = error.issues.at(0);
  if (issue === undefined) throw error;
  const unknownKey = issue.code === 'unrecognized_keys' ? issue.keys[0] : undefined;
  const path = unknownKey === undefined ? issue.path : [...issue.path, unknownKey];
  const value = valueAt(input, path);
  const field = pathText(path);
  const subject = field === '' ? { option: 'config', label: 'config' } : byPath(field);
  return new ConfigError({ ...subject, value }, complaintAbout(issue, value), { cause: error });
}

function complaintAbout(issue: Issue, value: unknown): Complaint {
  switch (issue.code) {
    case 'unrecognized_keys':
      return {
        code: 'UNKNOWN_KEY',
        problem: 'no such key',
        mend: suggest(issue.keys[0] ?? '', keysAt(issue.path)),
      };
    case 'invalid_type': {
      const kind = `${/^[aeiou]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`;
      if (value === undefined) return { code: 'MISSING_KEY', problem: 'missing', mend: `Give ${kind}.` };
      const problem = `${showValue(value)} is not ${kind}`;
      return { code: 'WRONG_TYPE', problem, mend: `Give ${kind}.` };
    }
    case 'invalid_value': {
      const values = issue.values.map(String);
      if (value === undefined) {
        return { code: 'MISSING_KEY', problem: 'missing', mend: `Give one of ${values.join(', ')}.` };
      }
      return {
        code: 'WRONG_TYPE',
        problem: `${showValue(value)} is not a value it can have`,
        mend: suggest(typeof value === 'string' ? value : '', values),
      };
    }
    default:
      return { code: 'WRONG_TYPE', problem: issue.message, mend: 'Correct it.' };
  }
}

/** `disks[1].path`. */
function pathText(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return text === '' ? String(key) : `${text}.${String(key)}`;
  }, '');
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value;
}

function withoutUndefined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutUndefined);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== undefined)
      .map(([key, field]) => [key, withoutUndefined(field)]),
  );
}
