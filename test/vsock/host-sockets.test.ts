// VSOCK.md, "Host-facing Unix sockets": rules 16 to 21, as far as they are the device's (20 is the configuration's).

import { existsSync, readdirSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { close, libc } from '../../src/platform/libc.js';
import type { Fd } from '../../src/platform/units.js';
import { HostPeer } from './host-peer.js';
import { GuestEnd, OP, ops, payload, Scenario, SEND } from './scenario.js';
import type { GuestOptions } from './vsock-guest.js';

let scenario: Scenario;

beforeEach(() => {
  scenario = new Scenario();
});

afterEach(() => {
  scenario[Symbol.dispose]();
});

function restart(options: GuestOptions & { start?: 'active' | 'inactive' }): void {
  scenario[Symbol.dispose]();
  scenario = new Scenario(options);
}

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

describe('rule 16: the CONNECT line in every form', () => {
  test('in single bytes', () => {
    const client = scenario.client();
    for (const character of 'CONNECT 1234\n') {
      expect(scenario.guest.exchange()).toEqual([]);
      client.write(character);
    }
    expect(scenario.guest.exchange()).toMatchObject([{ op: OP.REQUEST, dstPort: 1234 }]);
  });

  test('in pieces that arrive between turns, before and after the device has looked', () => {
    const client = scenario.client();
    client.write('CON');
    scenario.guest.settle();
    client.write('NECT ');
    client.write('12');
    scenario.guest.settle();
    client.write('34\nrest');
    const [request] = scenario.guest.exchange();
    expect(request.dstPort).toBe(1234);
    new GuestEnd(scenario.guest, 1234, request.srcPort).send(OP.RESPONSE);
    expect(payload(scenario.guest.exchange()).toString()).toBe('rest');
  });

  test.each([
    ['oversized', `CONNECT ${'1'.repeat(1000)}\n`],
    ['endless', 'x'.repeat(100_000)],
    ['of another protocol', 'GET / HTTP/1.1\r\n\r\n'],
    ['without a number', 'CONNECT \n'],
    ['with a number that is no port', 'CONNECT 4294967296\n'],
  ])('%s: the client is closed, and nobody else notices', (_name, said) => {
    const other = scenario.openFromHost(7);
    const client = scenario.client();
    client.write(said);
    expect(scenario.guest.exchange()).toEqual([]);
    expect(client.ended).toBe(true);
    other.client.write('fine');
    expect(other.end.take(scenario.guest.exchange()).toString()).toBe('fine');
  });

  test.each(['', 'CON', 'CONNECT 12'])('cut by EOF after %j: the client is closed, nothing loops', (said) => {
    const client = scenario.client();
    client.write(said);
    scenario.guest.settle();
    client.shutdownWrite();
    scenario.guest.settle();
    expect(client.ended).toBe(true);
    expect(scenario.guest.device.poll()).toBe(false);
    expect(scenario.guest.receive()).toEqual([]);
  });

  test('a client that says nothing costs nothing, and may speak later', () => {
    const client = scenario.client();
    for (let turn = 0; turn < 20; turn++) scenario.loop.turn(0);
    client.write('CONNECT 9\n');
    expect(scenario.guest.exchange()).toMatchObject([{ op: OP.REQUEST, dstPort: 9 }]);
  });

  test('a complete line and a half-close at once is a request: the guest’s answer still flows', () => {
    const { client, end, ok } = (() => {
      const client = scenario.client();
      client.write('CONNECT 7\nquestion');
      client.shutdownWrite();
      const [request] = scenario.guest.exchange();
      const end = new GuestEnd(scenario.guest, 7, request.srcPort);
      end.send(OP.RESPONSE);
      return { client, end, ok: `OK ${request.srcPort}\n` };
    })();
    const packets = scenario.guest.exchange();
    expect(ops(packets)).toEqual(['RW', 'SHUTDOWN']);
    expect(packets[1].flags).toBe(SEND);
    end.write('answer');
    scenario.guest.settle();
    expect(client.readAll()).toEqual({ text: `${ok}answer`, ended: false });
  });
});

describe('rule 17: what follows the line in the same write belongs to the guest', () => {
  test('a few bytes', () => {
    const { end, client, ok } = scenario.openFromHost(7, 'CONNECT 7\nhello');
    expect(end.take(scenario.guest.receive()).toString()).toBe('hello');
    expect(ok).toMatch(/^OK \d+\n$/);
    client.write(' and more');
    expect(end.take(scenario.guest.exchange()).toString()).toBe(' and more');
  });

  test('a great many bytes', () => {
    const data = 'x'.repeat(100_000);
    const { end } = scenario.openFromHost(7, `CONNECT 7\n${data}`);
    expect(end.take(scenario.guest.exchange()).toString()).toBe(data);
  });

  test('something that looks like another line', () => {
    const { end } = scenario.openFromHost(7, 'CONNECT 7\nCONNECT 8\n');
    expect(end.take(scenario.guest.receive()).toString()).toBe('CONNECT 8\n');
  });
});

describe('rule 18: the client vanishes before OK', () => {
  test('without a word more: the guest’s acceptance is answered by SHUTDOWN, and nothing throws', () => {
    const client = scenario.client();
    client.write('CONNECT 7\n');
    const [request] = scenario.guest.exchange();
    client.close();
    scenario.guest.settle();
    new GuestEnd(scenario.guest, 7, request.srcPort).send(OP.RESPONSE);
    expect(ops(scenario.guest.exchange())).toEqual(['SHUTDOWN']);
  });

  test('what it had sent is delivered all the same', () => {
    const client = scenario.client();
    client.write('CONNECT 7\nfire and forget');
    client.close();
    const [request] = scenario.guest.exchange();
    const end = new GuestEnd(scenario.guest, 7, request.srcPort);
    end.send(OP.RESPONSE);
    const packets = scenario.guest.exchange();
    expect(ops(packets)).toEqual(['RW', 'SHUTDOWN']);
    expect(end.take(packets).toString()).toBe('fire and forget');
    end.send(OP.RST);
    scenario.guest.settle();
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('before it was even accepted', () => {
    scenario.client().close();
    const client = scenario.client();
    client.write('CONNECT 7\n');
    client.close();
    expect(scenario.guest.exchange()).toMatchObject([{ op: OP.REQUEST }]);
  });
});

describe('rule 19: the listener’s backlog is full', () => {
  test('the loop does not block, and the connection is made when there is room', () => {
    const server = scenario.serve(80, 0);
    // A backlog of 0 still lets one wait.
    const waiting = HostPeer.connect(`${scenario.socketPath}_80`);
    const end = new GuestEnd(scenario.guest, 50_000, 80);
    end.send(OP.REQUEST);
    expect(scenario.guest.exchange()).toEqual([]);
    const other = scenario.openFromHost(7);
    other.client.write('unharmed');
    expect(other.end.take(scenario.guest.exchange()).toString()).toBe('unharmed');
    server.accept()?.close();
    waiting.close();
    scenario.loop.advance(50);
    expect(ops(scenario.guest.exchange())).toEqual(['RESPONSE']);
    const peer = scenario.own(server.accept() ?? scenario.client());
    end.write('in');
    scenario.guest.settle();
    expect(peer.read().toString()).toBe('in');
  });

  test('within the guest’s 2 s it is told RST if there never is room', () => {
    scenario.serve(80, 0);
    const waiting = scenario.own(HostPeer.connect(`${scenario.socketPath}_80`));
    new GuestEnd(scenario.guest, 50_000, 80).send(OP.REQUEST);
    scenario.guest.settle();
    scenario.loop.advance(1700);
    expect(scenario.guest.exchange()).toEqual([]);
    scenario.loop.advance(200);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(waiting.readOnce()).toBeUndefined();
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('a guest that gives up meanwhile leaves nothing behind', () => {
    scenario.serve(80, 0);
    scenario.own(HostPeer.connect(`${scenario.socketPath}_80`));
    const before = openDescriptors();
    const end = new GuestEnd(scenario.guest, 50_000, 80);
    end.send(OP.REQUEST);
    scenario.guest.settle();
    expect(openDescriptors()).toBe(before + 1);
    end.send(OP.RST);
    scenario.guest.settle();
    expect(openDescriptors()).toBe(before);
    scenario.loop.advance(3000);
    expect(scenario.guest.exchange()).toEqual([]);
  });

  test('a listener that closes meanwhile: RST', () => {
    const server = scenario.serve(80, 0);
    scenario.own(HostPeer.connect(`${scenario.socketPath}_80`));
    new GuestEnd(scenario.guest, 50_000, 80).send(OP.REQUEST);
    scenario.guest.settle();
    // Only the test's own handle is shut here: closing it twice would be an error.
    libc.shutdown(server.fd, 2);
    scenario.loop.advance(50);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
  });
});

describe('rule 21: a connect before the guest driver is up gets a defined answer', () => {
  test('it is closed at once', () => {
    restart({ start: 'inactive' });
    const client = scenario.client();
    client.write('CONNECT 7\n');
    scenario.guest.settle();
    expect(client.ended).toBe(true);
    const silent = scenario.client();
    scenario.guest.settle();
    expect(silent.ended).toBe(true);
    scenario.guest.activate().postRx();
    expect(ops(scenario.guest.exchange())).toEqual([]);
    expect(scenario.openFromHost(7).ok).toMatch(/^OK/);
  });
});

describe('descriptors', () => {
  test('out of descriptors: the listener waits for a timer instead of spinning, and goes on', () => {
    const hoard: Fd[] = [];
    const first = scenario.client();
    const second = scenario.client();
    first.write('CONNECT 7\n');
    second.write('CONNECT 8\n');
    // Take every descriptor there is, so that accept fails.
    for (let fd = libc.dup(0); fd >= 0; fd = libc.dup(0)) hoard.push(fd as Fd);
    try {
      expect(scenario.guest.exchange()).toEqual([]);
      expect(scenario.guest.logged.join()).toMatch(/EMFILE/);
      const warnings = scenario.guest.logged.length;
      for (let turn = 0; turn < 50; turn++) scenario.loop.turn(0);
      expect(scenario.guest.logged.length).toBe(warnings);
    } finally {
      for (const fd of hoard) close(fd);
    }
    scenario.loop.advance(150);
    expect(
      scenario.guest
        .exchange()
        .map((packet) => packet.dstPort)
        .sort(),
    ).toEqual([7, 8]);
  });

  test('out of descriptors: the guest’s REQUEST gets RST', () => {
    const hoard: Fd[] = [];
    scenario.serve(80);
    for (let fd = libc.dup(0); fd >= 0; fd = libc.dup(0)) hoard.push(fd as Fd);
    try {
      new GuestEnd(scenario.guest, 50_000, 80).send(OP.REQUEST);
      expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    } finally {
      for (const fd of hoard) close(fd);
    }
  });

  test('closing the device closes every descriptor it had', () => {
    const before = openDescriptors();
    {
      using local = new Scenario();
      local.openFromHost(7);
      local.openFromHost(8).client.close();
      local.openFromGuest(80).end.write('x');
      local.client().write('CONN');
      local.client();
      local.guest.settle();
      expect(openDescriptors()).toBeGreaterThan(before + 8);
    }
    expect(openDescriptors()).toBe(before);
  });

  test('1,000 connections, opened and ended in every way, leave none', () => {
    const before = openDescriptors();
    const server = scenario.serve(80, 64);
    for (let round = 0; round < 250; round++) {
      const a = scenario.openFromHost(7);
      const b = scenario.openFromGuest(80, 20_000 + round, server);
      const c = scenario.openFromGuest(80, 30_000 + round, server);
      a.client.close();
      b.end.send(OP.RST);
      c.end.send(OP.SHUTDOWN, { flags: 3 });
      scenario.client().close();
      scenario.guest.exchange();
      a.end.send(OP.RST);
      b.peer.close();
      c.peer.close();
    }
    scenario.guest.exchange();
    expect(scenario.guest.device.connectionCount).toBe(0);
    expect(openDescriptors()).toBe(before + 1);
    expect(existsSync(scenario.socketPath)).toBe(true);
  });

  test('a burst of 500 clients is served', () => {
    const clients = Array.from({ length: 60 }, () => scenario.client());
    for (let more = 0; more < 440; more++) {
      if (more % 50 === 0) scenario.guest.settle();
      clients.push(scenario.client());
    }
    clients.forEach((client, index) => client.write(`CONNECT ${index + 1}\n`));
    const asked = new Set<number>();
    for (let packets = scenario.guest.exchange(); packets.length > 0; packets = scenario.guest.exchange()) {
      for (const packet of packets) asked.add(packet.dstPort);
    }
    expect(asked.size).toBe(500);
  });
});
