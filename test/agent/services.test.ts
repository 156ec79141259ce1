// Services of the host in the guest, with an agent on this machine: carried both ways, announced again, and what is refused of
// hosts and of hostile guests.

import { once } from 'node:events';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { FRAME, frameHeader, FrameParser, MAGIC, VERSION, words, type Frame } from '../../src/agent/protocol.js';
import type { ExposeOptions } from '../../src/agent/services.js';
import { LocalAgent } from '../support/local-agent.js';
import { client, collect, exchange, freePort, outcome, sha256, TestServer, testBytes } from '../support/tcp.js';

const NOTHING = Buffer.alloc(0);
const LIMIT = { timeout: 20_000 };

let local: LocalAgent;

/** Where the guest has a service. */
function socketOf(name: string): string {
  return join(local.servicesFolder, `${name}.sock`);
}

/** Where the guest asks for services. */
function askingSocket(): string {
  return local.path('service.sock');
}

function frame(type: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  return Buffer.concat([frameHeader(type, payload.length), payload]);
}

const HELLO = frame(FRAME.HELLO, words(MAGIC, VERSION));

/** What the host says to a guest that asks so, up to the end. */
async function ask(bytes: Buffer): Promise<Frame[]> {
  const socket = client(askingSocket());
  socket.write(bytes);
  const parser = new FrameParser();
  return [...parser.push(await collect(socket))];
}

