// The protocol itself: greeting, errors, malformed input, an agent that is missing, hostile or gone; ready calls and
// metrics.

import { EventEmitter, once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { readdirSync } from 'node:fs';
import { PassThrough, type Duplex } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

import {
  FRAME,
  FRAME_MAX,
  frameHeader,
  FrameParser,
  MAGIC,
  VERSION,
  words,
  type Frame,
} from '../../src/agent/protocol.js';
import type { AgentTransport } from '../../src/agent/transport.js';
import { GuestAgent } from '../../src/agent/guest-agent.js';
import { VsockError } from '../../src/vsock/in-process/errors.js';
import { LocalAgent } from '../support/local-agent.js';
import { Random } from '../support/random.js';

let local: LocalAgent;

function frame(type: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  return Buffer.concat([frameHeader(type, payload.length), payload]);
}

function serveRequest(port: number, name: string): Buffer {
  return Buffer.concat([words(port), Buffer.from(name)]);
}

const HELLO = frame(FRAME.HELLO, words(MAGIC, VERSION));

/** What an agent sends to who says `bytes` to it, up to its end. */
async function tell(bytes: Buffer): Promise<Frame[]> {
  const socket = connect({ path: local.socketPath, allowHalfOpen: true });
  socket.write(bytes);
  const collected = collect(socket);
  const frames = await collected;
  socket.destroy();
  return frames;
}

async function collect(socket: Socket): Promise<Frame[]> {
  const frames: Frame[] = [];
  const parser = new FrameParser();
  for await (const piece of socket) frames.push(...parser.push(piece as Buffer));
  return frames;
}

describe('an agent', () => {
  beforeEach(async () => {
    local = await LocalAgent.start();
  });
  afterEach(async () => {
    await local.stop();
  });

  test('answers a ping', async () => {
    expect(await local.agent.ping()).toBeGreaterThan(0);
  });

  test('tells the load of its machine', async () => {
    const metrics = await local.agent.metrics();
    expect(metrics.memoryTotal).toBeGreaterThan(metrics.memoryFree);
    expect(metrics.memoryAvailable).toBeGreaterThan(0);
    expect(metrics.processes).toBeGreaterThan(0);
    expect(metrics.cpus).toBeGreaterThan(0);
    expect(metrics.uptimeSeconds).toBeGreaterThan(0);
    expect(metrics.load.every((load) => load >= 0)).toBe(true);
  });

  test.each<[string, Buffer]>([
    ['no greeting', frame(FRAME.PING)],
    ['a greeting of something else', frame(FRAME.HELLO, words(1, 1))],
    ['a frame that is too long', Buffer.concat([HELLO, words(FRAME_MAX + 1, FRAME.PING)])],
    ['an unknown frame', Buffer.concat([HELLO, frame(999)])],
    [
      'a program without a name',
      Buffer.concat([HELLO, frame(FRAME.ENV, Buffer.from('A=1')), frame(FRAME.EXEC, words(0))]),
    ],
    ['a NUL in an argument', Buffer.concat([HELLO, frame(FRAME.ARG, Buffer.from('a\0b'))])],
    ['a copy without a path', Buffer.concat([HELLO, frame(FRAME.PUT)])],
    ['a forwarded port that is none', Buffer.concat([HELLO, frame(FRAME.FORWARD, words(65_536))])],
    ['a service without a name', Buffer.concat([HELLO, frame(FRAME.SERVE, words(80))])],
    ['a service at a port that is none', Buffer.concat([HELLO, frame(FRAME.SERVE, serveRequest(65_536, 'db'))])],
    ['a service whose name leads elsewhere', Buffer.concat([HELLO, frame(FRAME.SERVE, serveRequest(0, '../db'))])],
    ['a service whose name is too long', Buffer.concat([HELLO, frame(FRAME.SERVE, serveRequest(0, 'a'.repeat(64)))])],
  ])('says PROTOCOL to %s, and serves others', async (_, bytes) => {
    const frames = await tell(bytes);
    expect(frames.map(({ type }) => type)).toEqual([FRAME.HELLO, FRAME.ERROR]);
    expect(frames[1].payload.readUInt32LE(0)).toBe(1);
    expect((await local.agent.run(['true'])).exitCode).toBe(0);
  });

  test('says VERSION to a host of another version', async () => {
    const frames = await tell(frame(FRAME.HELLO, words(MAGIC, VERSION + 1)));
    expect(frames.at(-1)?.payload.readUInt32LE(0)).toBe(2);
  });

  test.each<[string, Buffer]>([
    ['leads out of it', frame(FRAME.FILE, Buffer.concat([Buffer.alloc(12), Buffer.from('../escaped')]))],
    ['is its parent', frame(FRAME.DIR, Buffer.concat([words(0o755), Buffer.from('..')]))],
    ['is empty', frame(FRAME.LINK, Buffer.from('\0target'))],
  ])('refuses an entry of a tree whose name %s', async (_, entry) => {
    const put = frame(FRAME.PUT, Buffer.from(local.path('target')));
    const frames = await tell(Buffer.concat([HELLO, put, frame(FRAME.DIR, words(0o755)), entry]));
    expect(frames.map(({ type }) => type)).toEqual([FRAME.HELLO, FRAME.ERROR]);
    expect(readdirSync(local.directory).sort()).toEqual(['agent.sock', 'ready.sock']);
  });

  test('refuses a file whose checksum is wrong, and nothing of it stays', async () => {
    const put = frame(FRAME.PUT, Buffer.from(local.path('target')));
    const file = [
      frame(FRAME.FILE, Buffer.alloc(12)),
      frame(FRAME.DATA, Buffer.from('x')),
      frame(FRAME.FILE_END, Buffer.alloc(12)),
    ];
    const frames = await tell(Buffer.concat([HELLO, put, ...file]));
    expect(frames.at(-1)?.payload.readUInt32LE(0)).toBe(13);
    expect(readdirSync(local.directory).sort()).toEqual(['agent.sock', 'ready.sock']);
  });

  test('survives whatever comes: frames at random, and torn off', async () => {
    const random = new Random(1);
    const types = [...Object.values(FRAME), 0, 5, 100];
    for (let round = 0; round < 150; round++) {
      const pieces = [HELLO];
      for (let count = random.below(6); count >= 0; count--) {
        const payload = Buffer.from(Array.from({ length: random.below(24) }, () => random.below(256)));
        const type = types[random.below(types.length)];
        // What is named is nowhere: no program runs and no path is written.
        const named = type === FRAME.ARG || type === FRAME.PUT || type === FRAME.GET;
        pieces.push(frame(type, named ? Buffer.from(`/no/such/${payload.toString('hex')}`) : payload));
      }
      const whole = Buffer.concat(pieces);
      const socket = connect({ path: local.socketPath, allowHalfOpen: true });
      socket.on('error', () => undefined);
      socket.end(whole.subarray(0, whole.length - random.below(9)));
      await buffer(socket).catch(() => undefined);
    }
    expect((await local.agent.run(['echo', 'still here'])).stdout.toString()).toBe('still here\n');
  }, 60_000);

  test('refuses stdin beyond the window, and kills the program', async () => {
    const exec = [
      frame(FRAME.ARG, Buffer.from('sleep')),
      frame(FRAME.ARG, Buffer.from('1000')),
      frame(FRAME.EXEC, words(0)),
    ];
    const stdin = Array.from({ length: 3 }, () => frame(FRAME.STDIN, Buffer.alloc(FRAME_MAX)));
    const frames = await tell(Buffer.concat([HELLO, ...exec, ...stdin]));
    expect(frames.map(({ type }) => type)).toContain(FRAME.STARTED);
    expect(frames.at(-1)?.type).toBe(FRAME.ERROR);
  });

  test('calls again when the host has hung up', async () => {
    local.transport.hangUp();
    const [call] = await local.transport.nextCall();
    expect(call).toBeDefined();
    await local.agent.waitReady();
  }, 20_000);
});

describe('a guest without an agent', () => {
  beforeEach(async () => {
    local = await LocalAgent.prepare();
  });
  afterEach(async () => {
    await local.stop();
  });

  test('is AGENT_MISSING at once', async () => {
    await expect(local.agent.run(['true'])).rejects.toMatchObject({ code: 'AGENT_MISSING' });
    await expect(local.agent.copyOut('/etc/passwd', local.path('a'))).rejects.toMatchObject({ code: 'AGENT_MISSING' });
  });

  test('is waited for until it calls', async () => {
    const ready = [local.agent.waitReady(), local.agent.waitReady({ timeout: 60_000 })];
    await local.spawnAgent();
    await Promise.all(ready);
    await local.agent.waitReady();
  });

  test('is asked again when its guest was too busy to answer', async () => {
    await local.spawnAgent();
    let attempts = 0;
    const busy: AgentTransport = {
      connect: (port) =>
        attempts++ < 2 ? Promise.reject(new VsockError('TIMED_OUT', port)) : local.transport.connect(port),
      listen: () => undefined,
      ended: local.transport.ended,
    };
    await new GuestAgent(busy).waitReady();
    expect(attempts).toBe(3);
  });

  test('is waited for no longer than TIMEOUT, ABORTED and the end of the VM', async () => {
    await expect(local.agent.waitReady({ timeout: 1 })).rejects.toMatchObject({ code: 'TIMEOUT' });
    const stop = new AbortController();
    const aborted = local.agent.waitReady({ signal: stop.signal });
    stop.abort();
    await expect(aborted).rejects.toMatchObject({ code: 'ABORTED' });
    const waiting = local.agent.waitReady();
    local.transport.close();
    await expect(waiting).rejects.toMatchObject({ code: 'GUEST_GONE' });
    await expect(local.agent.waitReady()).rejects.toMatchObject({ code: 'GUEST_GONE' });
  });
});

test('a guest too slow to answer in time is waited for until it calls', async () => {
  let call: ((stream: Duplex) => void) | undefined;
  const asked = new EventEmitter();
  const agent = new GuestAgent({
    connect: (port) => {
      asked.emit('asked');
      return Promise.reject(new VsockError('TIMED_OUT', port));
    },
    listen: (_port, onConnection) => {
      call = onConnection;
    },
    ended: new Promise(() => undefined),
  });
  const wasAsked = once(asked, 'asked');
  const ready = agent.waitReady();
  await wasAsked;
  await turn();
  const stream = new PassThrough();
  call?.(stream);
  await ready;
  stream.destroy();
});

describe("something else at the agent's port", () => {
  test.each<[string, Buffer, string]>([
    ['an agent of another version', frame(FRAME.HELLO, words(MAGIC, 7)), 'AGENT_VERSION'],
    ['a server of another protocol', Buffer.from('220 mail.example.org ESMTP\r\n'), 'PROTOCOL'],
    ['one that hangs up', Buffer.alloc(0), 'GUEST_GONE'],
    ['one that fails at once', frame(FRAME.ERROR, Buffer.from([15, 0, 0, 0, 11, 0, 0, 0, 0x66])), 'NO_PROCESS'],
    ['one with an error that is none', frame(FRAME.ERROR), 'PROTOCOL'],
  ])('%s', async (_, bytes, code) => {
    const prepared = await LocalAgent.prepare();
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.end(bytes);
    });
    server.listen(prepared.socketPath);
    await once(server, 'listening');
    await expect(prepared.agent.run(['true'])).rejects.toMatchObject({ code });
    server.close();
    await prepared.stop();
  });

  test('one that says nothing: TIMEOUT', async () => {
    const prepared = await LocalAgent.prepare();
    const server = createServer((socket) => socket.on('error', () => undefined));
    server.listen(prepared.socketPath);
    await once(server, 'listening');
    await expect(prepared.agent.run(['true'], { timeout: 50 })).rejects.toMatchObject({ code: 'TIMEOUT' });
    server.close();
    await prepared.stop();
  });

  test.each<[string, Buffer[]]>([
    [
      'a path',
      [frame(FRAME.DIR, words(0o755)), frame(FRAME.FILE, Buffer.concat([Buffer.alloc(12), Buffer.from('../x')]))],
    ],
    [
      'its parent',
      [frame(FRAME.DIR, words(0o755)), frame(FRAME.DIR, Buffer.concat([words(0o755), Buffer.from('..')]))],
    ],
    ['two tops', [frame(FRAME.LINK, Buffer.from('\0a')), frame(FRAME.LINK, Buffer.from('\0b'))]],
    ['an end before the beginning', [frame(FRAME.UP)]],
    ['nothing', [frame(FRAME.TREE_END)]],
  ])('a hostile guest that sends %s leaves nothing on the host: PROTOCOL', async (_, tree) => {
    const prepared = await LocalAgent.prepare();
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.write(Buffer.concat([HELLO, ...tree]));
    });
    server.listen(prepared.socketPath);
    await once(server, 'listening');
    const copying = prepared.agent.copyOut('/anything', prepared.path('target'));
    await expect(copying).rejects.toMatchObject({ code: 'PROTOCOL' });
    expect(readdirSync(prepared.directory).sort()).toEqual(['agent.sock', 'ready.sock']);
    server.close();
    await prepared.stop();
  });

  test('a symbolic link that a hostile guest sends is not written through', async () => {
    const prepared = await LocalAgent.prepare();
    const escape = Buffer.from(`a\0${prepared.path('escaped')}`);
    const through = Buffer.concat([Buffer.alloc(12), Buffer.from('a')]);
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      const tree = [frame(FRAME.DIR, words(0o755)), frame(FRAME.LINK, escape), frame(FRAME.FILE, through)];
      socket.write(Buffer.concat([HELLO, ...tree, frame(FRAME.DATA, Buffer.from('x'))]));
    });
    server.listen(prepared.socketPath);
    await once(server, 'listening');
    const copying = prepared.agent.copyOut('/anything', prepared.path('target'));
    await expect(copying).rejects.toMatchObject({ code: 'EXISTS', side: 'host' });
    expect(readdirSync(prepared.directory).sort()).toEqual(['agent.sock', 'ready.sock']);
    server.close();
    await prepared.stop();
  });
});

test('frames come whole out of pieces of any size', () => {
  const bytes = Buffer.concat([
    HELLO,
    frame(FRAME.PING),
    frame(FRAME.STDOUT, Buffer.alloc(1000, 'x')),
    // Of one more, the beginning.
    words(10),
  ]);
  for (const size of [1, 3, 8, 100, bytes.length]) {
    const parser = new FrameParser();
    const frames: Frame[] = [];
    for (let at = 0; at < bytes.length; at += size) frames.push(...parser.push(bytes.subarray(at, at + size)));
    expect(frames.map(({ type, payload }) => [type, payload.length])).toEqual([
      [FRAME.HELLO, 8],
      [FRAME.PING, 0],
      [FRAME.STDOUT, 1000],
    ]);
  }
});
