// What a comment before a code block says about it: in which group of tests it runs and how. CONTRIBUTING.md describes
// the options.
//
//   <!-- test: GROUP [option ...] -->        the block is run, or checked, in this group
//   <!-- not tested: REASON -->              it is not, for this reason
//   <!-- output[: part|numbers] -->          the block is what the one before it prints

import { isOutputMode, OUTPUT_MODES, type OutputMode } from './expected-output.js';
import { GROUP_NAMES, type GroupName } from './groups.js';

/** Options with a value; those of `LISTS` may be given again. */
const VALUES = [
  'session',
  'until',
  'name',
  'exit',
  'file',
  'input',
  'run',
  'type',
  'output',
  'end',
  'into',
  'in',
  'guest',
  'check',
] as const;
const LISTS = ['replace', 'with', 'needs'] as const;
const FLAGS = ['background', 'each', 'goes-on', 'pty', 'jest', 'network', 'registry'] as const;

type ValueName = (typeof VALUES)[number];
type ListName = (typeof LISTS)[number];
type FlagName = (typeof FLAGS)[number];

export interface TestDirective {
  readonly kind: 'test';
  readonly group: GroupName;
  readonly values: Readonly<Partial<Record<ValueName, string>>>;
  readonly lists: Readonly<Record<ListName, readonly string[]>>;
  readonly flags: ReadonlySet<FlagName>;
}

export type Directive =
  | TestDirective
  | { readonly kind: 'not tested'; readonly reason: string }
  | { readonly kind: 'output'; readonly how: OutputMode };

/** Undefined for a comment that is no directive. Throws what is wrong with one. */
export function readDirective(comment: string): Directive | undefined {
  const match = /^(test|not tested|output)\b(:?)\s*(.*)$/.exec(comment);
  if (match === null) return undefined;
  const [, kind, colon, rest] = match;
  if (kind === 'output') {
    const how = rest === '' ? 'whole' : rest;
    if (!isOutputMode(how)) throw new Error(`an output is "${OUTPUT_MODES.join('", "')}", not "${how}"`);
    return { kind, how };
  }
  if (colon === '') throw new Error(`"${kind}" is followed by a colon`);
  if (kind === 'not tested') {
    if (rest === '') throw new Error('a reason belongs behind "not tested:"');
    return { kind, reason: rest };
  }
  const [group = '', ...options] = words(rest);
  if (!isOneOf(GROUP_NAMES, group)) throw new Error(`"${group}" is not one of the groups ${GROUP_NAMES.join(', ')}`);
  return { kind: 'test', group, ...readOptions(options) };
}

/** Words separated by spaces; a part of a word in double quotes is as in JSON. */
function words(text: string): string[] {
  const found = text.match(/(?:[^\s"]|"(?:[^"\\]|\\.)*")+/g) ?? [];
  if (found.join('').length !== text.replaceAll(/\s/g, '').length + spacesIn(found)) {
    throw new Error(`a quote does not end: ${text}`);
  }
  return found;
}

function spacesIn(found: readonly string[]): number {
  return found.join('').match(/\s/g)?.length ?? 0;
}

function readOptions(options: readonly string[]): Omit<TestDirective, 'kind' | 'group'> {
  const values: Partial<Record<ValueName, string>> = {};
  const lists: Record<ListName, string[]> = { replace: [], with: [], needs: [] };
  const flags = new Set<FlagName>();
  for (const option of options) {
    const equals = option.indexOf('=');
    const name = equals < 0 ? option : option.slice(0, equals);
    const value = equals < 0 ? undefined : unquoted(option.slice(equals + 1));
    if (isOneOf(FLAGS, name)) {
      if (value !== undefined) throw new Error(`${name} takes no value`);
      flags.add(name);
    } else if (isOneOf(VALUES, name)) {
      if (value === undefined) throw new Error(`${name} takes a value: ${name}=...`);
      if (values[name] !== undefined) throw new Error(`${name} is given twice`);
      values[name] = value;
    } else if (isOneOf(LISTS, name)) {
      if (value === undefined) throw new Error(`${name} takes a value: ${name}="..."`);
      lists[name].push(...(name === 'replace' ? [value] : value.split(' ')));
    } else {
      throw new Error(`there is no option ${name}; there are ${[...FLAGS, ...VALUES, ...LISTS].sort().join(', ')}`);
    }
  }
  return { values, lists, flags };
}

function unquoted(text: string): string {
  if (!text.startsWith('"')) return text;
  return JSON.parse(text) as string;
}

function isOneOf<T extends string>(names: readonly T[], name: string): name is T {
  return (names as readonly string[]).includes(name);
}
