// Programs that the agent runs: how they end, what they read and write, and that none is left behind.

import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { GuestProcess } from '../../src/agent/program.js';
import { LocalAgent } from '../support/local-agent.js';

const MIB = 1024 * 1024;
let local: LocalAgent;

beforeAll(async () => {
  local = await LocalAgent.start();
});
afterAll(async () => {
  await local.stop();
});

function sh(script: string, ...args: readonly string[]): string[] {
  return ['sh', '-c', script, 'sh', ...args];
}

/** A FIFO that a program of the guest holds open: its end is that of everybody who has it. */
async function holdFifo(name: string): Promise<{ readonly path: string; readonly released: Promise<unknown> }> {
  const path = local.path(name);
  execFileSync('mkfifo', [path]);
  const stream = createReadStream(path);
  const released = once(stream.resume(), 'close');
  await Promise.resolve();
  return { path, released };
}

/** What the process has written when it has written as much as `text`. */
async function readUntil(process: GuestProcess, text: string): Promise<void> {
  let seen = '';
  for await (const piece of process.stdout.iterator({ destroyOnReturn: false })) {
    seen += String(piece);
    if (seen.includes(text)) break;
  }
  process.stdout.resume();
}

describe('how a program ends', () => {
  test.each([0, 1, 7, 255])('its exit code comes back: %d', async (code) => {
    const { exitCode, signal } = await local.agent.run(sh(`exit ${code}`));
    expect([exitCode, signal]).toEqual([code, null]);
  });

  test('a signal that ended it comes back by name', async () => {
    expect(await local.agent.run(sh('kill -TERM $$'))).toMatchObject({ exitCode: null, signal: 'SIGTERM' });
    expect(await local.agent.run(sh('kill -KILL $$'))).toMatchObject({ exitCode: null, signal: 'SIGKILL' });
  });

  test('there is no shell: arguments are as given, empty ones and those of other languages too', async () => {
    const args = ['', '$HOME', 'two words', '"', '*', 'grüße', 'a\nb'];
    const { stdout } = await local.agent.run(['printf', '<%s>', ...args]);
    expect(stdout.toString()).toBe(args.map((each) => `<${each}>`).join(''));
  });

  test('an argument may be as long as Linux takes it', async () => {
    const { stdout } = await local.agent.run(sh('printf %s ${#1}', 'x'.repeat(131_071)));
    expect(stdout.toString()).toBe('131071');
  });

  test('a program that does not exist is PROGRAM_NOT_FOUND, by name and by path', async () => {
    await expect(local.agent.exec(['no-such-program'])).rejects.toMatchObject({
      code: 'PROGRAM_NOT_FOUND',
      errno: 2,
      message: expect.stringContaining('no-such-program') as unknown,
    });
    await expect(local.agent.run(['/no/such'])).rejects.toMatchObject({ code: 'PROGRAM_NOT_FOUND' });
  });

  test('a file that is no program is NOT_EXECUTABLE', async () => {
    await expect(local.agent.run(['/etc/passwd'])).rejects.toMatchObject({ code: 'NOT_EXECUTABLE' });
    await expect(local.agent.run(['/'])).rejects.toMatchObject({ code: 'NOT_EXECUTABLE' });
  });

  test('a working directory that is not there is BAD_CWD', async () => {
    await expect(local.agent.run(['true'], { cwd: '/no/such' })).rejects.toMatchObject({ code: 'BAD_CWD' });
    expect((await local.agent.run(['pwd'], { cwd: '/usr' })).stdout.toString()).toBe('/usr\n');
  });

  test('arguments beyond what a program can be given are TOO_LARGE', async () => {
    const argument = 'x'.repeat(131_072);
    await expect(local.agent.run(['true', argument])).rejects.toMatchObject({ code: 'TOO_LARGE' });
    await expect(local.agent.run(['true', ...Array<string>(40).fill('x'.repeat(100_000))])).rejects.toMatchObject({
      code: 'TOO_LARGE',
    });
  });

  test('mistakes of the caller are TypeErrors', async () => {
    await expect(local.agent.run([])).rejects.toThrow(TypeError);
    await expect(local.agent.run(['a\0b'])).rejects.toThrow(TypeError);
    await expect(local.agent.run(['true'], { env: { 'A=B': 'c' } })).rejects.toThrow(TypeError);
  });
});

describe('its environment', () => {
  test('variables are added, replaced and taken away', async () => {
    const { stdout } = await local.agent.run(['/usr/bin/env'], {
      env: { NEW: 'a=b', HOME: '/elsewhere', PATH: undefined },
    });
    const lines = stdout.toString().split('\n');
    expect(lines).toContain('NEW=a=b');
    expect(lines).toContain('HOME=/elsewhere');
    expect(lines.filter((line) => line.startsWith('PATH='))).toEqual([]);
  }, 20_000);

  test('clearEnv leaves PATH and what is given', async () => {
    const { stdout } = await local.agent.run(['env'], { clearEnv: true, env: { ONLY: '1' } });
    expect(stdout.toString().trim().split('\n').sort()).toEqual([
      expect.stringMatching(/^ONLY=1$/),
      expect.stringMatching(/^PATH=/),
    ]);
  });

  test('none of the descriptors of the agent are passed on', async () => {
    const { stdout } = await local.agent.run(['ls', '/proc/self/fd']);
    // 3 is the folder that ls reads.
    expect(stdout.toString().trim().split('\n')).toEqual(['0', '1', '2', '3']);
  });
});

