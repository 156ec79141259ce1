// The value of --event-monitor, in Cloud Hypervisor's spelling: path=FILE or fd=N.

import { ConfigError, showValue } from '../config/config-error.js';
import { GrammarError, parseParts, unquote } from '../config/option-grammar.js';

/** Where events go. */
export type EventTarget = { readonly path: string } | { readonly fd: number };

/** Throws ConfigError. */
export function parseEventTarget(text: string): EventTarget {
  const parts = partsOf(text);
  const [part] = parts;
  if (parts.length !== 1) throw mistake(text, 'CONFLICT', `${showValue(text)} is not one target`);
  const { key, value } = part;
  if (key !== 'path' && key !== 'fd') throw mistake(text, 'UNKNOWN_KEY', `there is no ${showValue(key)}`);
  const given = unquote(value ?? '');
  if (given === '') throw mistake(text, 'MISSING_VALUE', `${key} has no value`);
  if (key === 'path') return { path: given };
  const fd = /^[0-9]{1,9}$/.test(given) ? Number(given) : undefined;
  if (fd === undefined) throw mistake(text, 'WRONG_TYPE', `${showValue(given)} is not a number of a descriptor`);
  return { fd };
}

function partsOf(text: string) {
  try {
    return parseParts(text);
  } catch (error) {
    if (error instanceof GrammarError) throw mistake(text, 'SYNTAX', error.problem);
    throw error;
  }
}

export function mistake(value: string, code: ConfigError['code'], problem: string, cause?: unknown): ConfigError {
  const mend = 'Write path=FILE, or fd=N for a descriptor that is open already.';
  return new ConfigError(
    { option: '--event-monitor', value, label: '--event-monitor' },
    { code, problem, mend },
    { cause },
  );
}
