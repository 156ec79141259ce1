// SEQPACKET connections (virtio 1.2, 5.10.6.6) on a driven ring, with real SOCK_SEQPACKET sockets on the host.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { SOCK_SEQPACKET } from '../../src/platform/unix-socket.js';
import { KIB } from '../../src/platform/units.js';
import { VIRTIO_VSOCK_TYPE_SEQPACKET } from '../../src/vsock/packet.js';
import type { HostPeer } from './host-peer.js';
import { BOTH, GuestEnd, OP, ops, payload, Scenario, SEND } from './scenario.js';
import type { GuestOptions, Packet } from './vsock-guest.js';

const EOM = 1;
const EOR = 2;
const BUF_ALLOC = 256 * KIB;

let scenario: Scenario;

beforeEach(() => {
  scenario = new Scenario({ bufAlloc: BUF_ALLOC });
});

afterEach(() => {
  scenario[Symbol.dispose]();
});

function restart(options: GuestOptions): void {
  scenario[Symbol.dispose]();
  scenario = new Scenario(options);
}

const bytes = (length: number, seed = 1): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_, index) => (index * 31 + (index >>> 8) + seed * 7) & 0xff));

function fromGuest(port = 1234): { peer: HostPeer; end: GuestEnd } {
  const server = scenario.serve(port, 16, SOCK_SEQPACKET);
  const end = new GuestEnd(scenario.guest, 50_000, port, VIRTIO_VSOCK_TYPE_SEQPACKET);
  end.send(OP.REQUEST);
  const answer = scenario.guest.exchange();
  expect(answer).toMatchObject([{ op: OP.RESPONSE, type: VIRTIO_VSOCK_TYPE_SEQPACKET }]);
  const peer = server.accept();
  if (peer === undefined) throw new Error('the guest did not arrive at the host');
  return { peer: scenario.own(peer), end };
}

function fromHost(port = 7): { peer: HostPeer; end: GuestEnd } {
  const peer = scenario.client(SOCK_SEQPACKET);
  peer.write(`CONNECT ${port}\n`);
  const [request] = scenario.guest.exchange();
  expect(request).toMatchObject({ op: OP.REQUEST, type: VIRTIO_VSOCK_TYPE_SEQPACKET, dstPort: port });
  const end = new GuestEnd(scenario.guest, port, request.srcPort, VIRTIO_VSOCK_TYPE_SEQPACKET);
  end.send(OP.RESPONSE);
  scenario.guest.settle();
  expect(peer.readOnce()?.toString()).toBe(`OK ${request.srcPort}\n`);
  return { peer, end };
}

/** The messages that RW packets make up; the last may lack its end. */
function messages(packets: readonly Packet[]): { whole: Buffer[]; rest: number } {
  const whole: Buffer[] = [];
  let parts: Buffer[] = [];
  for (const packet of packets) {
    parts.push(packet.payload);
    if ((packet.flags & EOM) === 0) continue;
    whole.push(Buffer.concat(parts));
    parts = [];
  }
  return { whole, rest: Buffer.concat(parts).length };
}

/** 600 messages: more than a Unix socket holds. */
function sendNumbers(end: GuestEnd): void {
  for (let index = 0; index < 600; index++) {
    end.send(OP.RW, { payload: Buffer.from(`${index}`), flags: EOM });
    if (index % 16 === 15) scenario.guest.settle();
  }
  scenario.guest.settle();
}

/** Everything, for a guest that takes it at once. */
function drain(end: GuestEnd): Packet[] {
  const all: Packet[] = [];
  for (let packets = scenario.guest.exchange(); packets.length > 0; packets = scenario.guest.exchange()) {
    all.push(...packets);
    end.take(packets);
    end.tellCredit();
  }
  return all;
}

