// Options whose value is `key=value,key=value,word`: the description of a key, and the reading of a value by the
// descriptions. Which options and keys there are is in options/.

import { type Complaint, ConfigError, showValue } from './config-error.js';
import { suggest } from './nearest.js';
import { type Part, parseParts } from './option-grammar.js';
import { common, type ConfigPart, type Description, located, type OptionSpec } from './option-spec.js';
import type { ValueKind } from './values.js';

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

export interface GrammarDescription<K extends Keys> extends Description {
  readonly keys: K;
  /** Keys of which exactly one is given. */
  readonly oneOf?: readonly (keyof K & string)[];
  /** Keys that only make sense together with others. */
  readonly needs?: Readonly<Partial<Record<keyof K & string, readonly (keyof K & string)[]>>>;
  /** Cloud Hypervisor's keys that do not exist here, each with the reason and what to do instead. */
  readonly notSupported?: Readonly<Record<string, string>>;
}

export interface KeyedDescription<K extends Keys> extends GrammarDescription<K> {
  readonly into: (values: Values<K>) => ConfigPart;
}

/** What an option with keys is, whatever its values are for. */
export interface KeyedGrammar<K extends Keys> extends Omit<OptionSpec, 'read'> {
  /** Reads the option's value; throws ConfigError. `which` as in `OptionSpec.read`. */
  readonly values: (text: string, which?: string) => Values<K>;
}

/** An option about the VM whose value is `key=value,key=value,word`. */
export function keyedOption<K extends Keys>(description: KeyedDescription<K>): OptionSpec {
  const { values, ...spec } = keyedGrammar(description);
  return { ...spec, read: (text, which) => description.into(values(text, which)) };
}

/** The grammar of an option whose value is `key=value,key=value,word`. */
export function keyedGrammar<K extends Keys>(description: GrammarDescription<K>): KeyedGrammar<K> {
  const { keys, oneOf = [], needs = {}, notSupported = {} } = description;
  const option = `--${description.name}`;
  const names = Object.keys(keys);
  const reader = new Reader({
    option,
    keys,
    oneOf,
    needs: Object.entries<readonly string[] | undefined>(needs).map(([key, others = []]) => [key, others]),
    notSupported,
  });
  return {
    ...common(description),
    usage: usageOf(keys, oneOf),
    keys: Object.entries(keys).map(([name, spec]) => ({ name, usage: keyUsage(name, spec), help: spec.help })),
    labels: Object.fromEntries(
      // Where several words set one field, the field is named by the option alone.
      names.map((name) => [keys[name].field, keys[name].kind === undefined ? option : `${option} ${name}`]),
    ),
    notSupported,
    // Every required key is there and every value came from its own kind: what Values<K> says.
    values: (text, which = '') => Object.fromEntries(reader.read(text, which)) as Values<K>,
  };
}

/** What a value of one option may hold. */
interface Grammar {
  /** With its dashes. */
  readonly option: string;
  readonly keys: Keys;
  readonly oneOf: readonly string[];
  readonly needs: readonly (readonly [key: string, others: readonly string[]])[];
  readonly notSupported: Readonly<Record<string, string>>;
}

/** Reads values of one option. */
class Reader {
  private readonly grammar: Grammar;

  constructor(grammar: Grammar) {
    this.grammar = grammar;
  }

  read(text: string, which: string): ReadonlyMap<string, unknown> {
    const values = new Map<string, unknown>();
    for (const part of this.partsOf(text, which)) {
      const value = this.readPart(part, which);
      if (values.has(part.key)) {
        this.fail(which, part.key, part.value, { code: 'DUPLICATE', problem: 'given twice', mend: 'Give it once.' });
      }
      values.set(part.key, value);
    }
    this.checkChoice(values, text, which);
    this.checkRequired(values, which);
    this.checkNeeds(values, which);
    return values;
  }

  private partsOf(text: string, which: string): Part[] {
    try {
      return parseParts(text);
    } catch (error) {
      throw located(error, { option: this.grammar.option, value: text, label: `${this.grammar.option}${which}` });
    }
  }

  private readPart({ key, value }: Part, which: string): unknown {
    const spec = Object.hasOwn(this.grammar.keys, key) ? this.grammar.keys[key] : undefined;
    if (spec === undefined) return this.failUnknown({ key, value }, which);
    if (spec.kind === undefined) {
      if (value === undefined) return true;
      const mend = `Write ${this.grammar.option} ${key}.`;
      return this.fail(which, key, value, { code: 'SYNTAX', problem: 'takes no value', mend });
    }
    if (value === undefined || value === '') {
      const mend = `Write ${keyUsage(key, spec)}.`;
      return this.fail(which, key, value, { code: 'MISSING_VALUE', problem: 'no value given', mend });
    }
    try {
      return spec.kind.parse(value);
    } catch (error) {
      throw located(error, { option: this.grammar.option, key, value, label: this.label(key, which) });
    }
  }