describe('services of the host', () => {
  beforeEach(async () => {
    local = await LocalAgent.start();
  });
  afterEach(async () => {
    await local.stop();
  });

  test('are reached at their Unix socket and their port: to TCP and to a Unix socket of the host', async () => {
    await using database = await TestServer.echo();
    const path = local.path('host.sock');
    await using cache = await TestServer.echo({ path });
    const guestPort = await freePort();
    using db = await local.agent.expose({ name: 'db', guestPort, to: `127.0.0.1:${database.port}` });
    using other = await local.agent.expose({ name: 'cache.local', to: path });
    await Promise.all([db.waitListening(LIMIT), other.waitListening(LIMIT)]);
    expect(db).toMatchObject({ name: 'db', guestPort, socketPath: '/run/tsvmm/db.sock', connections: 0 });
    const { bytes, sha256: sum } = testBytes(3_000_000);
    const echoes = [guestPort, socketOf('db'), socketOf('cache.local')].map((to) => exchange(to, bytes));
    for (const echo of await Promise.all(echoes)) expect(sha256(echo)).toBe(sum);
    expect(cache.server.listening).toBe(true);
  }, 30_000);

  test('keep half-closed connections going, and carry resets', async () => {
    const guestPort = await freePort();
    const handed: Duplex[] = [];
    const handler = (stream: Duplex): void => {
      handed.push(stream);
      if (handed.length === 1) stream.end('greeting');
      else stream.on('data', () => stream.destroy()).write('half');
    };
    using service = await local.agent.expose({ name: 'greeter', guestPort, handler });
    await service.waitListening(LIMIT);
    const socket = client(guestPort);
    expect((await collect(socket)).toString()).toBe('greeting');
    expect(service.connections).toBe(1);
    socket.end('and more');
    expect((await collect(handed[0])).toString()).toBe('and more');
    const other = client(guestPort);
    await once(other, 'data');
    other.write('go');
    expect(await outcome(other)).toBe('ECONNRESET');
  });

  test("a program's reset is an error of the stream, which need not be listened to", async () => {
    const guestPort = await freePort();
    const handed: Duplex[] = [];
    using service = await local.agent.expose({ name: 'sink', guestPort, handler: (stream) => handed.push(stream) });
    await service.waitListening(LIMIT);
    const socket = client(guestPort);
    socket.write('x');
    await once(socket, 'connect');
    while (handed.length === 0) await local.agent.ping();
    const [stream] = handed;
    await once(stream, 'data');
    const closed = once(stream, 'error') as Promise<[{ code: string }]>;
    socket.resetAndDestroy();
    expect((await closed)[0].code).toBe('GUEST_GONE');
  });

  test('nobody answers on the host: the program is reset, which is told and logged', async () => {
    const guestPort = await freePort();
    const errors: unknown[] = [];
    const to = `127.0.0.1:${await freePort()}`;
    const onError = (error: unknown): void => {
      errors.push(error);
    };
    using service = await local.agent.expose({ name: 'nobody', guestPort, to, onError });
    await service.waitListening(LIMIT);
    expect(await outcome(client(guestPort))).toBe('ECONNRESET');
    expect(errors).toMatchObject([{ code: 'REFUSED', side: 'host' }]);
    expect(local.transport.warnings).toEqual([
      expect.stringContaining('a connection to the service nobody was reset: connect ECONNREFUSED'),
    ]);
  });

  test('a handler that throws costs its connection, no more', async () => {
    const handler = (stream: Duplex): void => {
      if (!existsSync(local.path('calm'))) throw new Error('what is this');
      stream.resume().end('better');
    };
    using service = await local.agent.expose({ name: 'moody', handler });
    await service.waitListening(LIMIT);
    expect(await outcome(client(socketOf('moody')))).toEqual(Buffer.alloc(0));
    writeFileSync(local.path('calm'), '');
    expect((await exchange(socketOf('moody'), NOTHING)).toString()).toBe('better');
    expect(local.transport.warnings).toEqual(['the handler of the service moody failed: what is this']);
  });

  test('are gone from the guest when they are closed, with their connections', async () => {
    const guestPort = await freePort();
    const service = await local.agent.expose({ name: 'brief', guestPort, handler: (stream) => stream.write('x') });
    await service.waitListening(LIMIT);
    const socket = client(guestPort);
    await once(socket, 'data');
    const ended = outcome(socket);
    service.close();
    service.close();
    expect(await ended).toBe('ECONNRESET');
    await expect(service.waitListening(LIMIT)).rejects.toMatchObject({ code: 'GUEST_GONE' });
    // The next of that name has to wait for the guest to be done with this one.
    using next = await local.agent.expose({ name: 'brief', guestPort, handler: (stream) => stream.resume().end('y') });
    await next.waitListening(LIMIT);
    expect((await exchange(guestPort, NOTHING)).toString()).toBe('y');
    expect((await exchange(socketOf('brief'), NOTHING)).toString()).toBe('y');
  });

  test('are announced again when everything broke off, as with a snapshot that is restored', async () => {
    const guestPort = await freePort();
    using service = await local.agent.expose({
      name: 'steady',
      guestPort,
      handler: (stream) => stream.resume().end('here'),
    });
    await service.waitListening(LIMIT);
    local.transport.hangUp();
    await local.transport.nextCall();
    await service.waitListening(LIMIT);
    expect((await exchange(guestPort, NOTHING)).toString()).toBe('here');
    expect((await exchange(socketOf('steady'), NOTHING)).toString()).toBe('here');
  }, 30_000);

  test('are announced to an agent in the place of one that was killed', async () => {
    using service = await local.agent.expose({ name: 'steady', handler: (stream) => stream.resume().end('here') });
    await service.waitListening(LIMIT);
    await local.killAgent();
    local.transport.hangUp();
    await local.transport.hungUp();
    await local.respawnAgent();
    await service.waitListening(LIMIT);
    expect((await exchange(socketOf('steady'), NOTHING)).toString()).toBe('here');
  }, 30_000);

  test('a socket that a killed agent left is replaced; a file that is none is not, and GUEST_PORT says so', async () => {
    mkdirSync(local.servicesFolder);
    await using left = await TestServer.echo({ path: socketOf('left') });
    writeFileSync(socketOf('file'), 'mine');
    using first = await local.agent.expose({ name: 'left', handler: (stream) => stream.resume().end('new') });
    await first.waitListening(LIMIT);
    expect((await exchange(socketOf('left'), NOTHING)).toString()).toBe('new');
    using second = await local.agent.expose({ name: 'file', handler: (stream) => stream.resume().end('new') });
    await expect(second.waitListening(LIMIT)).rejects.toMatchObject({ code: 'GUEST_PORT', side: 'guest' });
    expect(left.server.listening).toBe(true);
    expect(existsSync(socketOf('file'))).toBe(true);
  });

  test('a port that the guest uses itself is GUEST_PORT, and had when it is free', async () => {
    const taken = await TestServer.echo();
    using service = await local.agent.expose({
      name: 'late',
      guestPort: taken.port,
      handler: (s) => s.resume().end('late'),
    });
    await expect(service.waitListening(LIMIT)).rejects.toMatchObject({ code: 'GUEST_PORT', errno: 98 });
    expect(existsSync(socketOf('late'))).toBe(false);
    expect(local.transport.warnings).toEqual([
      expect.stringContaining(`the guest cannot listen at 127.0.0.1:${taken.port}; something else may use it there`),
    ]);
    const { port } = taken;
    await taken[Symbol.asyncDispose]();
    await service.waitListening(LIMIT);
    expect((await exchange(port, NOTHING)).toString()).toBe('late');
  }, 30_000);

  test('connections beyond the limit are reset, and others take their place', async () => {
    const held: Duplex[] = [];
    const options = { name: 'few', maxConnections: 2, handler: (stream: Duplex) => held.push(stream.resume()) };
    using service = await local.agent.expose(options);
    await service.waitListening(LIMIT);
    const sockets = [client(socketOf('few')), client(socketOf('few'))];
    while (held.length < 2) await local.agent.ping();
    expect(await outcome(client(socketOf('few')))).toEqual(Buffer.alloc(0));
    expect(held.length).toBe(2);
    for (const socket of sockets) socket.destroy();
    for (const stream of held) if (!stream.readableEnded) await once(stream, 'end');
    for (const stream of held) stream.end();
    while (service.connections > 0) await local.agent.ping();
    client(socketOf('few')).end();
    while (held.length < 3) await local.agent.ping();
  });

  test.each<[{ readonly name: string; readonly [option: string]: unknown }, RegExp]>([
    [{ name: '', to: '127.0.0.1:1' }, /name: ""/],
    [{ name: '../etc', to: '127.0.0.1:1' }, /name: "..\/etc"/],
    [{ name: 'a'.repeat(64), to: '127.0.0.1:1' }, /cannot be the name of a service/],
    [{ name: 'db', to: '5432' }, /to: "5432" is no place on the host/],
    [{ name: 'db', to: '127.0.0.1:0' }, /is no place on the host/],
    [{ name: 'db', guestPort: 65_536, to: '127.0.0.1:1' }, /guestPort: 65536/],
    [{ name: 'db', maxConnections: 0, to: '127.0.0.1:1' }, /maxConnections: 0/],
    [{ name: 'db' }, /either to or handler/],
  ])('take nothing that cannot be: %j', async (options, message) => {
    const exposed = local.agent.expose(options as unknown as ExposeOptions);
    await expect(exposed).rejects.toThrow(RangeError);
    await expect(exposed).rejects.toThrow(message);
  });

  test('have each their own name', async () => {
    using service = await local.agent.expose({ name: 'db', handler: (stream) => stream.end() });
    await expect(local.agent.expose({ name: 'db', handler: (stream) => stream.end() })).rejects.toThrow(/already/);
    expect(service.name).toBe('db');
  });
});

