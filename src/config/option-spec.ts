// How one command-line option is described, once, for parsing, error messages and help. The descriptions themselves are
// in vm-options.ts; adding an option there is all it takes.

import { type Complaint, ConfigError, showValue } from './config-error.js';
import { suggest } from './nearest.js';
import { GrammarError, type Part, parseParts, quoted } from './option-grammar.js';
import { ValueError, type ValueKind } from './values.js';
import type { VmConfig } from './vm-config.js';

/** What one option contributes to the configuration: fields of sections, devices, or a whole value. */
export type ConfigPart = {
  readonly [Section in keyof VmConfig]?: VmConfig[Section] extends readonly unknown[] | undefined
    ? VmConfig[Section]
    : Partial<VmConfig[Section]>;
};

/** A line of help about a key. */
export interface KeyHelp {
  readonly usage: string;
  readonly help: string;
}

/** One option as the parser and help see it. Made by `plainOption` and `keyedOption`. */
export interface OptionSpec {
  /** Without dashes. */
  readonly name: string;
  /** What follows the name: `PATH`, `cid=N,socket=PATH`. */
  readonly usage: string;
  readonly help: string;
  readonly keys: readonly KeyHelp[];
  /** The value that holds when the option is not given, in the option's own grammar. */
  readonly defaultText: string | undefined;
  /** Whether it may be given more than once. */
  readonly repeatable: boolean;
  /** How messages name the configuration fields that this option sets: `vsock.cid` is `--vsock cid`. */
  readonly labels: Readonly<Record<string, string>>;
  /** Reads the option's value; throws ConfigError. */
  readonly read: (text: string) => ConfigPart;
}

interface Description {
  readonly name: string;
  readonly help: string;
  readonly defaultText?: string;
  readonly repeatable?: boolean;
}

/** A key of a keyed option. `field` is where its value ends in the configuration, for naming it in messages. */
export interface KeySpec<T> {
  /** Absent for a key that is a word by itself, `off` in `--serial off`; its value is then `true`. */
  readonly kind?: ValueKind<T>;
  readonly required: boolean;
  readonly field: string;
  readonly help: string;
}

export interface RequiredKey<T> extends KeySpec<T> {
  readonly required: true;
}

export function required<T>(kind: ValueKind<T>, field: string, help: string): RequiredKey<T> {
  return { kind, required: true, field, help };
}

export function optional<T>(kind: ValueKind<T>, field: string, help: string): KeySpec<T> {
  return { kind, required: false, field, help };
}

export function word(field: string, help: string): KeySpec<true> {
  return { required: false, field, help };
}

type Keys = Readonly<Record<string, KeySpec<unknown>>>;

type Values<K extends Keys> = {
  readonly [Name in keyof K]: K[Name] extends RequiredKey<infer T>
    ? T
    : K[Name] extends KeySpec<infer T>
      ? T | undefined
      : never;
};

/** An option whose whole value is one value: `--kernel PATH`. The shell's quoting is all the quoting it needs. */
export function plainOption<T>(
  description: Description & {
    readonly kind: ValueKind<T>;
    readonly field: string;
    readonly into: (value: T) => ConfigPart;
  },
): OptionSpec {
  const option = `--${description.name}`;
  return {
    ...common(description),
    usage: description.kind.metavar,
    keys: [],
    labels: { [description.field]: option },
    read: (text) => {
      try {
        // The text is taken as it stands, but value kinds expect the grammar's quoting.
        return description.into(description.kind.parse(quoted(text)));
      } catch (error) {
        throw located(error, option, undefined, text);
      }
    },
  };
}

