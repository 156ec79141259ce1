// What a console has printed: what is kept, what is found in it, who waits for it and who reads it as a stream.

import { once } from 'node:events';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ConsoleReader } from '../../../src/vmm/consoles/console-reader.js';
import { KEPT_BYTES, OutputHistory } from '../../../src/vmm/consoles/output-history.js';
import { LOOK_BACK_BYTES, OutputSearch } from '../../../src/vmm/consoles/output-search.js';

function printed(text: string): Uint8Array {
  return Buffer.from(text);
}

describe('the history of a console', () => {
  test('keeps the last bytes, as many as it promises, at positions that do not change', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 40 }), (pieces) => {
        const history = new OutputHistory(32, 8);
        const all = Buffer.concat(pieces);
        for (const piece of pieces) history.append(piece);
        expect(history.end).toBe(all.length);
        expect(history.start).toBeLessThanOrEqual(Math.max(0, all.length - 32));
        expect(all.length - history.start).toBeLessThanOrEqual(40);
        expect(history.view(history.start)).toEqual(all.subarray(history.start));
        expect(history.view(0, history.start)).toHaveLength(0);
      }),
    );
  });

  test('of a guest that prints for ever takes bounded memory', () => {
    const history = new OutputHistory();
    const piece = Buffer.alloc(1024 * 1024, 'x');
    for (let count = 0; count < 50; count++) history.append(piece);
    expect(history.end - history.start).toBeGreaterThanOrEqual(KEPT_BYTES);
    expect(history.view(0).buffer.byteLength).toBeLessThanOrEqual(1.25 * KEPT_BYTES);
  });
});

describe('a search in the output', () => {
  test('finds text wherever it is cut into pieces, and says where it is', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.integer({ min: 1, max: 7 }), (before, size) => {
        const all = Buffer.from(`${before}needle é after`);
        const history = new OutputHistory();
        const searches = ['needle é', /n(e+)dle (?<accent>é)/].map((pattern) => new OutputSearch(history, pattern, 0));
        const found = searches.map((): ReturnType<OutputSearch['next']> => undefined);
        for (let position = 0; position < all.length; position += size) {
          history.append(all.subarray(position, position + size));
          searches.forEach((search, index) => (found[index] ??= search.next()));
        }
        const start = all.indexOf('needle é');
        const place = { text: 'needle é', start, end: start + 'needle é'.length + 1 };
        expect(found).toEqual([
          { ...place, captures: [], groups: {} },
          { ...place, captures: ['ee', 'é'], groups: expect.objectContaining({ accent: 'é' }) as unknown },
        ]);
      }),
    );
  });

  test('says where a match is in output that is no UTF-8', () => {
    const history = new OutputHistory();
    history.append(Buffer.from([0xff, 0xfe, 0xc3, 0x41, 0x42, 0xff, 0x43]));
    expect(new OutputSearch(history, /AB/, 0).next()).toMatchObject({ start: 3, end: 5 });
    expect(new OutputSearch(history, 'C', 0).next()).toMatchObject({ start: 6, end: 7 });
  });

  test('an anchor means the beginning of the output or of a line, not that of what is looked at', () => {
    const history = new OutputHistory();
    const [start, line] = [new OutputSearch(history, /^login/, 0), new OutputSearch(history, /^login/m, 0)];
    history.append(printed(`x${'.'.repeat(3 * LOOK_BACK_BYTES)}`));
    expect([start.next(), line.next()]).toEqual([undefined, undefined]);
    history.append(printed('login\nlogin'));
    expect(start.next()).toBeUndefined();
    expect(line.next()).toMatchObject({ start: 3 * LOOK_BACK_BYTES + 7 });
  });

  test('does not touch the RegExp it was given, sticky or global as it may be', () => {
    const history = new OutputHistory();
    history.append(printed('aab'));
    const pattern = /b/gy;
    expect(new OutputSearch(history, pattern, 0).next()).toMatchObject({ start: 2 });
    expect(pattern.lastIndex).toBe(0);
  });
});

describe('waiting for output', () => {
  test('finds what was printed before, and then what comes, from a position on', async () => {
    const reader = new ConsoleReader();
    reader.append(printed('one two '));
    const first = await reader.waitFor('two', {});
    const second = reader.waitFor('two', { from: first.end });
    reader.append(printed('three tw'));
    reader.append(printed('o'));
    expect((await second).start).toBe(14);
  });

  test('in vain is an error with the end of the output: time, the end of the VM, an abort', async () => {
    const reader = new ConsoleReader();
    reader.append(printed('so far\n'));
    const details = { name: 'ConsoleError', tail: 'so far\n', pattern: 'login:' };
    await expect(reader.waitFor('login:', { timeout: 0 })).rejects.toMatchObject({ ...details, code: 'TIMED_OUT' });
    await expect(reader.waitFor('login:', { timeout: 0 })).rejects.toThrow(
      'the guest has not printed "login:" within 0 ms; the output ends with:\nso far\n',
    );
    await expect(reader.waitFor('login:', { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
    const controller = new AbortController();
    const aborted = reader.waitFor('login:', { signal: controller.signal });
    controller.abort(new Error('enough'));
    await expect(aborted).rejects.toMatchObject({ code: 'ABORTED', cause: new Error('enough') });
    const ended = reader.waitFor('login:', {});
    reader.end();
    await expect(ended).rejects.toMatchObject({ ...details, code: 'ENDED' });
    await expect(reader.waitFor('login:', {})).rejects.toMatchObject({ code: 'ENDED' });
    expect((await reader.waitFor(/s. far/, {})).text).toBe('so far');
  });

  test('what is printed right before the end is found', async () => {
    const reader = new ConsoleReader();
    const waiting = reader.waitFor('bye', {});
    reader.append(printed('bye'));
    reader.end();
    expect((await waiting).end).toBe(3);
  });

  test('arguments that cannot be are refused', async () => {
    const reader = new ConsoleReader();
    await expect(reader.waitFor('x', { timeout: -1 })).rejects.toThrow(RangeError);
    await expect(reader.waitFor('x', { timeout: Number.NaN })).rejects.toThrow(RangeError);
    await expect(reader.waitFor('x', { from: 0.5 })).rejects.toThrow(RangeError);
  });
});

describe('a console as a stream', () => {
  test('has everything from the first byte to the end, and types what is written', async () => {
    const reader = new ConsoleReader();
    reader.append(printed('before '));
    const typed: Buffer[] = [];
    const stream = reader.stream((bytes) => {
      typed.push(Buffer.from(bytes));
      return Promise.resolve();
    });
    stream.write('hello');
    reader.append(printed('after'));
    reader.end();
    const pieces: Buffer[] = [];
    for await (const piece of stream) pieces.push(piece as Buffer);
    expect(Buffer.concat(pieces).toString()).toBe('before after');
    expect(Buffer.concat(typed).toString()).toBe('hello');
  });

  test('that falls further behind than is kept fails; one that is destroyed hears of nothing', async () => {
    const reader = new ConsoleReader();
    const [slow, gone] = [reader.stream(() => Promise.resolve()), reader.stream(() => Promise.resolve())];
    gone.destroy();
    const piece = Buffer.alloc(1024 * 1024, 'x');
    for (let count = 0; count < 30; count++) reader.append(piece);
    slow.resume();
    const [error] = (await once(slow, 'error')) as [unknown];
    expect(error).toMatchObject({ name: 'ConsoleError', code: 'FELL_BEHIND' });
    expect(gone.readableLength).toBe(0);
  });
});
