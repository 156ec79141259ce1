// Connections against a scripted host side: what sockets do rarely, they do here on demand.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { EventLoop } from '../../src/platform/event-loop.js';
import { EAGAIN, ECONNRESET, EPIPE } from '../../src/platform/errno.js';
import { VsockCounters } from '../../src/vsock/counters.js';
import type { Backend, ConnectOutcome } from '../../src/vsock/endpoint.js';
import { GuestFaultLog } from '../../src/vsock/fault-log.js';
import { Muxer } from '../../src/vsock/muxer.js';
import { DrivenRing, TestMemory } from '../support/driven-ring.js';
import { GuestEnd, OP, ops, payload, SEND } from './scenario.js';
import { ScriptedEndpoint } from './scripted-endpoint.js';
import { GUEST_CID, PacketDriver, type Packet } from './vsock-guest.js';

const PORT = 80;
const GUEST_PORT = 50_000;

let loop: EventLoop;
let ram: TestMemory;
let muxer: Muxer;
let driver: PacketDriver;
let endpoint: ScriptedEndpoint;
let end: GuestEnd;
/** Answers REQUESTs of the guest. */
let connect: (outcome: ConnectOutcome) => ReturnType<Backend['connect']>;

beforeEach(() => {
  loop = new EventLoop();
  ram = new TestMemory(8 << 20);
  const counters = new VsockCounters();
  muxer = new Muxer({
    guestCid: GUEST_CID,
    loop,
    maxConnections: 100,
    bufAlloc: 10_000,
    counters,
    faults: new GuestFaultLog(
      () => undefined,
      () => 0,
      counters,
    ),
    route: (cid) => (cid === 2 ? { connect: (_port, outcome) => connect(outcome) } : undefined),
  });
  driver = new PacketDriver(ram, new DrivenRing(ram, 64), new DrivenRing(ram, 64));
  muxer.activate(ram.memory, driver.rx.device(), driver.tx.device());
  driver.postRx();
  endpoint = new ScriptedEndpoint();
  end = new GuestEnd(driver, GUEST_PORT, PORT);
  connect = (outcome) => {
    outcome.connected(endpoint);
    return undefined;
  };
});

afterEach(() => {
  muxer.deactivate();
  loop.close();
  ram.release();
});

function exchange(): Packet[] {
  for (let turn = 0; turn < 10; turn++) {
    muxer.poll();
    muxer.publish();
  }
  return driver.receive();
}

function open(): void {
  end.send(OP.REQUEST);
  expect(ops(exchange())).toEqual(['RESPONSE']);
  endpoint.calls.length = 0;
}

describe('host to guest', () => {
  beforeEach(open);

  test('nothing is read before the endpoint says that there is something', () => {
    endpoint.reads.push(Buffer.from('x'));
    exchange();
    expect(endpoint.calls).toEqual([]);
    endpoint.events?.endpointReadable(false);
    expect(payload(exchange()).toString()).toBe('x');
  });

  test('a short read is not followed by another until there is news', () => {
    endpoint.reads.push(Buffer.from('short'));
    endpoint.events?.endpointReadable(false);
    exchange();
    expect(endpoint.calls).toEqual(['read: 5 bytes']);
  });

  test('a read that fills all there was room for is followed by another', () => {
    endpoint.reads.push(Buffer.alloc(600_000, 'y'));
    endpoint.events?.endpointReadable(false);
    let received = 0;
    for (let round = 0; round < 20; round++) {
      received += end.take(exchange()).length;
      end.tellCredit();
    }
    expect(received).toBe(600_000);
  });

  test('EAGAIN waits for news', () => {
    endpoint.events?.endpointReadable(false);
    exchange();
    exchange();
    expect(endpoint.calls).toEqual([`read: ${-EAGAIN}`]);
  });

  test('an end that was told with the data is found although the read of the data was short', () => {
    endpoint.reads.push(Buffer.from('last'), 0);
    endpoint.events?.endpointReadable(true);
    expect(ops(exchange())).toEqual(['RW', 'SHUTDOWN']);
  });

  test('an error after data: the data, then SHUTDOWN(both), and the endpoint is closed', () => {
    endpoint.reads.push(Buffer.from('before'), -ECONNRESET);
    endpoint.events?.endpointReadable(true);
    const packets = exchange();
    expect(packets).toMatchObject([{ op: OP.RW }, { op: OP.SHUTDOWN, flags: 3 }]);
    expect(endpoint.calls.at(-1)).toBe('close: finished');
  });

  test('no call is made without credit, however often the host says that it is ready', () => {
    end.send(OP.CREDIT_UPDATE, { bufAlloc: 0 });
    exchange();
    endpoint.reads.push(Buffer.from('x'));
    for (let news = 0; news < 5; news++) {
      endpoint.events?.endpointReadable(false);
      expect(exchange()).toEqual([]);
    }
    expect(endpoint.calls).toEqual([]);
    end.send(OP.CREDIT_UPDATE);
    expect(payload(exchange()).toString()).toBe('x');
  });
});

