// Which typed bytes are for the guest and which for the monitor.

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { EscapeFilter, type KeyEvent } from '../../src/cli/escape-filter.js';

function type(pieces: readonly string[], interruptOnCtrlC = false): unknown[] {
  const filter = new EscapeFilter({ interruptOnCtrlC });
  return merged(pieces.flatMap((piece) => filter.push(Buffer.from(piece, 'latin1'))));
}

/** Events in a form that does not depend on how the input was cut: text joined, commands by name in brackets. */
function merged(events: readonly KeyEvent[]): unknown[] {
  const result: unknown[] = [];
  for (const event of events) {
    const last = result.at(-1);
    if (event.kind !== 'bytes') result.push({ [event.kind]: true });
    else if (typeof last === 'string') result[result.length - 1] = last + Buffer.from(event.bytes).toString('latin1');
    else result.push(Buffer.from(event.bytes).toString('latin1'));
  }
  return result;
}

describe('the escape filter', () => {
  test('Ctrl-A x ends the VM', () => {
    expect(type(['ls\r\x01xrest'])).toEqual(['ls\r', { quit: true }, 'rest']);
    expect(type(['\x01X'])).toEqual([{ quit: true }]);
  });

  test('Ctrl-A h asks for help', () => {
    expect(type(['\x01h\x01?'])).toEqual([{ help: true }, { help: true }]);
  });

  test('Ctrl-A a types a Ctrl-A, and so does Ctrl-A twice', () => {
    expect(type(['\x01a'])).toEqual(['\x01']);
    expect(type(['x\x01\x01y'])).toEqual(['x\x01y']);
  });

  test('of an unknown sequence nothing is typed', () => {
    expect(type(['a\x01zb'])).toEqual(['ab']);
  });

  test('a sequence may come in pieces', () => {
    expect(type(['a\x01', 'x'])).toEqual(['a', { quit: true }]);
  });

  test('Ctrl-C is for the guest, unless it interrupts', () => {
    expect(type(['a\x03b'])).toEqual(['a\x03b']);
    expect(type(['a\x03b'], true)).toEqual(['a', { interrupt: true }, 'b']);
  });

  test('Ctrl-C interrupts in the middle of a sequence too', () => {
    expect(type(['\x01\x03x'], true)).toEqual([{ interrupt: true }, 'x']);
  });

  // Mostly the bytes that mean something, so that sequences do come up.
  const input = fc
    .uint8Array({ maxLength: 60 })
    .chain((random) =>
      fc
        .array(fc.oneof(fc.constantFrom(1, 1, 3, 0x61, 0x78, 0x68), fc.nat(255)), { maxLength: 60 })
        .map((common) => [...random, ...common]),
    );

  test('how the input is cut changes nothing', () => {
    fc.assert(
      fc.property(input, fc.array(fc.nat(120)), fc.boolean(), (bytes, cuts, interruptOnCtrlC) => {
        const text = Buffer.from(bytes).toString('latin1');
        const ends = [...cuts.filter((cut) => cut < text.length).sort((a, b) => a - b), text.length];
        const pieces = ends.map((end, index) => text.slice(ends[index - 1] ?? 0, end));
        expect(type(pieces, interruptOnCtrlC)).toEqual(type([text], interruptOnCtrlC));
      }),
    );
  });

  test('input without Ctrl-A and Ctrl-C goes through as it is', () => {
    fc.assert(
      fc.property(input, (bytes) => {
        const plain = bytes.filter((byte) => byte !== 1 && byte !== 3);
        const text = Buffer.from(plain).toString('latin1');
        expect(type([text], true)).toEqual(text === '' ? [] : [text]);
      }),
    );
  });

  test('anything can be typed, a Ctrl-A by typing it twice', () => {
    fc.assert(
      fc.property(input, (bytes) => {
        const text = Buffer.from(bytes).toString('latin1');
        expect(type([text.replaceAll('\x01', '\x01a')])).toEqual(text === '' ? [] : [text]);
      }),
    );
  });
});
