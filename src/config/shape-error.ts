// What is said when a value has not the shape that a schema asks for: zod's issues, in the words of ConfigError.

import type { z } from 'zod';
import { type Complaint, ConfigError, showValue } from './config-error.js';
import { allMistakes } from './config-mistakes.js';
import { suggest } from './nearest.js';
import type { FieldNames } from './rules/rule.js';
import { keysAt } from './schema.js';

type Issue = z.core.$ZodIssue;

/** The error for `input`, which `schema` has refused. The whole of it is called `config` where no field is to blame. */
export function shapeError(input: unknown, error: z.ZodError, schema: z.ZodType, names: FieldNames): ConfigError {
  const mistakes = error.issues.flatMap(eachKey).map((issue) => {
    const unknownKey = issue.code === 'unrecognized_keys' ? issue.keys[0] : undefined;
    const path = unknownKey === undefined ? issue.path : [...issue.path, unknownKey];
    const value = valueAt(input, path);
    const subject = names(path.length === 0 ? 'config' : pathText(path));
    return new ConfigError({ ...subject, value }, complaintAbout(issue, value, schema), { cause: error });
  });
  const all = allMistakes(mistakes);
  if (all === undefined) throw error;
  return all;
}

/** An issue for each key that there is not. */
function eachKey(issue: Issue): Issue[] {
  return issue.code === 'unrecognized_keys' ? issue.keys.map((key) => ({ ...issue, keys: [key] })) : [issue];
}

function complaintAbout(issue: Issue, value: unknown, schema: z.ZodType): Complaint {
  switch (issue.code) {
    case 'unrecognized_keys':
      return {
        code: 'UNKNOWN_KEY',
        problem: 'no such key',
        mend: suggest(issue.keys[0] ?? '', keysAt(issue.path, schema)),
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
