// VSOCK.md, "Guest-facing ring": rules 1 to 6.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { HEADER_SIZE } from '../../src/vsock/packet.js';
import { BOTH, GuestEnd, OP, ops, payload, Scenario, SEND } from './scenario.js';
import type { GuestOptions } from './vsock-guest.js';

let scenario: Scenario;

function start(options: GuestOptions & { start?: 'active' | 'inactive' } = {}): void {
  scenario = new Scenario(options);
}

beforeEach(() => {
  start();
});

afterEach(() => {
  scenario[Symbol.dispose]();
});

function restart(options: GuestOptions & { start?: 'active' | 'inactive' }): void {
  scenario[Symbol.dispose]();
  start(options);
}

const bytes = (length: number, seed = 1): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_, index) => (index * 31 + seed * 7) & 0xff));

describe('rule 1: header and payload may be cut in any way', () => {
  test.each([
    ['one descriptor', [65536]],
    ['header and payload in two', [HEADER_SIZE, 65536]],
    ['payload beginning in the header’s', [60, 65536]],
    ['a header in two halves', [22, 22, 65536]],
    ['single bytes for the header', [...Array<number>(HEADER_SIZE).fill(1), 65536]],
    ['an odd first piece', [3, 65536]],
    ['pieces of seven', [7]],
  ])('from the guest, %s', (_name, cut) => {
    const { peer, end } = scenario.openFromGuest(80);
    const data = bytes(300);
    end.write(data, cut);
    scenario.guest.settle();
    expect(peer.read()).toEqual(data);
  });

  test.each([
    ['one descriptor', [4096]],
    ['header and payload in two', [HEADER_SIZE, 4096]],
    ['payload beginning in the header’s', [60, 4096]],
    ['a header in two halves', [22, 22, 4096]],
    ['single bytes for the header', [...Array<number>(HEADER_SIZE).fill(1), 4096]],
    ['an odd first piece', [3, 4096]],
    ['pieces of 700', [700]],
  ])('to the guest, %s', (_name, cut) => {
    restart({ rxCut: cut, queueSize: 256 });
    const { client, end } = scenario.openFromHost(7);
    const data = bytes(20_000);
    client.write(data);
    expect(end.take(scenario.guest.exchange())).toEqual(data);
  });

  test('a payload of many packets in many pieces, over a connection each, in one batch', () => {
    restart({ queueSize: 256 });
    const server = scenario.serve(80);
    const open = [1, 2, 3].map((index) => scenario.openFromGuest(80, 50_000 + index, server));
    for (let round = 0; round < 5; round++) {
      open.forEach(({ end }, index) => end.write(bytes(100 + round, index), [13, 31, 200]));
    }
    scenario.guest.settle();
    open.forEach(({ peer }, index) => {
      expect(peer.read()).toEqual(Buffer.concat([0, 1, 2, 3, 4].map((round) => bytes(100 + round, index))));
    });
  });

  test('a chain longer than the length field says: the rest is not payload', () => {
    const { peer, end } = scenario.openFromGuest(80);
    end.send(OP.RW, { payload: Buffer.from('hello, rest'), len: 5 });
    scenario.guest.settle();
    expect(peer.read().toString()).toBe('hello');
  });

  test('receive buffers of any size in one ring are used one after the other', () => {
    restart({ start: 'inactive' });
    scenario.guest.activate();
    for (const size of [45, 100, 4096, 46, 65_536, 60]) scenario.guest.postRx(3, size);
    scenario.guest.repost = false;
    const { client, end } = scenario.openFromHost(7);
    const data = bytes(50_000);
    client.write(data);
    expect(end.take(scenario.guest.exchange())).toEqual(data);
  });
});

describe('rule 2: what the guest wrote is read once', () => {
  test('a receive buffer is used where its descriptor was when it was taken, whatever that says later', () => {
    const { guest } = scenario;
    guest.repost = false;
    const { client, end } = scenario.openFromHost(7);
    client.write('first');
    expect(end.take(guest.exchange()).toString()).toBe('first');
    // The device holds all posted buffers by now: it must not look at their descriptors again.
    for (let index = 0; index < guest.rx.size; index++) guest.rx.describe(index, 0xdead_0000_0000n, 0xffff_ffff, 7, 9);
    client.write('second');
    expect(end.take(guest.exchange()).toString()).toBe('second');
  });
});