describe('host to guest', () => {
  test('a connection that the host asks for: messages keep their boundaries, EOM on the last packet of each', () => {
    const { peer, end } = fromHost();
    for (const message of ['one', 'two', 'three']) peer.write(message);
    const packets = scenario.guest.exchange();
    expect(packets.map(({ payload: data, flags }) => [data.toString(), flags])).toEqual([
      ['one', EOM],
      ['two', EOM],
      ['three', EOM],
    ]);
    expect(payload(packets).length).toBe(end.take(packets).length);
  });

  test.each([4095, 4096 - 44, 4096 - 43, 10_000, 65_536, 200_000])(
    'a message of %i bytes spans as many buffers as it takes',
    (length) => {
      const { peer, end } = fromGuest();
      expect(peer.write(bytes(length))).toBe(length);
      peer.write('next');
      const { whole, rest } = messages(drain(end));
      expect(whole.map((message) => message.length)).toEqual([length, 4]);
      expect(whole[0].equals(bytes(length))).toBe(true);
      expect(rest).toBe(0);
    },
  );

  test('few receive buffers: a message waits for more of them in its middle, and nothing overtakes it', () => {
    scenario.guest.repost = false;
    const { peer, end } = fromGuest();
    scenario.guest.repost = true;
    peer.write(bytes(200_000));
    peer.write('next');
    const { whole } = messages(drain(end));
    expect(whole.map((message) => message.length)).toEqual([200_000, 4]);
    expect(whole[0].equals(bytes(200_000))).toBe(true);
  });

  test('a guest that takes messages whole gets one as large as its buffer, though it has no credit for the packets', () => {
    scenario.guest.bufAlloc = 64 * KIB;
    const { peer, end } = fromGuest();
    peer.write(bytes(64 * KIB));
    const packets: Packet[] = [];
    for (let some = scenario.guest.exchange(); some.length > 0; some = scenario.guest.exchange()) packets.push(...some);
    const { whole } = messages(packets.filter(({ op }) => op === OP.RW));
    expect(whole.map((message) => message.length)).toEqual([64 * KIB]);
    end.take(packets);
    end.tellCredit();
    peer.write('next');
    expect(messages(drain(end)).whole.toString()).toBe('next');
  });

  test('a message behind others that the guest has not taken goes in pieces, as credit comes', () => {
    scenario.guest.bufAlloc = 16 * KIB;
    const { peer, end } = fromGuest();
    peer.write(bytes(8 * KIB, 1));
    peer.write(bytes(16 * KIB, 2));
    const first = scenario.guest.exchange().filter(({ op }) => op === OP.RW);
    const under = messages(first);
    expect(under.whole.length).toBe(1);
    expect(payload(first).length).toBeLessThanOrEqual(16 * KIB);
    // Takes only what is whole, as Linux does.
    end.fwdCnt = 8 * KIB;
    end.tellCredit();
    const later = scenario.guest.exchange().filter(({ op }) => op === OP.RW);
    const { whole, rest } = messages([...first, ...later]);
    expect(whole.map((message) => message.length)).toEqual([8 * KIB, 16 * KIB]);
    expect(whole[1].equals(bytes(16 * KIB, 2))).toBe(true);
    expect(rest).toBe(0);
  });

  test('many small messages are bounded by packets, as those of a stream are', () => {
    scenario.guest.bufAlloc = 16 * KIB;
    const { peer, end } = fromGuest();
    for (let index = 0; index < 100; index++) peer.write(`${index}`);
    const first = scenario.guest.exchange().filter(({ op }) => op === OP.RW);
    expect(first.length).toBeLessThanOrEqual(16);
    end.take(first);
    end.tellCredit();
    const { whole } = messages([...first, ...drain(end).filter(({ op }) => op === OP.RW)]);
    expect(whole.map(String)).toEqual(Array.from({ length: 100 }, (_, index) => `${index}`));
  });

  test('a message that the guest could never take resets its connection, with a line in the log', () => {
    scenario.guest.bufAlloc = 16 * KIB;
    const { peer } = fromGuest();
    peer.write(bytes(16 * KIB + 1));
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
    expect(peer.ended).toBe(true);
    expect(scenario.guest.logged.join()).toContain('too long for its receiver');
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('an empty message is passed over, and is not the end', () => {
    const { peer, end } = fromGuest();
    peer.writeMessage('');
    peer.write('after');
    peer.writeMessage('');
    expect(messages(drain(end)).whole.map(String)).toEqual(['after']);
    peer.write('last');
    peer.shutdownWrite();
    const packets = drain(end);
    expect(ops(packets)).toEqual(['RW', 'SHUTDOWN']);
    expect(packets[1].flags).toBe(SEND);
  });

  test('the host ends: all its messages first, then SHUTDOWN(SEND), and the guest may go on', () => {
    const { peer, end } = fromGuest();
    peer.write(bytes(100_000));
    peer.write('last');
    peer.shutdownWrite();
    const packets = drain(end);
    expect(messages(packets.filter(({ op }) => op === OP.RW)).whole.map((message) => message.length)).toEqual([
      100_000, 4,
    ]);
    expect(packets.at(-1)).toMatchObject({ op: OP.SHUTDOWN, flags: SEND });
    end.write('still here').send(OP.RW, { flags: EOM });
    scenario.guest.settle();
    expect(peer.readOnce()?.toString()).toBe('still here');
  });

  test('the host leaves with something unread: what it sent still arrives, then SHUTDOWN(both)', () => {
    const { peer, end } = fromGuest();
    end.send(OP.RW, { payload: Buffer.from('unread'), flags: EOM });
    scenario.guest.settle();
    peer.write('sent before');
    peer.close();
    const packets = drain(end);
    expect(messages(packets).whole.map(String)[0]).toBe('sent before');
    expect(packets.at(-1)).toMatchObject({ op: OP.SHUTDOWN, flags: BOTH });
  });
});

describe('guest to host', () => {
  test('a packet with EOM is a message; packets without are its beginning', () => {
    const { peer, end } = fromGuest();
    end.send(OP.RW, { payload: Buffer.from('one'), flags: EOM });
    end.send(OP.RW, { payload: Buffer.from('two, ') });
    end.send(OP.RW, { payload: Buffer.from('in parts'), flags: EOM | EOR });
    end.send(OP.RW, { payload: Buffer.from('three') });
    scenario.guest.settle();
    expect(peer.readOnce()?.toString()).toBe('one');
    expect(peer.readOnce()?.toString()).toBe('two, in parts');
    expect(peer.readOnce()).toBeUndefined();
    end.send(OP.RW, { flags: EOM });
    scenario.guest.settle();
    expect(peer.readOnce()?.toString()).toBe('three');
  });

  test('an empty message is passed over', () => {
    const { peer, end } = fromGuest();
    end.send(OP.RW, { flags: EOM }).send(OP.RW, { payload: Buffer.from('x'), flags: EOM });
    scenario.guest.settle();
    expect(peer.readOnce()?.toString()).toBe('x');
    expect(peer.readOnce()).toBeUndefined();
  });

  test('a message as large as our buffer goes through, in as many batches as it takes', () => {
    const { peer, end } = fromGuest();
    const message = bytes(BUF_ALLOC);
    for (let done = 0; done < message.length; done += 16 * KIB) {
      const last = done + 16 * KIB === message.length;
      end.send(OP.RW, { payload: message.subarray(done, done + 16 * KIB), flags: last ? EOM : 0 });
      scenario.guest.settle();
    }
    const received = peer.readOnce();
    expect(received instanceof Buffer && received.equals(message)).toBe(true);
  });

  test('credit for what was passed on is told even while a message that needs it all is under way', () => {
    const { peer, end } = fromGuest();
    end.send(OP.RW, { payload: bytes(10 * KIB), flags: EOM });
    scenario.guest.settle();
    const message = bytes(BUF_ALLOC, 2);
    const possible = BUF_ALLOC - 10 * KIB;
    for (let done = 0; done < possible; done += 41 * KIB) {
      end.send(OP.RW, { payload: message.subarray(done, done + 41 * KIB) });
      scenario.guest.settle();
    }
    const told = scenario.guest.receive();
    expect(told.at(-1)).toMatchObject({ op: OP.CREDIT_UPDATE, fwdCnt: 10 * KIB });
    end.send(OP.RW, { payload: message.subarray(possible), flags: EOM });
    scenario.guest.settle();
    expect((peer.readOnce() as Buffer).length).toBe(10 * KIB);
    expect((peer.readOnce() as Buffer).equals(message)).toBe(true);
  });

  test('a message that exceeds our buffer resets its connection', () => {
    const { peer, end } = fromGuest();
    for (let done = 0; done < BUF_ALLOC; done += 16 * KIB) {
      end.send(OP.RW, { payload: bytes(16 * KIB) });
      scenario.guest.settle();
    }
    expect(ops(scenario.guest.receive())).toContain('RST');
    expect(peer.ended).toBe(true);
    expect(scenario.guest.logged.join()).toContain('too long for its receiver');
  });

  test('EAGAIN: whole messages wait, in order, and the credit with them', () => {
    const { peer, end } = fromGuest();
    const sent: string[] = [];
    const received: string[] = [];
    const read = (): void => {
      for (let some = peer.readOnce(); some instanceof Buffer; some = peer.readOnce()) received.push(some.toString());
    };
    for (let index = 0; index < 2000; index++) {
      const text = `${index} ${'x'.repeat(index % 90)}`;
      sent.push(text);
      // Every other one in two packets.
      if (index % 2 === 1) end.send(OP.RW, { payload: Buffer.from(text.slice(0, 2)) });
      end.send(OP.RW, { payload: Buffer.from(index % 2 === 1 ? text.slice(2) : text), flags: EOM });
      if (index % 16 === 15) scenario.guest.settle();
    }
    expect(scenario.guest.device.counters.snapshot().writeStalls).toBeGreaterThan(0);
    for (let before = -1; received.length > before; scenario.guest.settle()) {
      before = received.length;
      read();
    }
    read();
    expect(received).toEqual(sent);
  });

  test('the guest ends: what waits is delivered, what has begun is not, then the end', () => {
    const { peer, end } = fromGuest();
    sendNumbers(end);
    end.send(OP.RW, { payload: Buffer.from('unfinished') }).send(OP.SHUTDOWN, { flags: SEND });
    scenario.guest.settle();
    const received: string[] = [];
    for (let ended = false; !ended; scenario.guest.settle()) {
      for (let some = peer.readOnce(); some !== undefined && !ended; some = peer.readOnce()) {
        if (some === 'eof') ended = true;
        else received.push(some.toString());
      }
    }
    expect(received).toEqual(Array.from({ length: 600 }, (_, index) => `${index}`));
  });

  test('SHUTDOWN(both) and RST let what waits go to the host', () => {
    const { peer, end } = fromGuest();
    sendNumbers(end);
    end
      .send(OP.RW, { payload: Buffer.from('unfinished') })
      .send(OP.SHUTDOWN, { flags: BOTH })
      .send(OP.RST);
    scenario.guest.settle();
    let count = 0;
    for (let ended = false; !ended; scenario.guest.settle()) {
      for (let some = peer.readOnce(); some !== undefined && !ended; some = peer.readOnce()) {
        if (some === 'eof') ended = true;
        else count++;
      }
    }
    expect(count).toBe(600);
    expect(scenario.guest.device.connectionCount).toBe(0);
  });

  test('payload in pieces of three bytes is one message all the same', () => {
    const { peer, end } = fromGuest();
    end.send(OP.RW, { payload: bytes(100), flags: EOM }, [44, 3]);
    scenario.guest.settle();
    expect((peer.readOnce() as Buffer).equals(bytes(100))).toBe(true);
  });
});

describe('who may have one', () => {
  test('a driver without the feature is refused, and so are host clients', () => {
    restart({ seqpacket: false });
    scenario.serve(1234, 16, SOCK_SEQPACKET);
    new GuestEnd(scenario.guest, 50_000, 1234, VIRTIO_VSOCK_TYPE_SEQPACKET).send(OP.REQUEST);
    expect(scenario.guest.exchange()).toMatchObject([{ op: OP.RST, type: VIRTIO_VSOCK_TYPE_SEQPACKET }]);
    const client = scenario.client(SOCK_SEQPACKET);
    client.write('CONNECT 7\n');
    expect(scenario.guest.exchange()).toEqual([]);
    expect(client.ended).toBe(true);
  });

  test('a listener of the other type refuses', () => {
    scenario.serve(1234);
    new GuestEnd(scenario.guest, 50_000, 1234, VIRTIO_VSOCK_TYPE_SEQPACKET).send(OP.REQUEST);
    expect(ops(scenario.guest.exchange())).toEqual(['RST']);
  });

  test.each(['CONNECT 7', 'CONNECT 7\nmore', 'HELLO\n', ''])('first message %j: the client is closed', (said) => {
    const client = scenario.client(SOCK_SEQPACKET);
    client.writeMessage(said);
    expect(scenario.guest.exchange()).toEqual([]);
    expect(client.ended).toBe(true);
  });

  test('a stream and a SEQPACKET connection may use the same ports at once', () => {
    const stream = scenario.openFromGuest(80);
    const { peer, end } = fromGuest(81);
    stream.end.write('stream');
    end.send(OP.RW, { payload: Buffer.from('message'), flags: EOM });
    scenario.guest.settle();
    expect(stream.peer.read().toString()).toBe('stream');
    expect(peer.readOnce()?.toString()).toBe('message');
  });
});