describe('what it reads and writes', () => {
  test('stdout and stderr come apart', async () => {
    const { stdout, stderr } = await local.agent.run(sh('printf out; printf err >&2'));
    expect([stdout.toString(), stderr.toString()]).toEqual(['out', 'err']);
  });

  test('large outputs on both at once come whole', async () => {
    const size = 8 * MIB;
    const script = `head -c ${size} /dev/zero & head -c ${size} /dev/zero | tr '\\0' x >&2; wait`;
    const { stdout, stderr } = await local.agent.run(sh(script));
    expect(stdout.equals(Buffer.alloc(size))).toBe(true);
    expect(stderr.equals(Buffer.alloc(size, 'x'))).toBe(true);
  }, 60_000);

  test('bytes that are no UTF-8 pass as they are', async () => {
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    expect((await local.agent.run(['cat'], { stdin: bytes })).stdout.equals(bytes)).toBe(true);
  });

  test('without stdin it reads the end at once', async () => {
    expect((await local.agent.run(['cat'])).stdout.length).toBe(0);
  });

  test('50 MB of stdin stream through', async () => {
    const piece = randomBytes(MIB);
    const hash = createHash('sha256');
    const pieces = Array.from({ length: 50 }, () => piece);
    for (const each of pieces) hash.update(each);
    const { stdout, exitCode } = await local.agent.run(['sha256sum'], { stdin: Readable.from(pieces) });
    expect(exitCode).toBe(0);
    expect(stdout.toString()).toBe(`${hash.digest('hex')}  -\n`);
  }, 60_000);

  test('a program that stops reading does not hold up whoever writes', async () => {
    const process = await local.agent.exec(['head', '-c', '5'], { stdin: 'pipe' });
    process.stderr.resume();
    await pipeline(Readable.from([Buffer.alloc(4 * MIB, 'y')]), process.stdin);
    expect((await process.stdout.toArray()).join('')).toBe('yyyyy');
    expect(await process.result).toEqual({ exitCode: 0, signal: null });
  });

  test('a program that never reads can still be killed', async () => {
    const process = await local.agent.exec(['sleep', '1000'], { stdin: Buffer.alloc(4 * MIB) });
    process.stdout.resume();
    process.stderr.resume();
    process.kill('SIGINT');
    expect(await process.result).toEqual({ exitCode: null, signal: 'SIGINT' });
  });

  test('stdin that fails on the host kills the program', async () => {
    const stdin = new Readable({
      read() {
        this.destroy(new Error('torn'));
      },
    });
    await expect(local.agent.run(['cat'], { stdin })).rejects.toMatchObject({ code: 'IO', side: 'host' });
  });

  test('a reader that waits makes the program wait, and loses nothing', async () => {
    const process = await local.agent.exec(sh('seq 1 400000'));
    process.stderr.resume();
    let count = 0;
    let text = '';
    for await (const piece of process.stdout) {
      text += String(piece);
      count += 1;
      if (count % 8 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(text.split('\n').length).toBe(400_001);
    expect(text.endsWith('\n400000\n')).toBe(true);
    expect(await process.result).toEqual({ exitCode: 0, signal: null });
  }, 60_000);

  test('listeners hear the output as it comes', async () => {
    const heard: string[] = [];
    const { stdout } = await local.agent.run(sh('echo a; echo b >&2'), {
      onStdout: (piece) => heard.push(`out ${piece.toString()}`),
      onStderr: (piece) => heard.push(`err ${piece.toString()}`),
    });
    expect(heard.sort()).toEqual(['err b\n', 'out a\n']);
    expect(stdout.toString()).toBe('a\n');
  });

  test('output beyond maxOutput kills the program: TOO_LARGE', async () => {
    await expect(local.agent.run(['cat', '/dev/zero'], { maxOutput: MIB })).rejects.toMatchObject({
      code: 'TOO_LARGE',
    });
  });
});

describe('a terminal', () => {
  test('is one to the program, with its size, and takes another', async () => {
    const script = 'test -t 0 && test -t 1 && test -t 2 && stty size; read line; stty size; echo "<$line>"';
    const process = await local.agent.exec(sh(script), { tty: { rows: 33, columns: 101 }, stdin: 'pipe' });
    process.stderr.resume();
    await readUntil(process, '33 101');
    const rest = process.stdout.toArray();
    process.resize({ rows: 44, columns: 55 });
    process.stdin.write('typed\n');
    expect(await process.result).toEqual({ exitCode: 0, signal: null });
    void rest;
  });

  test('Ctrl-C on it interrupts, its end is Ctrl-D', async () => {
    const process = await local.agent.exec(sh('echo ready; exec sleep 1000'), {
      tty: { rows: 24, columns: 80 },
      stdin: 'pipe',
    });
    process.stderr.resume();
    await readUntil(process, 'ready');
    process.stdin.write('\x03');
    expect(await process.result).toEqual({ exitCode: null, signal: 'SIGINT' });
    const ended = await local.agent.run(['cat'], { tty: { rows: 24, columns: 80 }, stdin: Buffer.from('hello\n') });
    expect(ended.exitCode).toBe(0);
    expect(ended.stdout.toString()).toContain('hello\r\n');
  });
});

describe('nothing is left behind', () => {
  test('timeout kills the process group: TIMEOUT', async () => {
    const fifo = await holdFifo('timeout');
    const run = local.agent.run(sh('exec 9> "$1"; sleep 1000 & sleep 1000', fifo.path), { timeout: 500 });
    await expect(run).rejects.toMatchObject({ code: 'TIMEOUT' });
    await fifo.released;
  }, 20_000);

  test('abort kills the process group: ABORTED', async () => {
    const fifo = await holdFifo('abort');
    const stop = new AbortController();
    const process = await local.agent.exec(sh('exec 9> "$1"; sleep 1000 & echo up; wait', fifo.path), {
      signal: stop.signal,
    });
    await readUntil(process, 'up');
    stop.abort(new Error('enough'));
    await expect(process.result).rejects.toMatchObject({ code: 'ABORTED', cause: new Error('enough') });
    await fifo.released;
    await expect(local.agent.run(['true'], { signal: stop.signal })).rejects.toMatchObject({ code: 'ABORTED' });
  });

  test('abort does so even when nobody reads the output', async () => {
    const stop = new AbortController();
    const process = await local.agent.exec(['cat', '/dev/zero'], { signal: stop.signal });
    await once(process.stdout, 'readable');
    stop.abort();
    await expect(process.result).rejects.toMatchObject({ code: 'ABORTED' });
  });

  test('a host that is gone kills the process group', async () => {
    const other = await LocalAgent.start();
    const fifo = await holdFifo('gone');
    const process = await other.agent.exec(sh('exec 9> "$1"; sleep 1000 & echo up; wait', fifo.path));
    await readUntil(process, 'up');
    other.transport.close();
    await expect(process.result).rejects.toMatchObject({ code: 'GUEST_GONE' });
    await fifo.released;
    await other.stop();
  });

  test('a program that ends does not wait for what it left behind', async () => {
    const fifo = await holdFifo('left');
    const { stdout } = await local.agent.run(sh('exec 9> "$1"; sleep 1000 & echo $!', fifo.path));
    process.kill(Number(stdout.toString()), 'SIGKILL');
    await fifo.released;
  });
});

test('many programs run at once', async () => {
  const runs = Array.from({ length: 40 }, (_, index) => local.agent.run(sh(`echo ${index}; exit ${index}`)));
  const results = await Promise.all(runs);
  expect(results.map(({ exitCode, stdout }) => [exitCode, stdout.toString()])).toEqual(
    results.map((_, index) => [index, `${index}\n`]),
  );
}, 60_000);

/** Becoming another user takes root. */
const describeRoot = process.getuid?.() === 0 ? describe : describe.skip;

describeRoot('another user', () => {
  async function identity(user: string): Promise<string> {
    const { stdout } = await local.agent.run(sh('id -u; id -g; id -G; echo $HOME'), { user });
    return stdout.toString().trim().split('\n').join(' ');
  }

  test('by its name, with its group and its home; by its number', async () => {
    const [, , uid, gid, , home] = passwd('nobody');
    expect(await identity('nobody')).toBe(`${uid} ${gid} ${gid} ${home}`);
    expect(await identity(uid)).toBe(`${uid} ${gid} ${gid} ${home}`);
  });

  test('a number that nobody has, with or without a group', async () => {
    expect(await identity('54321')).toBe('54321 0 0 /');
    expect(await identity('54321:54322')).toBe('54321 54322 54322 /');
  });

  test('a group by its name', async () => {
    expect(await identity('nobody:daemon')).toMatch(/^\d+ 1 1 /);
  });

  test('its variables may be given all the same', async () => {
    const { stdout } = await local.agent.run(sh('echo $HOME'), { user: 'nobody', env: { HOME: '/here' } });
    expect(stdout.toString()).toBe('/here\n');
  });

  test('it is killed with its session like any other', async () => {
    const process = await local.agent.exec(sh('echo $$; exec sleep 1000'), { user: '54321' });
    await readUntil(process, '\n');
    process.kill('SIGKILL');
    expect(await process.result).toMatchObject({ signal: 'SIGKILL' });
  });

  test.each(['no-such-user', 'nobody:no-such-group', ':daemon', '4294967296'])('%s is refused', async (user) => {
    await expect(local.agent.run(['true'], { user })).rejects.toMatchObject({ code: 'NO_USER' });
  });
});

test('the disks are written when it is asked for', async () => {
  await local.agent.sync({ timeout: 60_000 });
});

function passwd(name: string): string[] {
  return execFileSync('getent', ['passwd', name]).toString().trim().split(':');
}