describe('rule 3: a guest that misbehaves harms nobody', () => {
  /** Another connection still works. */
  function expectAlive(): void {
    const { client, end } = scenario.openFromHost(7);
    client.write('ping');
    expect(end.take(scenario.guest.exchange()).toString()).toBe('ping');
    end.write('pong');
    scenario.guest.settle();
    expect(client.read().toString()).toBe('pong');
    expect(scenario.guest.interrupt.resets).toBe(0);
  }

  test('a tx chain shorter than a header is dropped and given back', () => {
    scenario.guest.sendRaw(bytes(43)).settle();
    expect(scenario.guest.tx.collect()).toEqual([{ id: expect.any(Number), length: 0 }]);
    expect(scenario.guest.logged).toHaveLength(1);
    expectAlive();
  });

  test('a tx chain with only a writable part is dropped', () => {
    const { guest } = scenario;
    guest.tx.add([{ address: guest.ram.allocate(100), length: 100, writable: true }]);
    guest.settle();
    expect(guest.tx.collect()).toHaveLength(1);
    expectAlive();
  });

  test('a tx chain that points outside RAM is dropped', () => {
    const { guest } = scenario;
    guest.tx.add([
      { address: guest.ram.allocate(44), length: 44 },
      { address: guest.ram.memory.size, length: 100 },
    ]);
    guest.settle();
    expect(guest.tx.collect()).toEqual([{ id: expect.any(Number), length: 0 }]);
    expectAlive();
  });

  test('a length field beyond the chain resets the connection', () => {
    const { peer, end } = scenario.openFromGuest(80);
    end.send(OP.RW, { payload: bytes(10), len: 11 });
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(peer.ended).toBe(true);
    expectAlive();
  });

  test('a length field near 2^32 resets the connection', () => {
    const { end } = scenario.openFromGuest(80);
    end.send(OP.RW, { payload: bytes(10), len: 0xffff_ffff });
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expectAlive();
  });

  test('more bytes than the credit allows reset the connection', () => {
    restart({ bufAlloc: 1000 });
    const { end } = scenario.openFromGuest(80);
    end.write(bytes(1001));
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expectAlive();
  });

  test('a source CID that is not the guest’s is dropped without an answer', () => {
    const { guest } = scenario;
    guest.send({ srcPort: 1, dstPort: 80, op: OP.REQUEST, srcCid: 4 });
    guest.send({ srcPort: 1, dstPort: 80, op: OP.REQUEST, srcCid: 2 });
    expect(guest.exchange()).toEqual([]);
    expectAlive();
  });

  test('a destination CID that nobody has gets RST in its name', () => {
    const { guest } = scenario;
    guest.send({ srcPort: 1, dstPort: 80, op: OP.REQUEST, dstCid: 9 });
    const answer = guest.exchange();
    expect(answer).toMatchObject([{ op: OP.RST, srcCid: 9, srcPort: 80, dstCid: 3, dstPort: 1 }]);
    expectAlive();
  });

  test('an unknown socket type gets RST with that type', () => {
    const { guest } = scenario;
    guest.send({ srcPort: 1, dstPort: 80, op: OP.REQUEST, type: 77 });
    expect(guest.exchange()).toMatchObject([{ op: OP.RST, type: 77 }]);
    expectAlive();
  });

  test.each([0, 8, 31, 32, 64, 65_535])('operation %i does not exist: the connection is reset', (op) => {
    const { end } = scenario.openFromGuest(80);
    end.send(op);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expectAlive();
  });

  test('rx buffers that no packet fits into, or with a readable part, are given back empty', () => {
    restart({ start: 'inactive' });
    const { guest } = scenario;
    guest.activate();
    const small = guest.rx.add([{ address: guest.ram.allocate(44), length: 44, writable: true }]);
    const readable = guest.rx.add([{ address: guest.ram.allocate(4096), length: 4096 }]);
    scenario.client().write('CONNECT 7\n');
    guest.settle();
    expect(guest.rx.collect()).toEqual([
      { id: small, length: 0 },
      { id: readable, length: 0 },
    ]);
    guest.postRx();
    expect(ops(guest.exchange())).toEqual(['REQUEST']);
  });

  test.each(['rx', 'tx'] as const)(
    'a broken %s ring stops the device, which asks for a reset, and works after it',
    (name) => {
      const { guest } = scenario;
      const { client } = scenario.openFromHost(7);
      guest[name].offerHead(guest[name].size);
      client.write('x');
      guest.settle();
      // The receive ring is only looked at when more buffers are needed.
      if (name === 'rx') {
        for (let fill = 0; fill < 100 && guest.interrupt.resets === 0; fill++) {
          scenario.client().write('CONNECT 7\n');
          guest.settle();
        }
      }
      expect(guest.interrupt.resets).toBe(1);
      expect(client.ended).toBe(true);
      guest.settle();
      expect(guest.interrupt.resets).toBe(1);
    },
  );

  test('the log of faults is bounded', () => {
    for (let fault = 0; fault < 1000; fault++) {
      scenario.guest.sendRaw(bytes(10));
      if (fault % 50 === 0) scenario.guest.settle();
    }
    scenario.guest.settle();
    expect(scenario.guest.logged.length).toBeLessThan(20);
    expect(scenario.guest.device.counters.snapshot().guestFaults).toBe(1000);
  });

  test('random packets never throw, and the device lives on', () => {
    const packet = fc.record({
      srcPort: fc.constantFrom(0, 1, 2, 50_000),
      dstPort: fc.constantFrom(0, 80, 81, 0x4000_0000),
      op: fc.oneof(fc.integer({ min: 0, max: 9 }), fc.constant(65_535)),
      flags: fc.integer({ min: 0, max: 7 }),
      bufAlloc: fc.constantFrom(0, 1, 100, 65_536, 0xffff_ffff),
      fwdCnt: fc.constantFrom(0, 1, 100, 0x8000_0000, 0xffff_ffff),
      type: fc.constantFrom(1, 1, 1, 2, 0),
      srcCid: fc.constantFrom(3, 3, 3, 4),
      dstCid: fc.constantFrom(2, 2, 2, 3, 5),
      payload: fc.uint8Array({ maxLength: 50 }),
      len: fc.option(fc.constantFrom(0, 1, 50, 51, 0xffff_ffff), { nil: undefined }),
      cut: fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 3 }),
    });
    const server = scenario.serve(80);
    fc.assert(
      fc.property(fc.array(packet, { maxLength: 30 }), (packets) => {
        const { guest } = scenario;
        for (const { cut, len, ...fields } of packets) {
          guest.send(len === undefined ? fields : { ...fields, len }, [...cut, 60]);
          guest.settle();
          guest.receive();
          server.accept()?.close();
        }
      }),
      { numRuns: 200 },
    );
    expectAlive();
  });
});