describe('a guest that asks for services by itself', () => {
  beforeEach(async () => {
    local = await LocalAgent.prepare();
    await local.agent.expose({ name: 'db', handler: (stream) => stream.resume().end('rows') });
    await local.transport.listening();
  });
  afterEach(async () => {
    await local.stop();
  });

  test('is given those that are named, and no others', async () => {
    const named = await ask(Buffer.concat([HELLO, frame(FRAME.SERVICE, Buffer.from('db')), frame(FRAME.BYTES_END)]));
    expect(named.map(({ type }) => type)).toEqual([FRAME.HELLO, FRAME.CONNECTED, FRAME.BYTES, FRAME.BYTES_END]);
    const [, error] = await ask(Buffer.concat([HELLO, frame(FRAME.SERVICE, Buffer.from('other'))]));
    expect(error.type).toBe(FRAME.ERROR);
    expect(error.payload.readUInt32LE(0)).toBe(17);
    expect(local.transport.warnings).toEqual(['the guest asked for a service "other", which there is not']);
  });

  test.each<[string, Buffer]>([
    ['says something else first', frame(FRAME.PING)],
    ['greets as another version', frame(FRAME.HELLO, words(MAGIC, VERSION + 1))],
    ['asks for nothing', Buffer.concat([HELLO, frame(FRAME.SERVICE)])],
    ['asks for something else', Buffer.concat([HELLO, frame(FRAME.FORWARD, words(80))])],
    ['sends a frame that is too long', Buffer.concat([HELLO, words(1 << 30, FRAME.SERVICE)])],
  ])('is hung up on when it %s', async (_, bytes) => {
    const frames = await ask(bytes);
    expect(frames.map(({ type }) => type)).toEqual([FRAME.HELLO]);
    expect(local.transport.warnings).toHaveLength(1);
  });

  test.each<[string, Buffer]>([
    ['other frames', frame(FRAME.STDOUT, Buffer.from('x'))],
    ['bytes behind the end', Buffer.concat([frame(FRAME.BYTES_END), frame(FRAME.BYTES, Buffer.from('x'))])],
    ['an end with bytes', frame(FRAME.BYTES_END, Buffer.from('x'))],
    ['a frame that is too long', words(1 << 30, FRAME.BYTES)],
    ['half a frame', words(10, FRAME.BYTES)],
  ])('that sends %s gets a reset, and the service goes on', async (_, bytes) => {
    const streams: Duplex[] = [];
    await local.agent.expose({ name: 'open', handler: (stream) => streams.push(stream.resume()) });
    const socket = client(askingSocket());
    socket.resume();
    socket.write(Buffer.concat([HELLO, frame(FRAME.SERVICE, Buffer.from('open')), bytes]));
    if (bytes.length === 8 && bytes.readUInt32LE(0) === 10) socket.end();
    await once(socket, 'end');
    expect(streams[0].errored).toMatchObject({ name: 'AgentError' });
    socket.destroy();
    const again = await ask(Buffer.concat([HELLO, frame(FRAME.SERVICE, Buffer.from('db')), frame(FRAME.BYTES_END)]));
    expect(again).toHaveLength(4);
  });

  test('may not call without end: those that say nothing are bounded', async () => {
    const silent: Socket[] = [];
    for (let count = 0; count < 64; count++) {
      const socket = client(askingSocket());
      silent.push(socket);
      // The host greets those that it listens to.
      await once(socket, 'data');
    }
    expect(await outcome(client(askingSocket()))).toEqual(Buffer.alloc(0));
    silent[0].end();
    await collect(silent[0]);
    expect(
      await ask(Buffer.concat([HELLO, frame(FRAME.SERVICE, Buffer.from('db')), frame(FRAME.BYTES_END)])),
    ).toHaveLength(4);
    for (const socket of silent) socket.destroy();
  });
});

test('services that are exposed before the guest has an agent are there when it has', async () => {
  local = await LocalAgent.prepare();
  const service = await local.agent.expose({ name: 'early', handler: (stream) => stream.resume().end('worm') });
  await expect(service.waitListening({ timeout: 1 })).rejects.toMatchObject({ code: 'TIMEOUT' });
  await expect(service.waitListening({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
  const listening = service.waitListening(LIMIT);
  await local.transport.listening();
  await local.spawnAgent();
  await listening;
  expect((await exchange(socketOf('early'), NOTHING)).toString()).toBe('worm');
  const waiting = service.waitListening();
  await waiting;
  local.transport.close();
  await local.transport.ended;
  await expect(service.waitListening()).rejects.toMatchObject({ code: 'GUEST_GONE' });
  await expect(local.agent.expose({ name: 'late', to: '/x' })).rejects.toMatchObject({ code: 'GUEST_GONE' });
  await local.stop();
});
