// The log collector of the examples, with guests that are only streams.

import { Duplex, Writable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { LogCollector } from '../../examples/log-collector.js';
import type { Vm, VsockStream } from '../../src/index.js';

const never = new AbortController().signal;

/** What a guest sends, and what it is told. */
class GuestStream extends Duplex {
  told = '';

  override _read(): void {
    // Pushed by the test.
  }

  override _write(bytes: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    this.told += bytes.toString();
    callback();
  }
}

/** A collector with one guest, which may call as often as it likes. */
function setUp(output?: Writable): { collector: LogCollector; records: unknown[]; call: () => Promise<GuestStream> } {
  const records: unknown[] = [];
  const collecting = new Writable({
    write: (bytes: Buffer, _encoding, callback) => {
      const { received, ...record } = JSON.parse(bytes.toString()) as Record<string, unknown>;
      expect(received).toMatch(/^\d{4}-\d\d-\d\dT/);
      records.push(record);
      callback();
    },
  });
  const collector = new LogCollector(output ?? collecting);
  let accept: ((stream: VsockStream) => void) | undefined;
  const listen = (_port: number, onConnection: typeof accept): void => {
    accept = onConnection;
  };
  collector.attach('a', { vsock: { listen } } as unknown as Vm);
  const call = async (): Promise<GuestStream> => {
    const stream = new GuestStream();
    accept?.(stream as unknown as VsockStream);
    await turn();
    return stream;
  };
  return { collector, records, call };
}

test('lines become records in their order: objects of JSON, and anything else as text', async () => {
  const { collector, records, call } = setUp();
  const stream = await call();
  expect(stream.told).toBe('1\n');
  stream.push('{"level":"info"}\nplain');
  stream.push(' text\n[1\n7\n\n');
  await collector.waitFor('a', 5, never);
  expect(records).toEqual([
    { guest: 'a', line: 1, entry: { level: 'info' } },
    { guest: 'a', line: 2, text: 'plain text' },
    { guest: 'a', line: 3, text: '[1' },
    { guest: 'a', line: 4, text: '7' },
    { guest: 'a', line: 5, text: '' },
  ]);
  expect(collector.count('a')).toBe(5);
  expect(collector.count('b')).toBe(0);
});

test('a guest that calls again is told to go on behind the last whole line, and the call before is over', async () => {
  const { collector, records, call } = setUp();
  const first = await call();
  first.push('one\ntwo\nthr');
  await collector.waitFor('a', 2, never);
  const second = await call();
  expect(first.destroyed).toBe(true);
  await turn();
  expect(second.told).toBe('3\n');
  second.push('three\n');
  await collector.waitFor('a', 3, never);
  expect(records.map((record) => (record as { text: string }).text)).toEqual(['one', 'two', 'three']);
});

test('of a line without end only the beginning is kept', async () => {
  const { collector, records, call } = setUp();
  const stream = await call();
  for (let piece = 0; piece < 100; piece++) stream.push('x'.repeat(1000));
  stream.push('x\nnext\n');
  await collector.waitFor('a', 2, never);
  expect(records).toEqual([
    { guest: 'a', line: 1, text: 'x'.repeat(65_536), cut: true },
    { guest: 'a', line: 2, text: 'next' },
  ]);
});

test('waiting ends with the signal, and when the records cannot be written', async () => {
  const stop = new AbortController();
  const full = new Writable({
    write: (_bytes, _encoding, callback) => callback(new Error('no space left')),
  });
  const { collector, call } = setUp(full);
  const aborted = collector.waitFor('a', 1, stop.signal);
  stop.abort(new Error('enough'));
  await expect(aborted).rejects.toThrow('enough');
  const waiting = collector.waitFor('a', 2, never);
  (await call()).push('one\n');
  await expect(waiting).rejects.toThrow('no space left');
});
