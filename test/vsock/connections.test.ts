// VSOCK.md, "Connections and credit": rules 7 to 15.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { CLOSE_TIMEOUT_MS, REQUEST_TIMEOUT_MS } from '../../src/vsock/connection.js';
import { BOTH, GuestEnd, OP, ops, payload, RCV, Scenario, SEND } from './scenario.js';
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

const bytes = (length: number, seed = 1): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_, index) => (index * 31 + seed * 7) & 0xff));

/** Delivers everything to a guest that takes it at once. */
function drain(end: GuestEnd): Buffer {
  const parts: Buffer[] = [];
  for (let part = end.take(scenario.guest.exchange()); part.length > 0; part = end.take(scenario.guest.exchange())) {
    parts.push(part);
    end.tellCredit();
  }
  return Buffer.concat(parts);
}

describe('beginning', () => {
  test('a host client gets OK with the host port, and bytes flow both ways', () => {
    const { client, end, ok } = scenario.openFromHost(7);
    expect(ok).toBe(`OK ${end.hostPort}\n`);
    expect(end.hostPort).toBeGreaterThanOrEqual(0x4000_0000);
    client.write('to the guest');
    expect(drain(end).toString()).toBe('to the guest');
    end.write('to the host');
    scenario.guest.settle();
    expect(client.read().toString()).toBe('to the host');
  });

  test('a guest that refuses closes the client, without OK', () => {
    const client = scenario.client();
    client.write('CONNECT 7\n');
    const [request] = scenario.guest.exchange();
    new GuestEnd(scenario.guest, 7, request.srcPort).send(OP.RST);
    scenario.guest.settle();
    expect(client.readAll()).toEqual({ text: '', ended: true });
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('the guest reaches <socket>_<port>, and is answered RESPONSE', () => {
    const { peer, end, answer } = scenario.openFromGuest(1234);
    expect(answer).toMatchObject([{ op: OP.RESPONSE, srcCid: 2, srcPort: 1234, dstCid: 3, dstPort: 50_000 }]);
    end.write('hello');
    scenario.guest.settle();
    expect(peer.read().toString()).toBe('hello');
  });

  test('nobody listens there: RST', () => {
    new GuestEnd(scenario.guest, 50_000, 1234).send(OP.REQUEST);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('host ports are not used again soon', () => {
    const ports = Array.from({ length: 5 }, () => {
      const { client, end } = scenario.openFromHost(7);
      end.send(OP.RST);
      scenario.guest.settle();
      client.close();
      return end.hostPort;
    });
    expect(new Set(ports).size).toBe(5);
  });

  test('a second REQUEST on an open connection resets it', () => {
    const { peer, end } = scenario.openFromGuest(80);
    end.send(OP.REQUEST);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(peer.ended).toBe(true);
  });
});

describe('rule 7: RESPONSE comes before anything else on a connection', () => {
  test('the host writes before the guest has receive buffers: RESPONSE first all the same', () => {
    restart({ start: 'inactive' });
    const { guest } = scenario;
    guest.activate();
    const server = scenario.serve(80);
    const end = new GuestEnd(guest, 50_000, 80);
    end.send(OP.REQUEST).send(OP.CREDIT_REQUEST);
    guest.settle();
    const peer = scenario.own(server.accept() ?? scenario.client());
    peer.write('early');
    peer.close();
    guest.settle();
    guest.postRx();
    expect(ops(guest.exchange())).toEqual(['RESPONSE', 'RW', 'SHUTDOWN']);
  });

  test('the guest is sent nothing before it has accepted', () => {
    const client = scenario.client();
    client.write('CONNECT 7\nearly');
    client.shutdownWrite();
    expect(ops(scenario.guest.exchange())).toEqual(['REQUEST']);
    client.write('x');
    expect(scenario.guest.exchange()).toEqual([]);
  });
});

describe('rule 8: credit', () => {
  test('a guest with a small buffer is told of room before its own cap is reached', () => {
    scenario.guest.bufAlloc = 4096;
    const { peer, end } = scenario.openFromGuest(80);
    let known = 0;
    let sent = 0;
    for (let packet = 0; packet < 100; packet++) {
      expect(sent + 1000 - known).toBeLessThanOrEqual(4096);
      end.write(bytes(1000));
      sent += 1000;
      scenario.guest.settle();
      peer.read();
      for (const { fwdCnt } of scenario.guest.receive()) known = fwdCnt;
    }
  });

  test('a guest never gets more than its buffer holds', () => {
    scenario.guest.bufAlloc = 10_000;
    const { client, end } = scenario.openFromHost(7);
    client.write(bytes(50_000));
    const first = payload(scenario.guest.exchange());
    expect(first.length).toBeLessThanOrEqual(10_000);
    expect(scenario.guest.exchange()).toEqual([]);
    end.fwdCnt = first.length;
    end.tellCredit();
    const rest = drain(end);
    expect(Buffer.concat([first, rest]).equals(bytes(50_000))).toBe(true);
  });

  test('a buffer of one byte works', () => {
    scenario.guest.bufAlloc = 1;
    const { client, end } = scenario.openFromHost(7);
    client.write('slowly');
    expect(drain(end).toString()).toBe('slowly');
  });

  test('a credit request is answered, even when nothing has changed', () => {
    const { end } = scenario.openFromGuest(80);
    end.send(OP.CREDIT_REQUEST);
    expect(scenario.guest.exchange()).toMatchObject([{ op: OP.CREDIT_UPDATE, fwdCnt: 0 }]);
  });

  test('fwd_cnt counts what the host took, per connection, and comes with every packet', () => {
    const server = scenario.serve(80);
    const one = scenario.openFromGuest(80, 50_001, server);
    const two = scenario.openFromGuest(80, 50_002, server);
    one.end.write(bytes(100));
    two.end.write(bytes(200));
    scenario.guest.settle();
    one.peer.write('a');
    two.peer.write('b');
    const counts = new Map(scenario.guest.exchange().map((packet) => [packet.dstPort, packet.fwdCnt]));
    expect([counts.get(50_001), counts.get(50_002)]).toEqual([100, 200]);
  });

  test('credit for bytes that wait in the ring is not given back', () => {
    const { peer, end } = scenario.openFromGuest(80);
    const sent = scenario.fillHost(end);
    end.send(OP.CREDIT_REQUEST);
    const [{ fwdCnt }] = scenario.guest.exchange().slice(-1);
    expect(fwdCnt).toBeLessThan(sent.length);
    expect(peer.read().length).toBe(fwdCnt);
  });
});

describe('rule 9: EAGAIN keeps the connection', () => {
  test('a host that does not read, then reads slowly, gets every byte in order', () => {
    const { peer, end } = scenario.openFromGuest(80);
    const { guest } = scenario;
    const stalled = scenario.fillHost(end);
    end.send(OP.CREDIT_REQUEST);
    let [{ fwdCnt: known, bufAlloc }] = guest.exchange().slice(-1);
    const all = Buffer.concat([stalled, bytes(1_000_000)]);
    let sent = stalled.length;
    const received: Buffer[] = [];
    let gotten = 0;
    for (let round = 0; gotten < all.length; round++) {
      expect(round).toBeLessThan(100_000);
      while (sent < all.length && sent - known + 50_000 <= bufAlloc) {
        const part = all.subarray(sent, sent + 50_000);
        end.write(part);
        sent += part.length;
        guest.settle();
      }
      const part = peer.readOnce(round < 300 ? 1000 : 64 * 1024);
      if (part instanceof Buffer) {
        received.push(part);
        gotten += part.length;
      }
      for (const packet of guest.exchange()) ({ fwdCnt: known, bufAlloc } = packet);
    }
    expect(Buffer.concat(received).equals(all)).toBe(true);
  });

  test('a host that writes in bits, at any time, reaches the guest', () => {
    const { client, end } = scenario.openFromHost(7);
    for (let round = 0; round < 200; round++) {
      client.write(`${round},`);
      expect(drain(end).toString()).toBe(`${round},`);
    }
  });

  test('one stalled host does not hold up another', () => {
    const server = scenario.serve(80);
    const stalled = scenario.openFromGuest(80, 50_001, server);
    const other = scenario.openFromGuest(80, 50_002, server);
    scenario.fillHost(stalled.end);
    for (let round = 0; round < 50; round++) {
      other.end.write('ping');
      scenario.guest.settle();
      expect(other.peer.read().toString()).toBe('ping');
    }
  });
});

describe('rule 10: half-close is real', () => {
  test('host EOF delivers what is queued, then SHUTDOWN(SEND) only, and replies still flow', () => {
    const { client, end } = scenario.openFromHost(7);
    client.write('question');
    client.shutdownWrite();
    const packets = scenario.guest.exchange();
    expect(ops(packets)).toEqual(['RW', 'SHUTDOWN']);
    expect(packets[1].flags).toBe(SEND);
    expect(end.take(packets).toString()).toBe('question');
    end.write('answer, part 1;');
    scenario.guest.settle();
    end.write('part 2');
    end.send(OP.SHUTDOWN, { flags: BOTH });
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(client.readAll()).toEqual({ text: 'answer, part 1;part 2', ended: true });
  });

  test('host EOF behind data without credit: SHUTDOWN comes after the last byte', () => {
    scenario.guest.bufAlloc = 5000;
    const { client, end } = scenario.openFromHost(7);
    client.write(bytes(20_000));
    client.shutdownWrite();
    const seen: string[] = [];
    let received = 0;
    for (let round = 0; round < 20; round++) {
      const packets = scenario.guest.exchange();
      seen.push(...ops(packets));
      received += end.take(packets).length;
      end.tellCredit();
    }
    expect(received).toBe(20_000);
    expect(seen.indexOf('SHUTDOWN')).toBe(seen.length - 1);
  });

  test('guest SHUTDOWN(SEND) flushes what is buffered, then ends the stream; the host’s replies still flow', () => {
    const { peer, end } = scenario.openFromGuest(80);
    const data = scenario.fillHost(end);
    end.send(OP.SHUTDOWN, { flags: SEND });
    scenario.guest.settle();
    const received: Buffer[] = [];
    for (;;) {
      const part = peer.readOnce(10_000);
      if (part === 'eof') break;
      if (part !== undefined) received.push(part);
      scenario.guest.settle();
    }
    expect(Buffer.concat(received).equals(data)).toBe(true);
    scenario.guest.receive();
    peer.write('still here');
    expect(end.take(scenario.guest.exchange()).toString()).toBe('still here');
    peer.close();
    const last = scenario.guest.exchange();
    expect(ops(last)).toEqual(['SHUTDOWN']);
    expect(last[0].flags).toBe(BOTH);
  });

  test('guest SHUTDOWN(RCV): the host can write no more, and the guest still can', () => {
    const { client, end } = scenario.openFromHost(7);
    end.send(OP.SHUTDOWN, { flags: RCV });
    scenario.guest.settle();
    expect(client.write('x')).toBeLessThan(0);
    end.write('one way');
    scenario.guest.settle();
    expect(client.read().toString()).toBe('one way');
    end.send(OP.SHUTDOWN, { flags: SEND });
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(client.ended).toBe(true);
  });

  test('both ends half-close, in either order: the connection ends, and the guest’s RST is awaited', () => {
    for (const first of ['host', 'guest']) {
      const { client, end } = scenario.openFromHost(7);
      if (first === 'host') client.shutdownWrite();
      else end.send(OP.SHUTDOWN, { flags: SEND });
      scenario.guest.settle();
      if (first === 'host') end.send(OP.SHUTDOWN, { flags: SEND });
      else client.shutdownWrite();
      const packets = scenario.guest.exchange();
      expect(packets.at(-1)).toMatchObject({ op: OP.SHUTDOWN, flags: BOTH });
      expect(client.readAll().ended).toBe(true);
      end.send(OP.RST);
      expect(scenario.guest.exchange()).toEqual([]);
      expect(scenario.guest.device.connectionCount).toBe(0);
    }
  });

  test('guest SHUTDOWN(both) with bytes that the host has not taken: they are delivered, then RST', () => {
    const { peer, end } = scenario.openFromGuest(80);
    const data = scenario.fillHost(end);
    end.send(OP.SHUTDOWN, { flags: BOTH });
    expect(ops(scenario.guest.exchange())).not.toContain('RST');
    const received: Buffer[] = [];
    for (let part = peer.readOnce(); part !== 'eof'; part = peer.readOnce()) {
      if (part !== undefined) received.push(part);
      scenario.guest.settle();
    }
    expect(Buffer.concat(received).equals(data)).toBe(true);
    expect(ops(scenario.guest.exchange())).toContain('RST');
  });

  test('a guest that gives up waiting and says RST after SHUTDOWN(both) loses nothing it sent', () => {
    const { peer, end } = scenario.openFromGuest(80);
    const data = scenario.fillHost(end);
    end.send(OP.SHUTDOWN, { flags: BOTH });
    end.send(OP.RST);
    scenario.guest.settle();
    const received: Buffer[] = [];
    for (let part = peer.readOnce(); part !== 'eof'; part = peer.readOnce()) {
      if (part !== undefined) received.push(part);
      scenario.guest.settle();
    }
    expect(Buffer.concat(received).equals(data)).toBe(true);
    expect(ops(scenario.guest.exchange())).not.toContain('RST');
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('bytes after SHUTDOWN(SEND) reset the connection', () => {
    const { end } = scenario.openFromGuest(80);
    end.send(OP.SHUTDOWN, { flags: SEND });
    end.write('too late');
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
  });

  test('SHUTDOWN without flags changes nothing', () => {
    const { peer, end } = scenario.openFromGuest(80);
    end.send(OP.SHUTDOWN, { flags: 0 });
    end.write('still there');
    scenario.guest.settle();
    expect(peer.read().toString()).toBe('still there');
  });
});

describe('rule 11: a host client that closes entirely is told to the guest at once', () => {
  test('SHUTDOWN(both), without waiting for anything', () => {
    const { client, end } = scenario.openFromHost(7);
    client.close();
    const packets = scenario.guest.exchange();
    expect(packets).toMatchObject([{ op: OP.SHUTDOWN, flags: BOTH }]);
    end.send(OP.RST);
    scenario.guest.settle();
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('behind data that it sent before, which is delivered', () => {
    const { client, end } = scenario.openFromHost(7);
    client.write('last words');
    client.close();
    const packets = scenario.guest.exchange();
    expect(ops(packets)).toEqual(['RW', 'SHUTDOWN']);
    expect(packets[1].flags).toBe(BOTH);
    expect(end.take(packets).toString()).toBe('last words');
  });

  test('a guest without credit is told at once that nobody reads any more, and gets the rest when it can', () => {
    scenario.guest.bufAlloc = 1000;
    const { client, end } = scenario.openFromHost(7);
    client.write(bytes(5000));
    const first = scenario.guest.exchange();
    client.close();
    const told = scenario.guest.exchange();
    expect(told).toMatchObject([{ op: OP.SHUTDOWN, flags: RCV }]);
    end.take(first);
    end.tellCredit();
    const seen: string[] = [];
    for (let round = 0; round < 10; round++) {
      const packets = scenario.guest.exchange();
      seen.push(...ops(packets));
      end.take(packets);
      end.tellCredit();
    }
    expect(end.fwdCnt).toBe(5000);
    expect(seen.at(-1)).toBe('SHUTDOWN');
  });

  test('it had not read all that the guest sent: still SHUTDOWN(both), and the guest’s further bytes are swallowed', () => {
    const { client, end } = scenario.openFromHost(7);
    end.write('never read');
    scenario.guest.settle();
    client.close();
    expect(scenario.guest.exchange()).toMatchObject([{ op: OP.SHUTDOWN, flags: BOTH }]);
    end.write('nor this');
    end.write('nor that');
    expect(scenario.guest.exchange()).toEqual([]);
    end.send(OP.SHUTDOWN, { flags: BOTH });
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('while bytes for it wait in the ring: they are dropped, and the guest is told', () => {
    const { peer, end } = scenario.openFromGuest(80);
    scenario.fillHost(end);
    peer.close();
    expect(scenario.guest.exchange().at(-1)).toMatchObject({ op: OP.SHUTDOWN, flags: BOTH });
  });

  test('half-close first, full close later', () => {
    const { client, end } = scenario.openFromHost(7);
    client.shutdownWrite();
    expect(scenario.guest.exchange()).toMatchObject([{ op: OP.SHUTDOWN, flags: SEND }]);
    client.close();
    expect(scenario.guest.exchange()).toMatchObject([{ op: OP.SHUTDOWN, flags: BOTH }]);
    end.send(OP.RST);
    scenario.guest.settle();
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('a guest that never answers SHUTDOWN(both) is sent RST after a time', () => {
    const { client } = scenario.openFromHost(7);
    client.close();
    scenario.guest.exchange();
    scenario.loop.advance(CLOSE_TIMEOUT_MS - 100);
    expect(scenario.guest.exchange()).toEqual([]);
    scenario.loop.advance(200);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(scenario.guest.device.connectionCount).toBe(0);
  });
});

describe('a host client that reads no more but writes on', () => {
  test('the guest is told SHUTDOWN(RCV) once it sends, and goes on receiving', () => {
    const { client, end } = scenario.openFromHost(7);
    client.shutdownRead();
    end.write('nobody wants this');
    const told = scenario.guest.exchange();
    expect(told).toMatchObject([{ op: OP.SHUTDOWN, flags: RCV }]);
    client.write('listen');
    expect(drain(end).toString()).toBe('listen');
    client.close();
    expect(scenario.guest.exchange()).toMatchObject([{ op: OP.SHUTDOWN, flags: BOTH }]);
  });
});

describe('rule 12: RST for an unknown connection is never answered with RST', () => {
  test('RST gets no answer, everything else gets RST', () => {
    const { guest } = scenario;
    guest.send({ srcPort: 1, dstPort: 2, op: OP.RST });
    expect(guest.exchange()).toEqual([]);
    for (const op of [OP.RESPONSE, OP.SHUTDOWN, OP.RW, OP.CREDIT_UPDATE, OP.CREDIT_REQUEST]) {
      guest.send({ srcPort: 1, dstPort: 2, op });
      expect(guest.exchange()).toMatchObject([{ op: OP.RST, srcPort: 2, dstPort: 1 }]);
    }
  });

  test('RST with an unknown type or destination gets no answer either', () => {
    const { guest } = scenario;
    guest.send({ srcPort: 1, dstPort: 2, op: OP.RST, type: 9 });
    guest.send({ srcPort: 1, dstPort: 2, op: OP.RST, dstCid: 9 });
    expect(guest.exchange()).toEqual([]);
  });

  test('a port used again at once works, whatever RST of the old connection is still under way', () => {
    const server = scenario.serve(80);
    const first = scenario.openFromGuest(80, 50_000, server);
    first.end.send(OP.SHUTDOWN, { flags: BOTH });
    first.end.send(OP.RST);
    first.end.send(OP.REQUEST);
    expect(ops(scenario.guest.exchange()).at(-1)).toBe('RESPONSE');
    const peer = scenario.own(server.accept() ?? scenario.client());
    new GuestEnd(scenario.guest, 50_000, 80).write('second life');
    scenario.guest.settle();
    expect(peer.read().toString()).toBe('second life');
  });

  test('a port used again while the host’s SHUTDOWN(both) was not answered makes a new connection', () => {
    const server = scenario.serve(80);
    const first = scenario.openFromGuest(80, 50_000, server);
    first.peer.close();
    scenario.guest.exchange();
    const second = scenario.openFromGuest(80, 50_000, server);
    expect(ops(second.answer)).toEqual(['RESPONSE']);
    scenario.loop.advance(CLOSE_TIMEOUT_MS + 100);
    expect(scenario.guest.exchange()).toEqual([]);
    second.end.write('alive');
    scenario.guest.settle();
    expect(second.peer.read().toString()).toBe('alive');
  });
});

describe('rule 13: the port spaces of the two directions are separate', () => {
  test('the same numbers the other way round are another connection', () => {
    const fromHost = scenario.openFromHost(80);
    const server = scenario.serve(80);
    const fromGuest = scenario.openFromGuest(80, fromHost.end.hostPort, server);
    fromGuest.end.send(OP.RST);
    scenario.guest.settle();
    expect(fromGuest.peer.ended).toBe(true);
    fromHost.end.write('still here');
    scenario.guest.settle();
    expect(fromHost.client.read().toString()).toBe('still here');
  });

  test('a guest connection that occupies a host port as large as an ephemeral one is not hit by the next host client', () => {
    const next = scenario.openFromHost(7).end.hostPort + 1;
    const server = scenario.serve(next);
    const taken = scenario.openFromGuest(next, 7, server);
    const { end } = scenario.openFromHost(7);
    expect(end.hostPort).not.toBe(next);
    end.send(OP.RST);
    taken.end.write('mine');
    scenario.guest.settle();
    expect(taken.peer.read().toString()).toBe('mine');
  });
});

describe('rule 14: connections are capped', () => {
  test('past the cap the guest gets RST and host clients are closed; a freed place can be used', () => {
    restart({ maxConnections: 3 });
    const server = scenario.serve(80);
    const open = [1, 2, 3].map((index) => scenario.openFromGuest(80, 50_000 + index, server));
    new GuestEnd(scenario.guest, 50_004, 80).send(OP.REQUEST);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    const client = scenario.client();
    client.write('CONNECT 7\n');
    expect(scenario.guest.exchange()).toEqual([]);
    expect(client.ended).toBe(true);
    open[1].end.send(OP.RST);
    scenario.guest.settle();
    expect(ops(scenario.openFromGuest(80, 50_005, server).answer)).toEqual(['RESPONSE']);
  });

  test('clients that say nothing count as well', () => {
    restart({ maxConnections: 2 });
    scenario.client();
    scenario.client();
    const third = scenario.client();
    scenario.guest.settle();
    expect(third.ended).toBe(true);
  });

  test('a flood of source ports costs nothing once it is answered', () => {
    restart({ maxConnections: 10 });
    const { guest } = scenario;
    for (let port = 0; port < 5000; port++) {
      guest.send({ srcPort: port, dstPort: 80, op: OP.REQUEST });
      if (port % 16 === 0) guest.exchange();
    }
    guest.exchange();
    expect(guest.device.connectionCount).toBe(0);
    expect(guest.device.counters.snapshot().resetsSent).toBe(5000);
  });

  test('1,500 connections at once work: there is no limit at 1023', () => {
    const server = scenario.serve(80, 4096);
    const open = Array.from({ length: 1500 }, (_, index) => scenario.openFromGuest(80, 10_000 + index, server));
    open.forEach(({ end }, index) => {
      end.write(`I am ${index}`);
      if (index % 16 === 0) scenario.guest.settle();
    });
    scenario.guest.settle();
    expect(open.every(({ peer }, index) => peer.read().toString() === `I am ${index}`)).toBe(true);
    for (const { peer } of open) peer.close();
  });
});

describe('rule 15: a REQUEST that the guest never answers fails by a timer', () => {
  test('the client is closed after the timeout, with no traffic at all, and a late answer gets RST', () => {
    const client = scenario.client();
    client.write('CONNECT 7\n');
    const [request] = scenario.guest.exchange();
    scenario.loop.advance(REQUEST_TIMEOUT_MS - 100);
    expect(client.readOnce()).toBeUndefined();
    scenario.loop.advance(200);
    expect(client.ended).toBe(true);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    new GuestEnd(scenario.guest, 7, request.srcPort).send(OP.RESPONSE);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
  });

  test('a guest that never posted a buffer was never asked: no RST', () => {
    restart({ start: 'inactive' });
    scenario.guest.activate();
    const client = scenario.client();
    client.write('CONNECT 7\n');
    scenario.guest.settle();
    scenario.loop.advance(REQUEST_TIMEOUT_MS + 100);
    expect(client.ended).toBe(true);
    scenario.guest.postRx();
    expect(scenario.guest.exchange()).toEqual([]);
  });

  test('an answered request is not hit by its timer', () => {
    const { client } = scenario.openFromHost(7);
    scenario.loop.advance(REQUEST_TIMEOUT_MS + 100);
    expect(scenario.guest.exchange()).toEqual([]);
    expect(client.readOnce()).toBeUndefined();
  });

  test.each([OP.RW, OP.SHUTDOWN, OP.REQUEST])('an answer by operation %i is no answer: RST', (op) => {
    const client = scenario.client();
    client.write('CONNECT 7\n');
    const [request] = scenario.guest.exchange();
    new GuestEnd(scenario.guest, 7, request.srcPort).send(op);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(client.ended).toBe(true);
  });
});

describe('fairness', () => {
  test('a bulk stream does not keep a small one waiting', () => {
    const { guest } = scenario;
    const bulk = scenario.openFromHost(7);
    const small = scenario.openFromHost(8);
    bulk.client.write(bytes(200_000));
    small.client.write('urgent');
    let seen = 0;
    for (const packet of guest.exchange()) {
      if (packet.dstPort === 8 && packet.op === OP.RW) break;
      seen++;
    }
    expect(seen).toBeLessThanOrEqual(64);
  });
});

describe('reset of the device', () => {
  test('closes every connection and client, and the driver can come up again', () => {
    const one = scenario.openFromHost(7);
    const two = scenario.openFromGuest(80);
    const silent = scenario.client();
    scenario.guest.settle();
    scenario.guest.device.reset();
    expect(one.client.ended).toBe(true);
    expect(two.peer.ended).toBe(true);
    expect(silent.ended).toBe(true);
    expect(scenario.guest.device.connectionCount).toBe(0);
    scenario.guest.restartDriver();
    const again = scenario.openFromHost(7);
    again.client.write('after the reset');
    expect(drain(again.end).toString()).toBe('after the reset');
  });

  test('nothing of what waited before the reset reaches the new driver', () => {
    restart({ start: 'inactive' });
    const { guest } = scenario;
    guest.activate();
    guest.send({ srcPort: 1, dstPort: 81, op: OP.REQUEST });
    scenario.client().write('CONNECT 7\n');
    guest.settle();
    guest.device.reset();
    guest.restartDriver();
    expect(guest.exchange()).toEqual([]);
  });
});