/** An option whose value is `key=value,key=value,word`. */
export function keyedOption<K extends Keys>(
  description: Description & {
    readonly keys: K;
    /** Keys are alternatives: exactly one is given. */
    readonly alternatives?: boolean;
    /** Cloud Hypervisor's keys that do not exist here, each with what to do instead. */
    readonly notSupported?: Readonly<Record<string, string>>;
    readonly into: (values: Values<K>) => ConfigPart;
  },
): OptionSpec {
  const { name, keys, alternatives = false, notSupported = {} } = description;
  const option = `--${name}`;
  const usages = Object.entries(keys).map(([key, spec]) => ({ key, usage: keyUsage(key, spec), spec }));
  const fail = (key: string | undefined, value: unknown, complaint: Complaint): never => {
    const label = key === undefined ? option : `${option} ${key}`;
    throw new ConfigError({ option, key, value, label }, complaint);
  };

  // `--memory 128M`: the value of the one key that must be there, without the key.
  const meantAsValue = (part: Part): string | undefined => {
    const required = usages.filter(({ spec }) => spec.required);
    const only = required.at(0);
    if (required.length !== 1 || only?.spec.kind === undefined || part.value !== undefined) return undefined;
    try {
      only.spec.kind.parse(part.key);
      return `Did you mean ${only.key}=${part.key}?`;
    } catch {
      return undefined;
    }
  };

  const readPart = (part: Part): unknown => {
    const { key, value } = part;
    const spec = Object.hasOwn(keys, key) ? keys[key] : undefined;
    if (spec === undefined) {
      const instead = Object.hasOwn(notSupported, key) ? notSupported[key] : undefined;
      if (instead !== undefined) {
        return fail(key, value, { code: 'NOT_SUPPORTED', problem: 'not supported by tsvmm', mend: instead });
      }
      return fail(key, value, {
        code: 'UNKNOWN_KEY',
        problem: `there is no ${showValue(key)} in ${option}`,
        mend: meantAsValue(part) ?? suggest(key, Object.keys(keys)),
      });
    }
    if (spec.kind === undefined) {
      if (value === undefined) return true;
      return fail(key, value, { code: 'SYNTAX', problem: 'takes no value', mend: `Write ${option} ${key}.` });
    }
    if (value === undefined || value === '') {
      return fail(key, value, {
        code: 'MISSING_VALUE',
        problem: 'no value given',
        mend: `Write ${keyUsage(key, spec)}.`,
      });
    }
    try {
      return spec.kind.parse(value);
    } catch (error) {
      throw located(error, option, key, value);
    }
  };

  const read = (text: string): ConfigPart => {
    const values = new Map<string, unknown>();
    const parts = partsOf(text, option);
    for (const part of parts) {
      const value = readPart(part);
      if (values.has(part.key)) {
        fail(part.key, part.value, { code: 'DUPLICATE', problem: 'given twice', mend: 'Give it once.' });
      }
      values.set(part.key, value);
    }
    if (alternatives && values.size !== 1) {
      const every = usages.map(({ usage }) => usage).join(', ');
      const problem = values.size === 0 ? 'nothing is chosen' : `${showValue(text)} chooses more than one`;
      fail(undefined, text, {
        code: values.size === 0 ? 'MISSING_VALUE' : 'CONFLICT',
        problem,
        mend: `Choose one of ${every}.`,
      });
    }
    for (const [key, spec] of Object.entries(keys)) {
      if (spec.required && !values.has(key)) {
        fail(key, undefined, {
          code: 'MISSING_KEY',
          problem: 'missing',
          mend: `Write ${option} ${usages
            .filter((each) => each.spec.required)
            .map(({ usage }) => usage)
            .join(',')}.`,
        });
      }
    }
    // Every required key is there and every value came from its own kind: what Values<K> says.
    return description.into(Object.fromEntries(values) as Values<K>);
  };

  return {
    ...common(description),
    usage: joinUsages(
      usages.map(({ usage, spec }) => (spec.required || alternatives ? usage : `[${usage}]`)),
      alternatives ? '|' : ',',
    ),
    keys: usages.map(({ usage, spec }) => ({ usage, help: spec.help })),
    labels: Object.fromEntries(
      // Where several words set one field, the field is named by the option alone.
      Object.entries(keys).map(([key, spec]) => [spec.field, spec.kind === undefined ? option : `${option} ${key}`]),
    ),
    read,
  };
}

function common(description: Description): Pick<OptionSpec, 'name' | 'help' | 'defaultText' | 'repeatable'> {
  const { name, help, defaultText, repeatable = false } = description;
  return { name, help, defaultText, repeatable };
}

function keyUsage(key: string, spec: KeySpec<unknown>): string {
  return spec.kind === undefined ? key : `${key}=${spec.kind.metavar}`;
}

function partsOf(text: string, option: string): Part[] {
  try {
    return parseParts(text);
  } catch (error) {
    throw located(error, option, undefined, text);
  }
}

/** An error of the grammar or of a value, with the place where it happened. */
function located(error: unknown, option: string, key: string | undefined, value: string): unknown {
  const label = key === undefined ? option : `${option} ${key}`;
  if (error instanceof ValueError) return new ConfigError({ option, key, value, label }, error.complaint);
  if (error instanceof GrammarError) {
    const complaint = { code: 'SYNTAX', problem: `${error.problem} in ${showValue(value)}`, mend: error.mend } as const;
    return new ConfigError({ option, key, value, label }, complaint);
  }
  return error;
}

/** What fits a line of the help: the keys are listed one by one below it anyway. */
const LONGEST_USAGE = 60;

function joinUsages(usages: readonly string[], separator: string): string {
  const joined = usages.join(separator);
  if (joined.length <= LONGEST_USAGE) return joined;
  return [...usages.filter((usage) => !usage.startsWith('[')), '[KEY=VALUE...]'].join(separator);
}
