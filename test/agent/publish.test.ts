// Published ports, with an agent on this machine: bytes, ends and resets both ways, waiting for a guest that is not ready, and
// what is refused.

import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { publishPort } from '../../src/agent/publish.js';
import { reachVsock } from '../../src/agent/reach.js';
import { takeSocketError } from '../../src/platform/socket-error.js';
import { LocalAgent } from '../support/local-agent.js';
import { client, collect, exchange, freePort, outcome, sha256, TestServer, testBytes } from '../support/tcp.js';

let local: LocalAgent;

describe('published ports', () => {
  beforeEach(async () => {
    local = await LocalAgent.start();
  });
  afterEach(async () => {
    await local.stop();
  });

  test('carry bytes and ends both ways, for several clients at once', async () => {
    await using server = await TestServer.echo();
    await using published = await local.agent.publish({ hostPort: 0, guestPort: server.port });
    expect(published).toMatchObject({ host: '127.0.0.1', guestPort: server.port, vsockPort: undefined });
    const { bytes, sha256: sum } = testBytes(3_000_000);
    const echoed = await Promise.all(Array.from({ length: 5 }, () => exchange(published.hostPort, bytes)));
    for (const each of echoed) expect(sha256(each)).toBe(sum);
  }, 30_000);

  test('carry on the way that has not ended: a guest that has said all hears the rest, and so does a client', async () => {
    await using server = await TestServer.start((socket) => socket.end('greeting'));
    await using published = await local.agent.publish({ hostPort: 0, guestPort: server.port });
    const accepted = server.next();
    const talker = client(published.hostPort);
    expect((await collect(talker)).toString()).toBe('greeting');
    talker.write('still ');
    const heard = collect(await accepted);
    talker.end('talking');
    expect((await heard).toString()).toBe('still talking');
  });

  test.each([[false], [true]])(
    'a reset in the guest is one for the client, not an end; also if the client has ended (%s)',
    async (ended) => {
      await using server = await TestServer.start((socket) => {
        socket.write('half of an ans');
        if (ended) socket.on('end', () => socket.resetAndDestroy()).resume();
        else socket.on('data', () => socket.resetAndDestroy());
      });
      await using published = await local.agent.publish({ hostPort: 0, guestPort: server.port });
      const socket = client(published.hostPort);
      // With the reset right behind the bytes, a client that is made with Node would not notice it.
      await once(socket, 'data');
      if (ended) socket.end();
      else socket.write('go');
      expect(await outcome(socket)).toBe('ECONNRESET');
    },
  );

  test.each([[false], [true]])(
    "a client's reset is one in the guest, also after the guest has ended (%s)",
    async (ended) => {
      await using server = await TestServer.start(() => undefined);
      await using published = await local.agent.publish({ hostPort: 0, guestPort: server.port });
      const accepted = server.next();
      const socket = client(published.hostPort);
      socket.write('half of a que');
      const peer = await accepted;
      if (ended) {
        peer.end('bye');
        expect((await collect(socket)).toString()).toBe('bye');
      }
      await once(
        peer.on('readable', () => undefined),
        'readable',
      );
      const failed = once(peer, 'error') as Promise<[{ code: string }]>;
      peer.resume();
      socket.resetAndDestroy();
      expect((await failed)[0].code).toBe('ECONNRESET');
    },
  );

  test("a client's reset right behind its last bytes is one in the guest, too", async () => {
    await using server = await TestServer.start((socket) => socket.resume());
    await using published = await local.agent.publish({ hostPort: 0, guestPort: server.port });
    for (let count = 0; count < 30; count++) {
      const accepted = server.next();
      const socket = client(published.hostPort);
      await once(socket, 'connect');
      const peer = await accepted;
      const ended = new Promise((resolve) => {
        peer.on('error', () => {
          resolve('reset');
        });
        // This server is Node's, too.
        peer.on('end', () => {
          resolve(takeSocketError(peer) === 0 ? 'end' : 'reset');
        });
      });
      socket.write('half of a que', () => socket.resetAndDestroy());
      expect(await ended).toBe('reset');
    }
  });

  test('an agent that is killed is a reset for the client', async () => {
    await using server = await TestServer.start((socket) => socket.write('half'));
    await using published = await local.agent.publish({ hostPort: 0, guestPort: server.port });
    const socket = client(published.hostPort);
    await once(socket, 'data');
    local.transport.hangUp();
    expect(await outcome(socket)).toBe('ECONNRESET');
  });

  test('a guest that does not read makes the client wait, and gets all when it does', async () => {
    await using server = await TestServer.start((socket) => socket.pause());
    await using published = await local.agent.publish({ hostPort: 0, guestPort: server.port });
    const accepted = server.next();
    const { bytes, sha256: sum } = testBytes(48_000_000);
    const socket = client(published.hostPort);
    const sent = { all: false };
    socket.end(bytes, () => {
      sent.all = true;
    });
    const peer = await accepted;
    await local.agent.run(['true']);
    expect(sent.all).toBe(false);
    expect(sha256(await collect(peer))).toBe(sum);
    expect(sent.all).toBe(true);
    peer.end();
  }, 30_000);

  test('nobody listens in the guest: the client is reset at once, and REFUSED is told and logged', async () => {
    const guestPort = await freePort();
    const errors: unknown[] = [];
    const onError = (error: unknown): void => {
      errors.push(error);
    };
    await using published = await local.agent.publish({ hostPort: 0, guestPort, onError });
    expect(await outcome(client(published.hostPort))).toBe('ECONNRESET');
    expect(errors).toMatchObject([{ code: 'REFUSED', side: 'guest' }]);
    const where = `127.0.0.1:${published.hostPort}`;
    expect(local.transport.warnings).toEqual([
      expect.stringMatching(`^a connection to ${where} was reset: nobody answers at that port of the guest`),
    ]);
  });

  test('a port of the host that is taken is HOST_PORT, and says which', async () => {
    await using taken = await TestServer.echo();
    await expect(local.agent.publish({ hostPort: taken.port, guestPort: 80 })).rejects.toMatchObject({
      code: 'HOST_PORT',
      side: 'host',
      message: expect.stringContaining(`port ${taken.port} of 127.0.0.1 cannot be listened at`) as unknown,
    });
  });

  test('other addresses of the host: IPv6', async () => {
    await using server = await TestServer.echo();
    await using published = await local.agent.publish({ host: '::1', hostPort: 0, guestPort: server.port });
    const socket = client(published.hostPort, '::1');
    socket.end('six');
    expect((await collect(socket)).toString()).toBe('six');
  });

  test('end their connections when they are closed, twice is once', async () => {
    await using server = await TestServer.echo();
    const published = await local.agent.publish({ hostPort: 0, guestPort: server.port });
    const socket = client(published.hostPort);
    socket.write('x');
    await once(socket, 'data');
    const ended = outcome(socket);
    await published.close();
    await published.close();
    expect(await ended).toBe('ECONNRESET');
    expect(await outcome(client(published.hostPort))).toBe('ECONNREFUSED');
  });

  test('are over when the VM is', async () => {
    const published = await local.agent.publish({ hostPort: 0, guestPort: 80 });
    local.transport.close();
    await local.transport.ended;
    expect(await outcome(client(published.hostPort))).toBe('ECONNREFUSED');
    await expect(local.agent.publish({ hostPort: 0, guestPort: 80 })).rejects.toMatchObject({ code: 'GUEST_GONE' });
  });

  test.each([
    [{ hostPort: -1, guestPort: 80 }, /hostPort: -1/],
    [{ hostPort: 65_536, guestPort: 80 }, /hostPort: 65536/],
    [{ hostPort: 0, guestPort: 0 }, /guestPort: 0/],
    [{ hostPort: 0, guestPort: 1.5 }, /guestPort: 1.5/],
    [{ hostPort: 0, guestPort: 80, readyTimeout: 0 }, /readyTimeout: 0/],
  ])('take no number that cannot be: %j', async (options, message) => {
    const published = local.agent.publish(options);
    await expect(published).rejects.toThrow(RangeError);
    await expect(published).rejects.toThrow(message);
  });
});

