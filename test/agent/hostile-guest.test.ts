// A guest whose agent means harm: whatever it says or does not say, requests end in time with an AgentError, the process goes on
// with its other work, and the host's memory and disk are not filled.

import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { AgentError } from '../../src/agent/errors.js';
import { FRAME, words } from '../../src/agent/protocol.js';
import { VsockError } from '../../src/vsock/in-process/errors.js';
import { eventually } from '../support/process-state.js';
import { frame, HELLO, ScriptedGuest, started } from '../support/scripted-agent.js';

const NOBODY = 65_534;

let directory = '';
let target = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-hostile-'));
  target = join(directory, 'target');
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

function file(name: string, content = ''): Buffer[] {
  const end = Buffer.concat([words(content.length, 0), words(0)]);
  const data = content === '' ? [] : [frame(FRAME.DATA, content)];
  return [frame(FRAME.FILE, Buffer.concat([Buffer.alloc(12), Buffer.from(name)])), ...data, frame(FRAME.FILE_END, end)];
}

function folder(name: string, mode = 0o755): Buffer {
  return frame(FRAME.DIR, Buffer.concat([words(mode), Buffer.from(name)]));
}

/** The greeting, then `piece` over and over: so often that it would take many times longer than a test waits. */
function* endless(piece: Buffer, before: readonly Buffer[] = []): Generator<Buffer> {
  yield HELLO;
  yield* before;
  const many = Buffer.concat(Array.from({ length: 2000 }, () => piece));
  // There is an end all the same, so that a host that does nothing else comes to it and fails the test.
  for (let count = 0; count < 3000; count++) yield many;
  exhausted = true;
}

let exhausted = false;

describe('what never ends', () => {
  const output = frame(FRAME.STDOUT);

  test('output, grants and news of stdin leave a program its timeout', async () => {
    const pieces = [output, frame(FRAME.STDIN_WINDOW, words(0xffff_ffff)), frame(FRAME.STDIN_CLOSED)];
    const attempts = pieces.map(async (piece) => {
      const guest = new ScriptedGuest({ says: endless(piece, [started()]), hangsUp: true });
      await expect(guest.agent.run(['x'], { timeout: 50 })).rejects.toMatchObject({ code: 'TIMEOUT' });
      await eventually('the connection is over', () => guest.quiet);
    });
    await Promise.all(attempts);
    expect(exhausted).toBe(false);
  }, 60_000);

  test('data without bytes leaves a copy its signal', async () => {
    const begin = frame(FRAME.FILE, Buffer.alloc(12));
    const guest = new ScriptedGuest({ says: endless(frame(FRAME.DATA), [begin]), hangsUp: true });
    const copying = guest.agent.copyOut('/a', target, { signal: AbortSignal.timeout(50) });
    await expect(copying).rejects.toMatchObject({ code: 'ABORTED' });
    expect(exhausted).toBe(false);
    expect(readdirSync(directory)).toEqual([]);
  }, 30_000);

  test('bytes are cut off at maxBytes, entries at maxEntries', async () => {
    const data = [frame(FRAME.FILE, Buffer.alloc(12))];
    const bytes = new ScriptedGuest({ says: endless(frame(FRAME.DATA, 'x'.repeat(1000)), data) });
    const message = expect.stringContaining('maxBytes, 1000000') as unknown;
    await expect(bytes.agent.copyOut('/a', target, { maxBytes: 1_000_000 })).rejects.toMatchObject({
      code: 'TOO_LARGE',
      side: 'host',
      message,
    });
    const entries = new ScriptedGuest({
      says: [HELLO, folder('top'), ...Array.from({ length: 20 }, (_, index) => file(String(index))).flat()],
    });
    await expect(entries.agent.copyOut('/a', target, { maxEntries: 20 })).rejects.toMatchObject({
      code: 'TOO_LARGE',
      message: expect.stringContaining('maxEntries, 20') as unknown,
    });
    expect(readdirSync(directory)).toEqual([]);
  });

  test('folders in folders end at 128', async () => {
    const guest = new ScriptedGuest({ says: endless(folder('d')) });
    await expect(guest.agent.copyOut('/a', target)).rejects.toMatchObject({ code: 'UNSUPPORTED_FILE' });
    expect(readdirSync(directory)).toEqual([]);
  });

  test('a window for stdin is no reason to hold all of stdin in memory', async () => {
    const grants = Array.from({ length: 100 }, () => frame(FRAME.STDIN_WINDOW, words(0xffff_ffff)));
    const guest = new ScriptedGuest({ says: [HELLO, started(0xffff_ffff), ...grants], takes: 100_000 });
    let read = 0;
    const stdin = new Readable({
      read() {
        read += 65_536;
        this.push(read > 256 * 1024 * 1024 ? null : Buffer.alloc(65_536));
      },
    });
    const stop = new AbortController();
    const running = guest.agent.run(['x'], { stdin, signal: stop.signal });
    await eventually('stdin is being sent', () => (guest.streams[0]?.taken ?? 0) > 100_000);
    // A single large piece, too: 64 MiB in one write.
    const [stream] = guest.streams;
    for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
    expect(stream.writableLength).toBeLessThan(1024 * 1024);
    expect(read).toBeLessThan(4 * 1024 * 1024);
    stop.abort();
    stream.destroy();
    await expect(running).rejects.toMatchObject({ code: 'ABORTED' });
  });

  test('calls that the guest makes are kept to a few', async () => {
    const guest = new ScriptedGuest({ says: [] });
    const calls = Array.from({ length: 500 }, () => new PassThrough());
    for (const call of calls) guest.call(call);
    expect(calls.filter(({ destroyed }) => !destroyed).length).toBeLessThanOrEqual(4);
    await guest.agent.waitReady();
    expect(calls.at(-1)?.destroyed).toBe(false);
  });
});

