// The text form of option values: splitting, quoting, lists.

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { GrammarError, parseList, parseParts, quote, splitAtCommas, unquote } from '../../src/config/option-grammar.js';

const key = fc.stringMatching(/^[a-z_]{1,10}$/);
/** Anything a user may type, with what the grammar gives a meaning to well represented. */
const anyText = fc.string({
  unit: fc.oneof(fc.constantFrom('"', ',', '[', ']', '=', ' '), fc.string({ minLength: 1, maxLength: 1 })),
});

describe('the option grammar', () => {
  test('parts are separated by commas, a key from its value by the first equals sign', () => {
    expect(parseParts('cid=3,socket=/tmp/a=b,ro')).toEqual([
      { key: 'cid', value: '3' },
      { key: 'socket', value: '/tmp/a=b' },
      { key: 'ro', value: undefined },
    ]);
  });

  test('blanks around keys and values do not count', () => {
    expect(parseParts(' cid = 3 , ro ')).toEqual([
      { key: 'cid', value: '3' },
      { key: 'ro', value: undefined },
    ]);
  });

  test('empty text has no parts', () => {
    expect(parseParts('  ')).toEqual([]);
  });

  test.each(['a=1,,b=2', ',a=1', 'a=1,', '=3'])('an empty part is refused: %s', (text) => {
    expect(() => parseParts(text)).toThrow('there is an empty part');
  });

  test('commas in quotes and brackets do not separate', () => {
    expect(splitAtCommas('a="x,y",b=[1,[2,3]],c')).toEqual(['a="x,y"', 'b=[1,[2,3]]', 'c']);
  });

  test('brackets in quotes are text', () => {
    expect(splitAtCommas('a="]",b="["')).toEqual(['a="]"', 'b="["']);
  });

  test.each([
    ['a="x', 'a double quote is not closed'],
    ['a=[1,2', 'a "[" is not closed'],
    ['a=1]', 'a "]" has no "[" before it'],
  ])('what does not balance is refused: %s', (text, message) => {
    expect(() => splitAtCommas(text)).toThrow(message);
  });

  test('quotes are taken off; a doubled one inside quotes stays once', () => {
    expect(unquote('"a ""b"" c"')).toBe('a "b" c');
    expect(unquote('a"b,c"d')).toBe('ab,cd');
    expect(unquote('""')).toBe('');
  });

  test('whatever is quoted comes back as it was', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(key, fc.string({ unit: 'binary' })), { minLength: 1 }), (pairs) => {
        const text = pairs.map(([name, value]) => `${name}=${quote(value)}`).join(',');
        const parsed = parseParts(text).map((part) => [part.key, unquote(part.value ?? '')]);
        expect(parsed).toEqual(pairs);
      }),
    );
  });

  test('whatever is quoted comes back from a list', () => {
    fc.assert(
      fc.property(fc.array(anyText, { minLength: 1 }), (elements) => {
        expect(parseList(`[${elements.map(quote).join(',')}]`)).toEqual(elements);
      }),
    );
  });

  test('a list may do without brackets around one element', () => {
    expect(parseList('a')).toEqual(['a']);
    expect(parseList('[]')).toEqual([]);
    expect(parseList('["a,b", c]')).toEqual(['a,b', 'c']);
  });

  test('any text is either read or refused, and splitting loses nothing', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        try {
          expect(splitAtCommas(text).join(',')).toBe(text);
          parseParts(text);
        } catch (error) {
          expect(error).toBeInstanceOf(GrammarError);
        }
      }),
    );
  });
});