describe('published ports of a guest that is not ready', () => {
  beforeEach(async () => {
    local = await LocalAgent.prepare();
  });
  afterEach(async () => {
    await local.stop();
  });

  test('a connection waits for the agent, and for somebody to listen', async () => {
    const guestPort = await freePort();
    await using published = await local.agent.publish({ hostPort: 0, guestPort });
    const socket = client(published.hostPort);
    socket.end('early');
    await once(socket, 'connect');
    await local.spawnAgent();
    await using server = await TestServer.echo({ port: guestPort });
    expect(server.port).toBe(guestPort);
    expect((await collect(socket)).toString()).toBe('early');
    expect(local.transport.warnings).toEqual([]);
  }, 30_000);

  test('a connection waits no longer than it may', async () => {
    await using published = await local.agent.publish({ hostPort: 0, guestPort: 80, readyTimeout: 20 });
    expect(await outcome(client(published.hostPort))).toBe('ECONNRESET');
    expect(local.transport.warnings).toEqual([expect.stringContaining('the guest was not ready within 20 ms')]);
  });

  test('one that is closed ends those that wait, and that is no failure', async () => {
    const published = await local.agent.publish({ hostPort: 0, guestPort: 80 });
    const socket = client(published.hostPort);
    await once(socket, 'connect');
    // The server may not have seen it yet.
    const other = client(published.hostPort);
    await once(other, 'connect');
    const ended = Promise.all([outcome(socket), outcome(other)]);
    await published.close();
    await ended;
    expect(local.transport.warnings).toEqual([]);
  });
});

describe('a port that leads to vsock', () => {
  beforeEach(async () => {
    local = await LocalAgent.prepare();
  });
  afterEach(async () => {
    await local.stop();
  });

  test('needs no agent; what the guest closes at once reaches the client whole', async () => {
    const { bytes, sha256: sum } = testBytes(2_000_000);
    await using server = await TestServer.start(
      (socket) => {
        socket.end(bytes);
        socket.on('finish', () => socket.destroy());
      },
      { path: local.socketPath },
    );
    await using published = await publishPort({ hostPort: 0, vsockPort: 7 }, reachVsock(local.transport, 7));
    expect(published).toMatchObject({ guestPort: undefined, vsockPort: 7 });
    const socket = client(published.hostPort);
    expect(sha256(await collect(socket))).toBe(sum);
    // Nobody is behind it any more: what is sent now is answered as by a closed port.
    while (!socket.destroyed) await new Promise((resolve) => socket.write('too late', () => setImmediate(resolve)));
    expect(server.server.listening).toBe(true);
  });

  test('is refused at once by a guest that is ready', async () => {
    const warnings: string[] = [];
    const options = { hostPort: 0, vsockPort: 9 };
    await using published = await publishPort(options, reachVsock(local.transport, 9), (text) => warnings.push(text));
    expect(await outcome(client(published.hostPort))).toBe('ECONNRESET');
    expect(warnings).toEqual([expect.stringContaining('nobody answers at vsock port 9 of the guest')]);
  });
});
