// docs/troubleshooting.md has every code of every public error, and what it quotes are messages of the source.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';
import { readDocument } from './tables.js';

const SRC = fileURLToPath(new URL('../../../src', import.meta.url));
const sources = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => readFileSync(join(SRC, name), 'utf8'));
const code = sources.join('\n').replaceAll(/\/\*[^]*?\*\/|^\s*\/\/.*$/gm, '');

interface Row {
  readonly messages: readonly string[];
  readonly errors: readonly string[];
}

/** The rows of all tables with the columns of messages; the guest's own words are in a table of their own. */
const rows = readDocument('docs/troubleshooting.md')
  .split('\n')
  .map((line) => line.split(/(?<!\\)\|/).map((cell) => cell.trim()))
  .filter((cells) => cells.length === 5 && cells[1] !== 'message' && !/^-+$/.test(cells[1] ?? ''))
  .map(([, message = '', errors = '']): Row => ({
    messages: [...message.matchAll(/`([^`]+)`/g)].map(([, text = '']) => text),
    errors: errors === '' ? [] : errors.split(', '),
  }));

/** `VmError MEMORY` and so on: the members of the unions of codes that the library exports. */
function publicErrors(): string[] {
  const library = readdirSync(join(SRC, 'library')).map((name) => readFileSync(join(SRC, 'library', name), 'utf8'));
  const isPublic = (name: string): boolean => library.some((file) => file.includes(`type ${name}Code`));
  return [...code.matchAll(/^export type (\w+Error)Code =([^;]+);/gm)].flatMap(([, name = '', members = '']) =>
    isPublic(name) ? [...members.matchAll(/'([^']+)'/g)].map(([, member = '']) => `${name} ${member}`) : [],
  );
}

/** All text of the source, with strings that were written in pieces put together and without what is filled in. */
function textOfSources(): string {
  return code.replaceAll(/['`]\s*\+\s*['`]/g, '').replaceAll(/\\'/g, "'");
}

describe('docs/troubleshooting.md', () => {
  test('has every code of every error, and none that does not exist', () => {
    const documented = new Set(rows.flatMap(({ errors }) => errors));
    const known = publicErrors();
    expect(known.length).toBeGreaterThan(100);
    expect([...documented].sort()).toEqual([...new Set(known)].sort());
  });

  test('quotes messages that are in the source, where it names the error', () => {
    const text = textOfSources();
    const pieces = rows
      .filter(({ errors }) => errors.length > 0)
      .flatMap(({ messages }) => messages)
      // The path of the device is filled in.
      .flatMap((message) => message.replaceAll('/dev/kvm', '…').split('…'))
      .map((piece) => piece.replaceAll(/^[\s(]+|[\s)]+$/g, ''))
      .filter((piece) => piece.length > 3);
    expect(pieces.length).toBeGreaterThan(120);
    expect(pieces.filter((piece) => !text.includes(piece))).toEqual([]);
  });

  test('says of each row what it is about', () => {
    expect(rows.filter(({ messages, errors }) => messages.length === 0 && errors.length > 1)).toEqual([]);
  });

  test('is reached from every heading of its contents', () => {
    const document = readDocument('docs/troubleshooting.md');
    const headings = [...document.matchAll(/^## (.+)$/gm)].map(([, text = '']) =>
      text
        .toLowerCase()
        .replaceAll(/[^a-z0-9 -]/g, '')
        .replaceAll(' ', '-'),
    );
    const linked = [...document.matchAll(/\]\(#([^)]+)\)/g)].map(([, anchor = '']) => anchor);
    expect(linked).toEqual(headings);
  });
});
