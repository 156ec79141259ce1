// The agent itself with a host that breaks off, breaks the protocol or holds on to it: it serves others, and leaves no process and
// no file.

import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { FRAME, FrameParser, MAGIC, VERSION, words } from '../../src/agent/protocol.js';
import { LocalAgent } from '../support/local-agent.js';
import { eventually } from '../support/process-state.js';
import { Random } from '../support/random.js';
import { frame, HELLO } from '../support/scripted-agent.js';

/** The agent that listens and the one that calls the host. */
const AT_REST = 2;
const NOBODY = 65_534;
const MARK = `tsvmm-test-${process.pid}`;

let local: LocalAgent;
beforeEach(async () => {
  local = await LocalAgent.start();
});
afterEach(async () => {
  await local.stop();
});

/** Whatever runs with the mark of this test among its arguments. */
function marked(): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(MARK);
    } catch {
      return false;
    }
  });
}

/** Nothing is left of any session, and the agent serves the next. */
async function expectAtRest(of = local, names = ['agent.sock', 'ready.sock']): Promise<void> {
  await eventually('the sessions are over', () => of.processes === AT_REST);
  await eventually('their programs are gone', () => marked().length === 0);
  expect(readdirSync(of.directory).sort()).toEqual(names);
  expect((await of.agent.run(['echo', 'still here'])).stdout.toString()).toBe('still here\n');
}

/** A connection to the agent; when its backlog is full, as soon as it is not. */
async function connected(of = local): Promise<Socket> {
  for (;;) {
    const socket = connect(of.socketPath);
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      await new Promise(setImmediate);
    }
  }
}

/** Sends `bytes` and is gone at once, as when its process is killed. */
async function drop(bytes: Uint8Array, of = local): Promise<void> {
  const socket = await connected(of);
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => {
    socket.write(bytes, () => {
      resolve();
    });
  });
  socket.destroy();
}

function file(name: string, mode: number, content: string): Buffer {
  const end = Buffer.alloc(12);
  end.writeBigUInt64LE(BigInt(content.length));
  // An empty file's checksum is 0.
  return Buffer.concat([
    frame(FRAME.FILE, Buffer.concat([words(mode, 0, 0), Buffer.from(name)])),
    ...(content === '' ? [] : [frame(FRAME.DATA, content)]),
    frame(FRAME.FILE_END, end),
  ]);
}

function folder(name: string, mode: number): Buffer {
  return frame(FRAME.DIR, Buffer.concat([words(mode), Buffer.from(name)]));
}

/** A session that runs a script of the shell. */
function programOf(script: string): Buffer {
  return Buffer.concat([
    HELLO,
    ...['sh', '-c', script, MARK].map((text) => frame(FRAME.ARG, text)),
    ...[frame(FRAME.ENV, 'A=1'), frame(FRAME.CWD, '/'), frame(FRAME.EXEC, words(0)), frame(FRAME.STDIN, 'input')],
    frame(FRAME.SIGNAL, words(0)),
  ]);
}

/** Sessions of each kind, whole but for the last byte's answer. */
function sessions(): Record<string, Buffer> {
  mkdirSync(local.path('tree'), { recursive: true });
  writeFileSync(local.path('tree/file'), 'x'.repeat(300_000));
  return {
    program: programOf('cat; sleep 1000 & sleep 1000'),
    'copy in': Buffer.concat([
      ...[HELLO, frame(FRAME.PUT, local.path('new')), folder('', 0o755), file('a', 0o400, ''), folder('b', 0o500)],
      ...[file('c', 0o600, ''), frame(FRAME.LINK, 'd\0target'), frame(FRAME.UP), folder('e', 0)],
    ]),
    'copy out': Buffer.concat([HELLO, frame(FRAME.GET, local.path('tree'))]),
    questions: Buffer.concat([HELLO, frame(FRAME.PING, 'abc'), frame(FRAME.METRICS), frame(FRAME.PING)]),
  };
}

const NAMES = ['agent.sock', 'ready.sock', 'tree'];

describe('a host that is gone', () => {
  test.each(['program', 'copy in', 'copy out', 'questions'])(
    'at any byte of a session: %s',
    async (kind) => {
      const bytes = sessions()[kind];
      for (let at = 0; at <= bytes.length; at += 1) await drop(bytes.subarray(0, at));
      await expectAtRest(local, NAMES);
    },
    60_000,
  );

  test('in the middle of what the agent sends', async () => {
    const { 'copy out': bytes } = sessions();
    for (let round = 0; round < 30; round++) {
      const socket = connect(local.socketPath);
      socket.write(bytes);
      let left = round * 20_000;
      for await (const piece of socket) {
        left -= (piece as Buffer).length;
        if (left <= 0) break;
      }
    }
    await expectAtRest(local, NAMES);
  }, 60_000);

  test('while the agent is not root, in a folder that its owner may not write to', async () => {
    if (process.getuid?.() !== 0) return;
    const other = await LocalAgent.start(NOBODY);
    try {
      const { 'copy in': whole } = sessions();
      const path = Buffer.from(whole.toString('latin1').replaceAll(local.directory, other.directory), 'latin1');
      expect(path.length).toBe(whole.length);
      await drop(path, other);
      await expectAtRest(other);
    } finally {
      await other.stop();
    }
  });
});