describe('guest to host', () => {
  beforeEach(open);

  test('the packets of a batch go out in one write, straight', () => {
    end.write('one,').write('two,').write('three');
    exchange();
    expect(endpoint.calls).toEqual(['write: 13 bytes']);
    expect(endpoint.text).toBe('one,two,three');
  });

  test.each([0, 1, 4, 5, 12])(
    'rule 5: a write that takes %i bytes of 13: the rest waits, and follows once',
    (taken) => {
      endpoint.writes.push(taken);
      end.write('one,').write('two,').write('three');
      exchange();
      expect(endpoint.calls).toEqual([`write: ${taken} bytes`, 'watchWritable true']);
      end.write('!');
      exchange();
      endpoint.events?.endpointWritable();
      expect(endpoint.text).toBe('one,two,three!');
      expect(endpoint.calls.at(-1)).toBe('watchWritable false');
    },
  );

  test('rule 9: EAGAIN keeps everything; room that turns out to be none, too', () => {
    endpoint.writes.push(-EAGAIN, -EAGAIN, 3);
    end.write('abcdef');
    exchange();
    endpoint.events?.endpointWritable();
    endpoint.events?.endpointWritable();
    expect(endpoint.text).toBe('abc');
    endpoint.events?.endpointWritable();
    expect(endpoint.text).toBe('abcdef');
  });

  test('the ring wraps around without losing its place', () => {
    let sent = '';
    endpoint.writes.push(-EAGAIN);
    for (let round = 0; round < 100; round++) {
      const part = `${round}`.repeat(400).slice(0, 700);
      end.write(part);
      sent += part;
      exchange();
      if (round % 5 === 4) {
        endpoint.writes.push(3000);
        endpoint.events?.endpointWritable();
      }
      if (round % 5 === 4) {
        endpoint.writes.push(500);
        endpoint.events?.endpointWritable();
      }
      while (Buffer.byteLength(sent) - endpoint.text.length > 8000) endpoint.events?.endpointWritable();
    }
    endpoint.events?.endpointWritable();
    expect(endpoint.text).toBe(sent);
  });

  test('credit comes back only for what was taken', () => {
    endpoint.writes.push(6000);
    end.write(Buffer.alloc(9000));
    expect(exchange()).toMatchObject([{ op: OP.CREDIT_UPDATE, fwdCnt: 6000 }]);
    endpoint.events?.endpointWritable();
    // Less than half of the window is used as the guest sees it: not worth a packet, unless it asks.
    expect(exchange()).toEqual([]);
    end.send(OP.CREDIT_REQUEST);
    expect(exchange()).toMatchObject([{ op: OP.CREDIT_UPDATE, fwdCnt: 9000 }]);
  });

  test('rule 10: SHUTDOWN(SEND) reaches the endpoint after the last byte', () => {
    endpoint.writes.push(2);
    end.write('rest').send(OP.SHUTDOWN, { flags: SEND });
    exchange();
    expect(endpoint.calls).not.toContain('shutdownWrite');
    endpoint.events?.endpointWritable();
    expect(endpoint.calls.slice(-2)).toEqual(['watchWritable false', 'shutdownWrite']);
  });

  test.each([EPIPE, ECONNRESET])(
    'errno %i on writing: the guest is told, what the host sent before still comes',
    (errno) => {
      endpoint.writes.push(-errno);
      endpoint.reads.push(Buffer.from('left behind'), 0);
      end.write('x');
      const packets = exchange();
      expect(payload(packets).toString()).toBe('left behind');
      expect(packets.at(-1)).toMatchObject({ op: OP.SHUTDOWN, flags: 3 });
    },
  );

  test('an error while the ring drains: the same', () => {
    endpoint.writes.push(1, -EPIPE);
    endpoint.reads.push(0);
    end.write('abc');
    exchange();
    endpoint.events?.endpointWritable();
    expect(exchange().at(-1)).toMatchObject({ op: OP.SHUTDOWN, flags: 3 });
    expect(endpoint.calls.at(-1)).toBe('close: finished');
  });

  test('RST behind data in one batch: the data goes out first', () => {
    end.write('last').send(OP.RST);
    exchange();
    expect(endpoint.calls).toEqual(['write: 4 bytes', 'close: reset']);
  });

  test('RST without SHUTDOWN drops what waits', () => {
    endpoint.writes.push(1);
    end.write('abc').send(OP.RST);
    exchange();
    expect(endpoint.calls.at(-1)).toBe('close: reset');
    expect(muxer.connectionCount).toBe(0);
  });

  test('the endpoint breaks off: RST', () => {
    endpoint.events?.endpointReset();
    expect(ops(exchange())).toEqual(['RST']);
    expect(muxer.connectionCount).toBe(0);
  });
});