describe('what is never answered', () => {
  const silent = { says: [HELLO] };

  test('is TIMEOUT or ABORTED, and the connection is over', async () => {
    const guest = new ScriptedGuest(silent);
    const { agent } = guest;
    for (const ask of [
      (limits: object) => agent.metrics(limits),
      (limits: object) => agent.ping(limits),
      (limits: object) => agent.run(['x'], limits),
    ]) {
      await expect(ask({ timeout: 20 })).rejects.toMatchObject({ code: 'TIMEOUT' });
      await expect(ask({ signal: AbortSignal.timeout(20) })).rejects.toMatchObject({ code: 'ABORTED' });
    }
    for (const copy of ['copyIn', 'copyOut'] as const) {
      const from = copy === 'copyIn' ? '/etc/passwd' : '/a';
      const copying = agent[copy](from, target, { signal: AbortSignal.timeout(20) });
      await expect(copying).rejects.toMatchObject({ code: 'ABORTED' });
    }
    expect(guest.quiet).toBe(true);
  });

  test('and never taken: a copy in that the agent has refused is over', async () => {
    writeFileSync(target, Buffer.alloc(1_000_000));
    const full = frame(FRAME.ERROR, Buffer.concat([words(9, 28), Buffer.from('/b')]));
    const guest = new ScriptedGuest({ says: [HELLO], takes: 10 });
    const copying = guest.agent.copyIn(target, '/b');
    await eventually('it waits', () => guest.streams[0]?.writableNeedDrain ?? false);
    guest.streams[0].push(full);
    await expect(copying).rejects.toMatchObject({
      code: 'DISK_FULL',
      side: 'guest',
      errno: 28,
    });
    expect(guest.quiet).toBe(true);
  });

  test('a guest that is gone while a copy waits for it is GUEST_GONE', async () => {
    writeFileSync(target, Buffer.alloc(1_000_000));
    const guest = new ScriptedGuest({ says: [HELLO], takes: 10 });
    const copying = guest.agent.copyIn(target, '/b');
    await eventually('it waits', () => guest.streams[0]?.writableNeedDrain ?? false);
    guest.streams[0].destroy(new VsockError('RESET', 7350));
    await expect(copying).rejects.toMatchObject({ name: 'AgentError', code: 'GUEST_GONE' });
  });

  test('a program that has ended is not waited for to take its input', async () => {
    const exit = frame(FRAME.EXIT, words(0, 0));
    const guest = new ScriptedGuest({ says: [HELLO, started(0xffff_ffff), exit], takes: 10 });
    expect(await guest.agent.run(['x'], { stdin: Buffer.alloc(1_000_000) })).toMatchObject({ exitCode: 0 });
  });
});