describe('rule 4: no receive buffers', () => {
  beforeEach(() => {
    restart({ start: 'inactive' });
    scenario.guest.activate();
    scenario.guest.repost = false;
  });

  test('nothing is lost, nothing spins, and delivery resumes when the guest refills', () => {
    const { guest } = scenario;
    guest.postRx(1);
    const { client, end } = scenario.openFromHost(7);
    const data = bytes(30_000);
    client.write(data);
    guest.settle();
    const reads = guest.device.counters.snapshot().rxReads;
    let turns = 0;
    const realTurn = (): void => {
      turns++;
      scenario.loop.turn(1);
    };
    for (let round = 0; round < 20; round++) realTurn();
    expect(turns).toBe(20);
    expect(guest.device.counters.snapshot().rxReads).toBe(reads);
    // The device wants to hear of buffers now, and the loop sleeps: a poll would find nothing.
    expect(guest.rx.availEvent).toBe(guest.rx.offered);
    expect(guest.device.poll()).toBe(false);
    let received = Buffer.alloc(0);
    while (received.length < data.length) {
      guest.postRx(2);
      received = Buffer.concat([received, end.take(guest.exchange())]);
    }
    expect(received).toEqual(data);
  });

  test('control packets wait for buffers as well, in order, and before data', () => {
    const { guest } = scenario;
    const server = scenario.serve(80);
    const end = new GuestEnd(guest, 50_000, 80);
    end.send(OP.REQUEST);
    guest.send({ srcPort: 1, dstPort: 81, op: OP.REQUEST });
    guest.settle();
    const peer = server.accept();
    peer?.write('data');
    peer?.shutdownWrite();
    guest.settle();
    expect(guest.receive()).toEqual([]);
    guest.postRx(4);
    expect(ops(guest.exchange())).toEqual(['RST', 'RESPONSE', 'RW', 'SHUTDOWN']);
    peer?.close();
  });

  test('a flood of packets that deserve RST is not taken beyond a bound until the guest posts buffers', () => {
    const { guest } = scenario;
    let sent = 0;
    for (let round = 0; round < 100; round++) {
      while (guest.tx.freeDescriptors >= 2) guest.send({ srcPort: sent++, dstPort: 81, op: OP.REQUEST });
      guest.settle();
      guest.tx.collect();
      if (guest.tx.freeDescriptors < 2) break;
    }
    expect(sent).toBeGreaterThan(1000);
    expect(sent).toBeLessThan(3000);
    guest.repost = true;
    guest.postRx(32);
    let resets = 0;
    for (let packets = guest.exchange(); packets.length > 0; packets = guest.exchange()) resets += packets.length;
    expect(resets).toBe(sent);
  });
});

