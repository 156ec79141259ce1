// Finding the word that was meant.

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { editDistance, nearest, suggest } from '../../src/config/nearest.js';

describe('the nearest word', () => {
  test.each([
    ['vsokc', 'vsock', 1],
    ['kernal', 'kernel', 1],
    ['sock', 'socket', 2],
    ['', 'abc', 3],
    ['abc', 'abc', 0],
  ])('%s is %s away from %s by %i', (a, b, distance) => {
    expect(editDistance(a, b)).toBe(distance);
  });

  test('the distance is symmetric, and 0 only for the same word', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 12 }), fc.string({ maxLength: 12 }), (a, b) => {
        const distance = editDistance(a, b);
        expect(editDistance(b, a)).toBe(distance);
        expect(distance === 0).toBe(a === b);
        expect(distance).toBeLessThanOrEqual(Math.max(a.length, b.length));
      }),
    );
  });

  test('a slip is corrected, whatever its case', () => {
    expect(nearest('Vsok', ['kernel', 'vsock', 'console'])).toBe('vsock');
  });

  test('nothing is suggested for a word that is like none', () => {
    expect(nearest('zzz', ['kernel', 'vsock'])).toBeUndefined();
    expect(nearest('x', ['v'])).toBeUndefined();
  });

  test('a suggestion comes with the list of what there is', () => {
    expect(suggest('sokcet', ['cid', 'socket'])).toBe('Did you mean socket? There are cid, socket.');
    expect(suggest('zzz', ['size'])).toBe('There is only size.');
  });
});