describe('beginning and end', () => {
  test('rule 7: a connect that takes its time: RESPONSE comes when it is through', () => {
    let outcome: ConnectOutcome | undefined;
    connect = (told) => {
      outcome = told;
      return { cancel: () => undefined };
    };
    end.send(OP.REQUEST).send(OP.CREDIT_REQUEST);
    expect(exchange()).toEqual([]);
    outcome?.connected(endpoint);
    expect(ops(exchange())).toEqual(['RESPONSE']);
  });

  test('a connect that is refused later: RST', () => {
    let outcome: ConnectOutcome | undefined;
    connect = (told) => {
      outcome = told;
      return { cancel: () => undefined };
    };
    end.send(OP.REQUEST);
    exchange();
    outcome?.refused();
    expect(ops(exchange())).toEqual(['RST']);
  });

  test('a connect under way is cancelled when the guest gives up, or the device is reset', () => {
    let cancelled = 0;
    connect = () => ({ cancel: () => cancelled++ });
    end.send(OP.REQUEST);
    exchange();
    end.send(OP.RST);
    exchange();
    expect(cancelled).toBe(1);
    end.send(OP.REQUEST);
    exchange();
    muxer.deactivate();
    expect(cancelled).toBe(2);
  });

  test('rule 18: a client that cannot be told OK: what it sent is delivered, then SHUTDOWN(both)', () => {
    endpoint.acceptResult = -EPIPE;
    endpoint.reads.push(Buffer.from('bye'), 0);
    expect(muxer.connectToGuest(7, endpoint)).toBe(true);
    const [request] = exchange();
    new GuestEnd(driver, 7, request.srcPort).send(OP.RESPONSE);
    const packets = exchange();
    expect(payload(packets).toString()).toBe('bye');
    expect(packets.at(-1)).toMatchObject({ op: OP.SHUTDOWN, flags: 3 });
  });

  test('the reason why an endpoint is let go of', () => {
    expect(muxer.connectToGuest(7, endpoint)).toBe(true);
    const [request] = exchange();
    new GuestEnd(driver, 7, request.srcPort).send(OP.RST);
    exchange();
    expect(endpoint.calls.at(-1)).toBe('close: refused');
  });

  test('without a driver, or without room, the endpoint stays the caller’s', () => {
    for (let index = 0; index < 100; index++) expect(muxer.connectToGuest(7, new ScriptedEndpoint())).toBe(true);
    expect(muxer.connectToGuest(7, endpoint)).toBe(false);
    muxer.deactivate();
    expect(muxer.connectToGuest(7, endpoint)).toBe(false);
    expect(endpoint.calls).toEqual([]);
  });
});

test('rule 14: beyond 1,024 connections new ones are offered a smaller buffer, so that all together stay bounded', () => {
  muxer.deactivate();
  const counters = new VsockCounters();
  const many = new Muxer({
    guestCid: GUEST_CID,
    loop,
    maxConnections: 65_536,
    bufAlloc: 256 * 1024,
    counters,
    faults: new GuestFaultLog(
      () => undefined,
      () => 0,
      counters,
    ),
    route: () => undefined,
  });
  driver.replaceRings(new DrivenRing(ram, 64), new DrivenRing(ram, 64));
  many.activate(ram.memory, driver.rx.device(), driver.tx.device());
  driver.postRx();
  const offered: number[] = [];
  for (let count = 0; count < 4096; count++) {
    many.connectToGuest(7, new ScriptedEndpoint());
    many.poll();
    many.publish();
    offered.push(...driver.receive().map((packet) => packet.bufAlloc));
  }
  many.deactivate();
  expect(offered).toHaveLength(4096);
  expect(offered.slice(0, 1024).every((size) => size === 256 * 1024)).toBe(true);
  expect(offered[4095]).toBe(64 * 1024);
  expect(offered.reduce((sum, size) => sum + size, 0)).toBeLessThan(1 << 30);
});

test('nothing grows in the rx scheduler when connections come and go', () => {
  for (let round = 0; round < 2000; round++) {
    const temporary = new ScriptedEndpoint();
    connect = (outcome) => {
      outcome.connected(temporary);
      return undefined;
    };
    end.send(OP.REQUEST);
    exchange();
    temporary.events?.endpointReadable(false);
    end.send(OP.RST);
    exchange();
  }
  expect(muxer.connectionCount).toBe(0);
  expect(muxer.poll()).toBe(0);
});