describe('rule 5: a read of the host that ends anywhere', () => {
  test('neither repeats nor loses a byte, whatever the sizes of writes and buffers', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 30_000 }), { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 45, max: 5000 }),
        (writes, rxBufferSize) => {
          using local = new Scenario({ rxBufferSize, queueSize: 32, memorySize: 4 << 20 });
          const { client, end } = local.openFromHost(7);
          const sent: Buffer[] = [];
          const received: Buffer[] = [];
          writes.forEach((length, index) => {
            const data = bytes(length, index);
            const done = client.write(data);
            sent.push(data.subarray(0, Math.max(0, done)));
            local.guest.settle();
            received.push(end.take(local.guest.receive()));
            end.tellCredit();
          });
          for (let idle = 0; idle < 3;) {
            const more = end.take(local.guest.exchange());
            end.tellCredit();
            received.push(more);
            idle = more.length === 0 ? idle + 1 : 0;
          }
          expect(Buffer.concat(received).equals(Buffer.concat(sent))).toBe(true);
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe('rule 6: packets under way are bounded as well as bytes', () => {
  test('many small chunks to a guest that does not read stay within its accounting, and it is asked for news', () => {
    restart({ queueSize: 512, memorySize: 64 << 20 });
    const { guest } = scenario;
    guest.bufAlloc = 64 * 1024;
    const { client, end } = scenario.openFromHost(7);
    let packets = 0;
    const seen: string[] = [];
    for (let chunk = 0; chunk < 200; chunk++) {
      client.write(bytes(150));
      const came = guest.exchange();
      seen.push(...ops(came));
      end.take(came);
      packets += came.filter((packet) => packet.op === OP.RW).length;
    }
    // What Linux counts: payload and 576 to 1024 bytes of book-keeping for each packet.
    expect(packets * (150 + 576)).toBeLessThanOrEqual(64 * 1024);
    expect(seen).toContain('CREDIT_REQUEST');
    end.tellCredit();
    const rest: Buffer[] = [];
    for (let more = end.take(guest.exchange()); more.length > 0; more = end.take(guest.exchange())) {
      rest.push(more);
      end.tellCredit();
    }
    expect(end.fwdCnt).toBe(200 * 150);
  });
});

describe('the rings as a whole', () => {
  test.each([
    ['with EVENT_IDX and indirect descriptors', {}],
    ['without EVENT_IDX', { eventIdx: false }],
    ['without indirect descriptors', { indirect: false }],
  ])('an exchange works %s', (_name, options) => {
    restart(options);
    const { client, end } = scenario.openFromHost(7);
    for (let round = 0; round < 300; round++) {
      client.write(`ping ${round}`);
      expect(end.take(scenario.guest.exchange()).toString()).toBe(`ping ${round}`);
      end.write(`pong ${round}`);
      scenario.guest.settle();
      expect(client.read().toString()).toBe(`pong ${round}`);
    }
  });

  test('a batch is published once, and interrupts once', () => {
    const { guest } = scenario;
    const { client } = scenario.openFromHost(7);
    guest.receive();
    client.write(bytes(100_000));
    guest.rx.setUsedEvent(guest.rx.offered - guest.rx.size);
    const before = guest.interrupt.used;
    scenario.loop.turn(0);
    scenario.loop.turn(0);
    expect(guest.receive().length).toBeGreaterThan(20);
    expect(guest.interrupt.used - before).toBeLessThanOrEqual(1);
  });

  test('the device asks for notifications only when it sleeps', () => {
    restart({ eventIdx: false });
    const { guest } = scenario;
    const { end } = scenario.openFromGuest(80);
    expect(guest.tx.usedFlags).toBe(1);
    scenario.loop.turn(1);
    expect(guest.tx.usedFlags).toBe(0);
    end.write('x');
    scenario.loop.turn(0);
    expect(guest.tx.usedFlags).toBe(1);
    scenario.loop.turn(1);
    expect(guest.tx.usedFlags).toBe(0);
    // Nothing waits for receive buffers.
    expect(guest.rx.usedFlags).toBe(1);
  });

  test('many megabytes each way through small rings arrive as they were sent', () => {
    restart({ queueSize: 16 });
    const { guest } = scenario;
    const { client, end } = scenario.openFromHost(7);
    const total = 4 << 20;
    let sent = 0;
    let echoed = 0;
    let returned = 0;
    const pending: Buffer[] = [];
    while (returned < total) {
      if (sent < total)
        sent += Math.max(0, client.write(bytes(Math.min(50_000, total - sent), sent & 0xff).fill(sent & 0xff)));
      pending.push(end.take(guest.exchange()));
      while (pending.length > 0 && guest.tx.freeDescriptors >= 4) {
        const data = pending.shift() ?? Buffer.alloc(0);
        if (data.length > 0) end.write(data);
        echoed += data.length;
      }
      if (guest.tx.freeDescriptors >= 2) end.tellCredit();
      guest.settle();
      guest.tx.collect();
      returned += client.read().length;
    }
    expect([sent, echoed, returned]).toEqual([total, total, total]);
    end.send(OP.SHUTDOWN, { flags: SEND });
    end.send(OP.SHUTDOWN, { flags: BOTH });
    expect(ops(guest.exchange())).toContain('RST');
    expect(payload([])).toHaveLength(0);
  });
});
