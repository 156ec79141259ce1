// The table of rules in docs/vsock.md names tests that exist.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import { readDocument, tableRows } from './tables.js';

const RULE_COUNT = 24;
const NONE = 'none yet';
const TESTS = fileURLToPath(new URL('../../../test', import.meta.url));

interface Row {
  readonly rule: number;
  readonly tests: readonly { readonly file: string; readonly name: string }[];
  readonly covered: boolean;
}

/** The last column is `file`: "name", "name"; `file`: "name", or says that there is none. */
function parseRow([rule, , tests]: readonly string[]): Row {
  const named = [...tests.matchAll(/`([^`]+)`: ((?:"[^"]+"(?:, )?)+)/g)].flatMap(([, file, names]) =>
    [...names.matchAll(/"([^"]+)"/g)].map(([, name]) => ({ file, name })),
  );
  return { rule: Number(rule), tests: named, covered: !tests.startsWith(NONE) };
}

const rows = tableRows(readDocument('docs/vsock.md'), 'rule').map(parseRow);

describe('the table of vsock rules', () => {
  test('has each rule once, in order', () => {
    expect(rows.map(({ rule }) => rule)).toEqual(Array.from({ length: RULE_COUNT }, (_, index) => index + 1));
  });

  test.each(rows.filter(({ covered }) => covered))('every test named for rule $rule exists', ({ rule, tests }) => {
    expect(tests).not.toEqual([]);
    const missing = tests.filter(({ file, name }) => {
      const source = readDocument(file).replaceAll('\\', '');
      return !source.includes(`rule ${rule}: ${name}`);
    });
    expect(missing).toEqual([]);
  });

  test('a rule that has tests is not said to have none: those are entered in docs/vsock.md', () => {
    const sources = readdirSync(TESTS, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.test.ts'))
      .map((name) => readFileSync(join(TESTS, name), 'utf8'));
    const tested = rows
      .filter(({ covered }) => !covered)
      .filter(({ rule }) => sources.some((source) => source.includes(`'rule ${rule}: `)));
    expect(tested).toEqual([]);
  });
});
