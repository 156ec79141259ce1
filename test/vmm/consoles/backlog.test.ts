import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Backlog } from '../../../src/vmm/consoles/backlog.js';

function takeAll(backlog: Backlog): string {
  let text = '';
  while (backlog.length > 0) {
    const piece = Buffer.from(backlog.peek());
    text += piece.toString('latin1');
    backlog.drop(piece.length);
  }
  return text;
}

test('a backlog keeps the last bytes, in order, whatever is pushed and taken', () => {
  const step = fc.oneof(
    fc.record({ push: fc.string({ maxLength: 40, unit: 'grapheme-ascii' }) }),
    fc.record({ drop: fc.nat(20) }),
  );
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const backlog = new Backlog(16);
      let model = '';
      for (const current of steps) {
        if ('push' in current) {
          backlog.push(Buffer.from(current.push));
          model = (model + current.push).slice(-16);
        } else {
          const piece = Buffer.from(backlog.peek().subarray(0, current.drop)).toString('latin1');
          backlog.drop(piece.length);
          expect(model.startsWith(piece)).toBe(true);
          model = model.slice(piece.length);
        }
        expect(backlog.length).toBe(model.length);
      }
      expect(takeAll(backlog)).toBe(model);
    }),
  );
});

test('an empty backlog has nothing to show', () => {
  expect(new Backlog().peek()).toHaveLength(0);
});
