// Reads the options of a subcommand that has its own: in the order in which they were given, which may matter to it.

import { ConfigError } from '../config/config-error.js';
import { unknownOption } from '../config/unknown-option.js';
import type { CommandOption } from './options.js';

/** One option as it was given; a flag's value is empty. */
export interface GivenOption {
  readonly name: string;
  readonly value: string;
}

/** `args` as options of `table`; throws ConfigError for what is none, has no value or has one too many. */
export function readSubcommandOptions(args: readonly string[], table: readonly CommandOption[]): GivenOption[] {
  const known = table.map(({ name }) => name);
  const given: GivenOption[] = [];
  const rest = args[Symbol.iterator]();
  for (const argument of rest) {
    if (!/^--[^=]/.test(argument)) throw stray(argument, known);
    const equals = argument.indexOf('=');
    const name = argument.slice(2, equals < 0 ? undefined : equals);
    const inline = equals < 0 ? undefined : argument.slice(equals + 1);
    const option = table.find((each) => each.name === name);
    if (option === undefined) throw unknownOption(`--${name}`, known);
    const label = `--${name}`;
    if (option.kind === 'flag') {
      if (inline !== undefined) throw mistake(label, 'SYNTAX', 'takes no value', `Write ${label}, or leave it out.`);
      given.push({ name, value: '' });
      continue;
    }
    // A value that looks like an option is one that was forgotten; after "=" it may begin with anything.
    const next = inline ?? valueAfter(rest);
    if (next === undefined || next === '') {
      const mend = `Write ${label} ${option.usage}, or ${label}=... if the value begins with a dash.`;
      throw mistake(label, 'MISSING_VALUE', 'no value given', mend);
    }
    given.push({ name, value: next });
  }
  return given;
}

/** Throws ConfigError when the option `name` was given more than once; its value otherwise. */
export function onlyValue(given: readonly GivenOption[], name: string): string | undefined {
  const values = given.filter((option) => option.name === name);
  if (values.length > 1) throw mistake(`--${name}`, 'DUPLICATE', `given ${values.length} times`, 'Give it once.');
  return values.at(0)?.value;
}

function valueAfter(rest: Iterator<string, undefined>): string | undefined {
  const { value, done } = rest.next();
  return done === true || value.startsWith('--') ? undefined : value;
}

function stray(argument: string, known: readonly string[]): ConfigError {
  if (argument.startsWith('-') && argument !== '-') return unknownOption(argument.split('=', 1)[0], known);
  return mistake(
    JSON.stringify(argument),
    'UNEXPECTED_ARGUMENT',
    'belongs to no option',
    'Every value follows an option; put one that has spaces in quotes.',
  );
}

function mistake(label: string, code: ConfigError['code'], problem: string, mend: string): ConfigError {
  return new ConfigError({ option: label, label }, { code, problem, mend });
}