  private checkChoice(values: ReadonlyMap<string, unknown>, text: string, which: string): void {
    if (this.grammar.oneOf.length === 0) return;
    const chosen = this.grammar.oneOf.filter((key) => values.has(key));
    if (chosen.length === 1) return;
    const mend = `Choose one of ${this.grammar.oneOf.map((key) => keyUsage(key, this.grammar.keys[key])).join(', ')}.`;
    if (chosen.length === 0) {
      this.fail(which, undefined, text, { code: 'MISSING_VALUE', problem: 'nothing is chosen', mend });
    }
    const problem = `${showValue(text)} chooses more than one`;
    this.fail(which, undefined, text, { code: 'CONFLICT', problem, mend });
  }

  private checkRequired(values: ReadonlyMap<string, unknown>, which: string): void {
    const required = Object.entries(this.grammar.keys).filter(([, spec]) => spec.required);
    const missing = required.find(([key]) => !values.has(key));
    if (missing === undefined) return;
    const usage = required.map(([key, spec]) => keyUsage(key, spec)).join(',');
    const mend = `Write ${this.grammar.option} ${usage}.`;
    this.fail(which, missing[0], undefined, { code: 'MISSING_KEY', problem: 'missing', mend });
  }

  private checkNeeds(values: ReadonlyMap<string, unknown>, which: string): void {
    for (const [key, others] of this.grammar.needs) {
      const missing = values.has(key) ? others.find((other) => !values.has(other)) : undefined;
      if (missing === undefined) continue;
      const problem = `missing, and ${key} needs it`;
      const mend = `Write ${keyUsage(missing, this.grammar.keys[missing])} as well, or leave ${key} out.`;
      this.fail(which, missing, undefined, { code: 'MISSING_KEY', problem, mend });
    }
  }

  private failUnknown(part: Part, which: string): never {
    const { key, value } = part;
    const instead = Object.hasOwn(this.grammar.notSupported, key) ? this.grammar.notSupported[key] : undefined;
    if (instead !== undefined) {
      this.fail(which, key, value, { code: 'NOT_SUPPORTED', problem: 'not supported by tsvmm', mend: instead });
    }
    // Named by what was typed, which need not be a key at all: `--memory 128M`.
    return this.fail(which, key, value, {
      code: 'UNKNOWN_KEY',
      problem: `there is no ${showValue(key)} in ${this.grammar.option}`,
      mend: this.meantAsValue(part) ?? suggest(key, Object.keys(this.grammar.keys)),
    });
  }

  /** `--memory 128M`: the value of the first key, without the key. */
  private meantAsValue({ key, value }: Part): string | undefined {
    const first = Object.entries(this.grammar.keys).at(0);
    if (first?.[1].kind === undefined || value !== undefined) return undefined;
    try {
      first[1].kind.parse(key);
      return `Did you mean ${first[0]}=${key}?`;
    } catch {
      return undefined;
    }
  }

  private label(key: string | undefined, which: string): string {
    return `${this.grammar.option}${key === undefined ? '' : ` ${key}`}${which}`;
  }

  private fail(which: string, key: string | undefined, value: unknown, complaint: Complaint): never {
    throw new ConfigError({ option: this.grammar.option, key, value, label: this.label(key, which) }, complaint);
  }
}

function keyUsage(key: string, spec: KeySpec<unknown>): string {
  return spec.kind === undefined ? key : `${key}=${spec.kind.metavar}`;
}

/** What fits a line of the help: the keys are listed one by one below it anyway. */
const LONGEST_USAGE = 60;

function usageOf(keys: Keys, oneOf: readonly string[]): string {
  const choice = oneOf.map((key) => keyUsage(key, keys[key])).join('|');
  const others = Object.entries(keys).filter(([key]) => !oneOf.includes(key));
  const always = [...(choice === '' ? [] : [choice]), ...usages(others.filter(([, spec]) => spec.required))];
  const sometimes = usages(others.filter(([, spec]) => !spec.required));
  // An example where nothing is required: an option is not given without a value.
  const first = always.length > 0 ? always.join(',') : (sometimes.shift() ?? '');
  const whole = [first, ...sometimes.map((usage) => `[,${usage}]`)].join('');
  return whole.length <= LONGEST_USAGE ? whole : `${first}[,KEY=VALUE...]`;
}

function usages(keys: readonly (readonly [string, KeySpec<unknown>])[]): string[] {
  return keys.map(([key, spec]) => keyUsage(key, spec));
}
