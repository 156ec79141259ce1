// The kinds of value that options take.

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { byteSize, choice, integer, list, path, text, toggle } from '../../src/config/values.js';

describe('values of options', () => {
  test.each([
    ['4096', 4096],
    ['1K', 1024],
    ['512M', 512 * 1024 ** 2],
    ['4G', 4 * 1024 ** 3],
    ['1T', 1024 ** 4],
    ['"1G"', 1024 ** 3],
  ])('the size %s is %i bytes', (given, bytes) => {
    expect(byteSize.parse(given)).toBe(bytes);
  });

  test.each([
    ['128m', 'Write 128M.'],
    ['2 GiB', 'Write 2G.'],
    ['16KB', 'Write 16K.'],
    ['1.5G', 'Give a number of bytes'],
    ['', 'Give a number of bytes'],
    ['G', 'Give a number of bytes'],
    ['0x1000', 'Give a number of bytes'],
  ])('the size %j is refused with the mend: %s', (given, mend) => {
    expect(() => byteSize.parse(given)).toThrow(mend);
  });

  test('any number with any suffix is a size', () => {
    fc.assert(
      fc.property(fc.nat(), fc.constantFrom('', 'K', 'M', 'G', 'T'), (count, suffix) => {
        expect(byteSize.parse(`${count}${suffix}`)).toBe(count * 1024 ** ' KMGT'.indexOf(suffix || ' '));
      }),
    );
  });

  test.each(['abc', '3.0', '1e3', '0x3', '', '3 ', '३'])('%j is not a whole number', (given) => {
    expect(() => integer.parse(given)).toThrow('is not a whole number');
  });

  test('whole numbers are read as they are written', () => {
    fc.assert(
      fc.property(fc.integer(), (value) => {
        expect(integer.parse(String(value))).toBe(value);
      }),
    );
  });

  test('on and off, true and false, in any case', () => {
    expect(['on', 'TRUE', 'off', 'False'].map(toggle.parse)).toEqual([true, true, false, false]);
    expect(() => toggle.parse('yes')).toThrow('"yes" is neither on nor off');
  });

  test('one of a few words', () => {
    const kind = choice({ io_uring: 1, threads: 2 });
    expect(kind.parse('threads')).toBe(2);
    expect(() => kind.parse('thread')).toThrow('"thread" is not one of io_uring, threads. Did you mean threads?');
    expect(() => kind.parse('constructor')).toThrow('is not one of');
  });

  test('a list of values', () => {
    expect(list(integer).parse('[1,2,3]')).toEqual([1, 2, 3]);
    expect(list(text()).parse('["a,b","say ""x"""]')).toEqual(['a,b', 'say "x"']);
  });

  test('a path is not empty', () => {
    expect(path.parse('"/tmp/a,b"')).toBe('/tmp/a,b');
    expect(() => path.parse('""')).toThrow('the path is empty');
  });
});
