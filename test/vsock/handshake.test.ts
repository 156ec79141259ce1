import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { HANDSHAKE_LIMIT, parseHandshake } from '../../src/vsock/handshake.js';

const parse = (text: string): ReturnType<typeof parseHandshake> => {
  const bytes = Buffer.from(text, 'latin1');
  return parseHandshake(bytes, bytes.length);
};

describe('rule 16: the CONNECT line', () => {
  test.each([
    ['CONNECT 0\n', 0],
    ['CONNECT 7\n', 7],
    ['CONNECT 0080\n', 80],
    ['CONNECT 4294967295\n', 4294967295],
  ])('%j is a request', (text, port) => {
    expect(parse(text)).toEqual({ port, length: text.length });
  });

  test('what follows the line feed is not part of it', () => {
    expect(parse('CONNECT 7\nCONNECT 8\n')).toEqual({ port: 7, length: 10 });
    expect(parse(`CONNECT 7\n${'x'.repeat(1000)}`)).toEqual({ port: 7, length: 10 });
  });

  test.each([
    'CONNECT \n',
    'CONNECT\n',
    '\n',
    'connect 7\n',
    'CONNECT  7\n',
    ' CONNECT 7\n',
    'CONNECT 7 \n',
    'CONNECT 7\r\n',
    'CONNECT -7\n',
    'CONNECT +7\n',
    'CONNECT 0x7\n',
    'CONNECT 7.0\n',
    'CONNECT seven\n',
    'CONNECT 4294967296\n',
    'CONNECT 99999999999999999999\n',
    `CONNECT ${'0'.repeat(HANDSHAKE_LIMIT)}7\n`,
    'GET / HTTP/1.1\r\n',
    'CONNECT 7\u0000\n',
  ])('%j is refused', (text) => {
    expect(parse(text)).toBe('invalid');
  });

  test('a line in pieces is partial until its line feed', () => {
    const text = 'CONNECT 1234\n';
    for (let length = 0; length < text.length; length++) expect(parse(text.slice(0, length))).toBe('partial');
    expect(parse(text)).toEqual({ port: 1234, length: text.length });
  });

  test('any bytes: an answer, and partial only where some continuation is a request', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        const result = parseHandshake(bytes, bytes.length);
        if (result === 'partial') {
          expect('CONNECT '.startsWith(Buffer.from(bytes.subarray(0, 8)).toString('latin1'))).toBe(true);
          expect(bytes.length).toBeLessThan(HANDSHAKE_LIMIT);
        }
      }),
      { numRuns: 1000 },
    );
  });
});