describe('what cannot be', () => {
  test.each([
    ['an exit code beyond 255, which would be another here', words(256, 0)],
    ['a signal beyond 64', words(0, 65)],
    ['half an end', words(0)],
  ])('%s is PROTOCOL', async (_, exit) => {
    const guest = new ScriptedGuest({ says: [HELLO, started(), frame(FRAME.EXIT, exit)] });
    await expect(guest.agent.run(['x'])).rejects.toMatchObject({ code: 'PROTOCOL' });
  });

  test.each<[string, Buffer[], string]>([
    ['two entries of one name', [...file('a'), folder('a')], 'EXISTS'],
    ['a folder through a link', [frame(FRAME.LINK, 'a\0/tmp'), folder('a')], 'EXISTS'],
    ['a file through a link', [frame(FRAME.LINK, 'a\0/tmp/x'), ...file('a')], 'EXISTS'],
    ['a link through a link', [frame(FRAME.LINK, 'a\0/tmp/x'), frame(FRAME.LINK, 'a\0y')], 'EXISTS'],
    ['an absolute name', file('/etc/x'), 'PROTOCOL'],
    ['a name that is none', [frame(FRAME.LINK, '\0x')], 'PROTOCOL'],
    ['a name with a NUL', file('a\0b'), 'PROTOCOL'],
    ['a name that is too long', file('x'.repeat(256)), 'IO'],
    ['a link without a target', [frame(FRAME.LINK, 'a\0')], 'PROTOCOL'],
    ['a checksum that lies', [...file('a', 'x')], 'CHECKSUM'],
    ['the end of a file that was not begun', [frame(FRAME.FILE_END, Buffer.alloc(12))], 'PROTOCOL'],
    ['data of no file', [frame(FRAME.DATA, 'x')], 'PROTOCOL'],
    ['the end of the tree within a folder', [frame(FRAME.TREE_END)], 'PROTOCOL'],
    ['half a head', [frame(FRAME.FILE, 'x')], 'PROTOCOL'],
  ])('%s in a tree leaves nothing on the host', async (_, entries, code) => {
    // Beside a folder that not even its owner may write to.
    const closed = [folder('closed', 0), ...file('inner'), frame(FRAME.UP)];
    const guest = new ScriptedGuest({ says: [HELLO, folder('top'), ...closed, ...entries] });
    await expect(guest.agent.copyOut('/a', target)).rejects.toMatchObject({ name: 'AgentError', code });
    expect(readdirSync(directory)).toEqual([]);
    expect(existsSync('/tmp/x')).toBe(false);
  });

  test('folders that a user may not write to are removed all the same', async () => {
    if (process.getuid?.() !== 0 || process.seteuid === undefined) return;
    chownSync(directory, NOBODY, NOBODY);
    const closed = [folder('a', 0o500), folder('b', 0), ...file('c'), frame(FRAME.UP), ...file('d'), frame(FRAME.UP)];
    const guest = new ScriptedGuest({ says: [HELLO, folder('top'), ...closed, frame(FRAME.TREE_END)] });
    process.seteuid(NOBODY);
    try {
      await expect(guest.agent.copyOut('/a', target)).rejects.toMatchObject({ code: 'PROTOCOL' });
    } finally {
      process.seteuid(0);
    }
    expect(readdirSync(directory)).toEqual([]);
  });

  test('control characters of a guest do not reach a terminal through messages', async () => {
    const evil = 'a\u001b[2J\u009b2J\u202e\n';
    const error = frame(FRAME.ERROR, Buffer.concat([words(8, 5), Buffer.from(evil.repeat(1000))]));
    const failing = new ScriptedGuest({ says: [HELLO, error] });
    const clash = new ScriptedGuest({ says: [HELLO, folder('top'), folder(evil), frame(FRAME.UP), folder(evil)] });
    const wrong = new ScriptedGuest({ says: [HELLO, folder('top'), ...file(evil, 'x')] });
    for (const { agent } of [failing, clash, wrong]) {
      const reason: unknown = await agent.copyOut('/a', target).catch((thrown: unknown) => thrown);
      const { message } = reason as AgentError;
      expect(message).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202e]/);
      expect(message).toContain('2J');
      expect(message.length).toBeLessThan(40_000);
    }
  });
});

