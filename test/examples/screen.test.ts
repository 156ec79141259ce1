// What the web example shows of a guest's console: text, whatever the guest prints.

import { describe, expect, test } from '@jest/globals';
import { MAX_LINES, Screen } from '../../examples/web/client/screen.js';
import { ConsoleLog } from '../../examples/web/console-log.js';
import { Random } from '../support/random.js';

function shown(...pieces: (string | Uint8Array)[]): string[] {
  const screen = new Screen();
  for (const piece of pieces) screen.write(typeof piece === 'string' ? Buffer.from(piece) : piece);
  return screen.lines;
}

describe('the screen', () => {
  test.each([
    ['lines', 'one\r\ntwo\r\n', ['one', 'two', '']],
    ['carriage return goes back to the start of the line', 'first\rse', ['serst']],
    ['backspace as a line editor uses it', 'abc\b \b\b \bX', ['aX ']],
    ['tabs', 'a\tb\r\n\tc', ['a       b', '        c']],
    ['erase to the end of the line', 'abcdef\b\b\b\x1b[K!', ['abc!']],
    ['colours are dropped', '\x1b[1;31mred\x1b[0m \x1b[38;5;2mgreen', ['red green']],
    ['titles and other strings are dropped', 'a\x1b]0;title\x07b\x1bP1$r\x1b\\c', ['abc']],
    ['character sets are dropped', '\x1b(Ba', ['a']],
    ['a broken sequence does not hide the next line', '\x1b[31\r\nnext', ['', 'next']],
    ['bells are dropped, other controls are shown', 'a\x07\x00\x03\x7f', ['a\u2400\u2403\u2421']],
    ['what would reorder text is shown', 'a\u202eb\u2066c\u200bd', ['a\ufffdb\ufffdc\ufffdd']],
    ['markup is text', '<script>x</script>&amp;', ['<script>x</script>&amp;']],
  ])('%s', (_name, text, lines) => {
    expect(shown(text)).toEqual(lines);
  });

  test('characters may be cut anywhere, and bytes that are none are shown', () => {
    const bytes = Buffer.from('gr\u00fc\u00df');
    expect(shown(...[...bytes].map((byte) => Uint8Array.of(byte)))).toEqual(['gr\u00fc\u00df']);
    expect(shown(Uint8Array.of(0x61, 0xff, 0xc3, 0x62))).toEqual(['a\ufffd\ufffdb']);
  });

  test('an endless sequence swallows a little only', () => {
    expect(shown(`\x1b]${'x'.repeat(10_000)}`).join('').length).toBeGreaterThan(9000);
  });

  test('it is bounded, in lines and in columns', () => {
    const screen = new Screen();
    screen.write(Buffer.from('x'.repeat(1_000_000)));
    screen.write(Buffer.from('line\n'.repeat(5000)));
    expect(screen.lines).toHaveLength(MAX_LINES);
    expect(Math.max(...screen.lines.map((line) => line.length))).toBeLessThanOrEqual(1000);
  });

  test('what changed is enough to draw it: a copy that follows is the same', () => {
    const random = new Random(7);
    const pieces = ['a', 'bc', '\r\n', '\n', '\r', '\b', '\x1b[K', '\t', 'x'.repeat(1500), '\n'.repeat(700)];
    const screen = new Screen();
    let copy: string[] = [];
    for (let round = 0; round < 300; round++) {
      for (let count = random.below(5); count > 0; count--) screen.write(Buffer.from(random.pick(pieces)));
      if (random.oneIn(100)) screen.clear();
      if (random.oneIn(50)) screen.note('something');
      const { dropped, first } = screen.takeChanges();
      copy = copy.slice(dropped).slice(0, first);
      copy.push(...screen.lines.slice(copy.length));
      expect(copy).toEqual(screen.lines);
    }
  });
});

describe('the log behind it', () => {
  test('gives what was printed from any position that is kept', () => {
    const random = new Random(8);
    const log = new ConsoleLog();
    let all = Buffer.alloc(0);
    for (let round = 0; round < 60; round++) {
      const piece = Buffer.from(Array.from({ length: random.size(40_000) }, () => random.below(256)));
      log.append(piece);
      all = Buffer.concat([all, piece]);
      const position = random.below(all.length + 1);
      const { from, bytes } = log.read(position, 10_000);
      expect(log.printed).toBe(all.length);
      expect(from).toBe(Math.max(position, all.length - 256 * 1024));
      expect(bytes.equals(all.subarray(from, from + 10_000))).toBe(true);
    }
    log.append(Buffer.alloc(1_000_000, 'z'));
    expect(log.read(0, 4)).toEqual({ from: all.length + 1_000_000 - 256 * 1024, bytes: Buffer.from('zzzz') });
  });
});
