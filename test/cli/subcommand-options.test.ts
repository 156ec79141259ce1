// The options of subcommands.

import { describe, expect, test } from '@jest/globals';
import type { CommandOption } from '../../src/cli/options.js';
import { onlyValue, readSubcommandOptions } from '../../src/cli/subcommand-options.js';
import { ConfigError } from '../../src/config/config-error.js';

const TABLE: readonly CommandOption[] = [
  { name: 'from', kind: 'value', usage: 'DIR', help: '' },
  { name: 'fast', kind: 'flag', usage: '', help: '' },
];

function codeOf(args: readonly string[]): string | undefined {
  try {
    readSubcommandOptions(args, TABLE);
    return undefined;
  } catch (error) {
    return error instanceof ConfigError ? error.code : String(error);
  }
}

describe('options of a subcommand', () => {
  test('come in the order in which they were given, with "=" or without', () => {
    expect(readSubcommandOptions(['--from', 'a', '--fast', '--from=--b'], TABLE)).toEqual([
      { name: 'from', value: 'a' },
      { name: 'fast', value: '' },
      { name: 'from', value: '--b' },
    ]);
  });

  test.each([
    [['--form', 'a'], 'UNKNOWN_OPTION'],
    [['-x'], 'UNKNOWN_OPTION'],
    [['a'], 'UNEXPECTED_ARGUMENT'],
    [['--from', 'a', 'b'], 'UNEXPECTED_ARGUMENT'],
    [['--from'], 'MISSING_VALUE'],
    [['--from='], 'MISSING_VALUE'],
    [['--from', '--fast'], 'MISSING_VALUE'],
    [['--fast=yes'], 'SYNTAX'],
  ])('%j is refused: %s', (args, code) => {
    expect(codeOf(args)).toBe(code);
  });

  test('an option that is given once at most says so', () => {
    const given = readSubcommandOptions(['--from', 'a', '--from', 'b'], TABLE);
    expect(() => onlyValue(given, 'from')).toThrow('--from: given 2 times. Give it once.');
    expect(onlyValue(given.slice(1), 'from')).toBe('b');
    expect(onlyValue([], 'from')).toBeUndefined();
  });
});