describe('what the caller cannot mean', () => {
  test.each(['', 'a\0b'])('%j is no path of the guest: TypeError, before anything is asked', async (path) => {
    const guest = new ScriptedGuest({ says: [HELLO] });
    await expect(guest.agent.copyIn('/etc/passwd', path)).rejects.toThrow(TypeError);
    await expect(guest.agent.copyOut(path, target)).rejects.toThrow(TypeError);
    expect(guest.streams).toEqual([]);
  });
});

describe('anything', () => {
  const type = fc.oneof(fc.constantFrom(...Object.values(FRAME)), fc.nat(300));
  const payload = fc.oneof(
    fc.uint8Array({ maxLength: 24 }),
    fc.constantFrom(
      words(0),
      words(0, 0),
      words(0o755),
      words(1, 65_536),
      Buffer.from('a\0b'),
      Buffer.concat([words(0o755), Buffer.from('a')]),
      Buffer.concat([Buffer.alloc(12), Buffer.from('b')]),
      Buffer.alloc(12),
    ),
  );
  const frames = fc.array(
    fc.tuple(type, payload).map(([number, bytes]) => frame(number, bytes)),
    { maxLength: 30 },
  );
  const torn = fc.tuple(frames, fc.nat(12), fc.boolean(), fc.nat(40)).map(([list, cut, greets, piece]) => {
    const whole = Buffer.concat([...(greets ? [HELLO] : []), ...list]);
    const bytes = whole.subarray(0, Math.max(0, whole.length - cut));
    const size = piece + 1;
    return Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) =>
      bytes.subarray(at * size, (at + 1) * size),
    );
  });

  test('that it sends leads to a result or an AgentError, and nothing of it stays', async () => {
    const source = join(directory, 'source');
    mkdirSync(source);
    writeFileSync(join(source, 'file'), 'content');
    await fc.assert(
      fc.asyncProperty(torn, async (says) => {
        const { agent } = new ScriptedGuest({ says, hangsUp: true });
        const requests = [
          agent.run(['x'], { stdin: Buffer.from('input') }),
          agent.metrics(),
          agent.ping(),
          agent.copyIn(source, '/a'),
          agent.copyOut('/a', target),
        ];
        for (const result of await Promise.allSettled(requests)) {
          if (result.status === 'rejected') expect(result.reason).toMatchObject({ name: 'AgentError' });
        }
        expect(readdirSync(directory).filter((name) => name.startsWith('.'))).toEqual([]);
        // A tree that was whole is there.
        if (existsSync(target)) rmSync(target, { recursive: true });
      }),
      { numRuns: 400 },
    );
    expect(readFileSync(join(source, 'file'), 'utf8')).toBe('content');
  }, 60_000);
});