describe('a host that holds on', () => {
  test('to hundreds of connections, greeted and not, of which none keeps another waiting', async () => {
    const held: Socket[] = [];
    for (let count = 0; count < 300; count++) {
      const socket = await connected();
      socket.on('error', () => undefined);
      if (count % 2 === 0) socket.write(HELLO.subarray(0, 1 + (count % HELLO.length)));
      held.push(socket);
    }
    expect((await local.agent.run(['true'])).exitCode).toBe(0);
    for (const socket of held) socket.destroy();
    await expectAtRest();
  }, 60_000);

  test('to none of thousands, one after the other and many at once', async () => {
    for (let round = 0; round < 100; round++) {
      await Promise.all(Array.from({ length: 30 }, () => drop(round % 2 === 0 ? HELLO : Buffer.alloc(0))));
    }
    await expectAtRest();
  }, 60_000);

  test('to its half of the connection', async () => {
    const socket = connect({ path: local.socketPath, allowHalfOpen: true });
    socket.end(HELLO);
    socket.resume();
    await once(socket, 'end');
    await expectAtRest();
    socket.destroy();
  });

  test('and reads nothing: a program and a copy wait, and are gone with it', async () => {
    const { 'copy out': copy } = sessions();
    writeFileSync(local.path('tree/file'), Buffer.alloc(8 * 1024 * 1024));
    const zeroes = programOf('cat /dev/zero');
    const sockets = [zeroes, copy].map((bytes) => {
      const socket = connect(local.socketPath).pause();
      socket.write(bytes);
      return socket;
    });
    await eventually('both run', () => local.processes === AT_REST + 2 && marked().length > 0);
    expect((await local.agent.run(['true'])).exitCode).toBe(0);
    for (const socket of sockets) socket.destroy();
    await expectAtRest(local, NAMES);
  });
});

test('what a program has left behind lives on when the host goes before it has all of the output', async () => {
  const behind = `${MARK}-behind`;
  // Writes until socket and pipe are full, and ends.
  const full = Array<string>(4)
    .fill('dd if=/dev/zero bs=4096 count=100000 oflag=nonblock 2>/dev/null')
    .join('; sleep 0.2; ');
  const script = `sh -c 'sleep 1000; :' ${behind} </dev/null >/dev/null 2>&1 & ${full}; echo > ${local.path('through')}`;
  const socket = connect(local.socketPath).pause();
  socket.write(programOf(script));
  await eventually('the program has ended', () => existsSync(local.path('through')) && marked().length === 1, 30_000);
  socket.destroy();
  await eventually('the session is over', () => local.processes === AT_REST);
  const left = marked();
  expect(left).toHaveLength(1);
  for (const pid of left)
    process.kill(-Number(readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1].split(' ')[2]), 'SIGKILL');
  await eventually('that is gone', () => marked().length === 0);
}, 60_000);

describe('a host that says anything', () => {
  test('frames of a session with bytes changed at random', async () => {
    const random = new Random(7);
    const whole = sessions();
    // What names a program or a place stays as it is: the rest may be anything.
    const fixed = { 'copy in': HELLO.length + 8 + local.path('new').length, questions: 0 } as const;
    for (let round = 0; round < 400; round++) {
      const kind = round % 2 === 0 ? 'copy in' : 'questions';
      const bytes = Buffer.from(whole[kind]);
      for (let count = random.below(4); count >= 0; count--) {
        bytes[fixed[kind] + random.below(bytes.length - fixed[kind])] = random.below(256);
      }
      await drop(bytes);
    }
    await expectAtRest(local, NAMES);
  }, 60_000);

  test('after a program has started, anything is no reason to leave it behind', async () => {
    const random = new Random(8);
    const begin = sessions()['program'];
    for (let round = 0; round < 60; round++) {
      const socket = connect({ path: local.socketPath, allowHalfOpen: true });
      socket.on('error', () => undefined);
      const types = [FRAME.STDIN, FRAME.SIGNAL, FRAME.TTY, FRAME.STDIN_WINDOW, FRAME.EXEC, 999];
      const noise = Array.from({ length: 5 }, () =>
        frame(types[random.below(types.length)], Buffer.alloc(random.below(12), random.below(256))),
      );
      socket.write(Buffer.concat([begin, ...noise]));
      const parser = new FrameParser();
      // Until it was started, or refused.
      for await (const piece of socket) {
        if ([...parser.push(piece as Buffer)].some(({ type }) => type !== FRAME.HELLO)) break;
      }
    }
    await expectAtRest(local, NAMES);
  }, 60_000);

  test('another version is told so, and other requests go on', async () => {
    await drop(frame(FRAME.HELLO, words(MAGIC, VERSION + 1)));
    await expectAtRest();
  });
});

test('a tree in which something cannot be read is no half copy', async () => {
  if (process.getuid?.() !== 0) return;
  const other = await LocalAgent.start(NOBODY);
  try {
    mkdirSync(other.path('tree'));
    writeFileSync(other.path('tree/secret'), 'x');
    chmodSync(other.path('tree/secret'), 0o600);
    await expect(other.agent.copyOut(other.path('tree'), other.path('back'))).rejects.toMatchObject({
      code: 'IO',
      side: 'guest',
      errno: 13,
    });
    execFileSync('chown', ['0:0', other.directory]);
    chmodSync(other.directory, 0o755);
    await expect(other.agent.copyIn('/etc/passwd', other.path('new'))).rejects.toMatchObject({
      code: 'IO',
      side: 'guest',
      errno: 13,
    });
    expect(readdirSync(other.directory).sort()).toEqual(NAMES);
  } finally {
    await other.stop();
  }
});
