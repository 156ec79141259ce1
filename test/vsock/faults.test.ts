// Faults while bytes flow: a host peer that is killed, a guest that resets its device, peers that do not read, clients
// that vanish at any point of the handshake. The others go on, and what was acknowledged arrives.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, test } from '@jest/globals';
import { checkPattern, patternAt } from '../support/stream-pattern.js';
import type { HostPeer } from './host-peer.js';
import { BOTH, GuestEnd, OP, Scenario } from './scenario.js';
import type { Packet, VsockGuest } from './vsock-guest.js';

/** A process that asks for guest port 9, says where it is, and writes as much as it can until it is killed. */
const WRITER = `
  const socket = require('node:net').connect(process.argv[1]);
  socket.on('error', () => {});
  socket.once('data', () => {
    const more = () => { while (socket.write(Buffer.alloc(65536, 0x77))); };
    socket.on('drain', more);
    more();
    process.stdout.write('writing\\n');
  });
  socket.write('CONNECT 9\\n');
`;

/** What the device lets a guest have under way, and how much of it a packet carries here. */
const CREDIT = 262_144;
const PIECE = 4096;

/** Checks that bytes still flow both ways, and in order; returns what came for everybody meanwhile. */
function expectAlive({ guest }: Scenario, client: HostPeer, end: GuestEnd): Packet[] {
  client.write('to the guest');
  const came = guest.exchange();
  expect(end.take(came).toString()).toBe('to the guest');
  end.write('to the host');
  guest.settle();
  expect(client.read().toString()).toBe('to the host');
  return came;
}

/** Lets the device work until it asks the guest for a connection. */
function nextRequest({ guest }: Scenario): Packet {
  let request: Packet | undefined;
  guest.turnUntil(() => {
    request = guest.receive().find(({ op }) => op === OP.REQUEST);
    return request !== undefined;
  });
  if (request === undefined) throw new Error('unreachable');
  return request;
}

describe('a host peer killed in the middle', () => {
  test('all it had sent reaches the guest, then SHUTDOWN(both); another connection goes on', async () => {
    using scenario = new Scenario();
    const { guest } = scenario;
    const other = scenario.openFromHost(8);
    const child = spawn(process.execPath, ['-e', WRITER, scenario.socketPath], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const exited = once(child, 'exit');
    try {
      const request = nextRequest(scenario);
      const end = new GuestEnd(guest, 9, request.srcPort).send(OP.RESPONSE);
      guest.settle();
      await once(child.stdout, 'data');
      let received = 0;
      let flags = 0;
      const take = (came: readonly Packet[]): void => {
        const bytes = end.take(came);
        expect(bytes.every((byte) => byte === 0x77)).toBe(true);
        received += bytes.length;
        flags = came.find(({ op, dstPort }) => op === OP.SHUTDOWN && dstPort === 9)?.flags ?? flags;
        end.tellCredit();
      };
      take(guest.exchange());
      take(guest.exchange());
      child.kill('SIGKILL');
      await exited;
      take(expectAlive(scenario, other.client, other.end));
      // Its last bytes are in the socket: they come as the guest gives credit for them.
      guest.turnUntil(() => {
        take(guest.receive());
        return flags === BOTH;
      });
      expect(received).toBeGreaterThan(0);
      end.send(OP.RST);
      guest.settle();
      expect(guest.device.connectionCount).toBe(1);
      expectAlive(scenario, other.client, other.end);
    } finally {
      child.kill('SIGKILL');
      await exited;
    }
  });
});

describe('a guest that resets its device in the middle', () => {
  test('sockets close, and no byte from before reaches a connection from after', () => {
    using scenario = new Scenario({ bufAlloc: 65_536 });
    const { guest } = scenario;
    const before = scenario.openFromHost(7);
    // Both directions are full: bytes wait in the socket, in the device's ring, and in receive buffers.
    before.client.write(Buffer.alloc(1 << 20, 0xdd));
    for (let sent = 0; sent < 65_536; sent += 4096) before.end.write(Buffer.alloc(4096, 0xee));
    guest.settle();
    guest.device.reset();
    expect(guest.device.connectionCount).toBe(0);
    expect(before.client.write('more')).toBeLessThan(0);

    guest.restartDriver();
    const after = scenario.openFromHost(7);
    expectAlive(scenario, after.client, after.end);
    expect(after.end.fwdCnt).toBe('to the guest'.length);
  });
});

describe('readers that are slow on both sides', () => {
  test('they hold up nobody, and get every byte once they read', () => {
    using scenario = new Scenario({ memorySize: 64 << 20 });
    const { guest } = scenario;
    const slow = [0, 1, 2].map((number) => new SlowPair(scenario, number));
    for (const pair of slow) pair.fill();
    const take = (came: readonly Packet[]): void => {
      for (const pair of slow) pair.receive(came);
    };
    for (let came = guest.exchange(); came.length > 0; came = guest.exchange()) take(came);
    const fast = scenario.openFromHost(99);
    for (let round = 0; round < 200; round++) take(expectAlive(scenario, fast.client, fast.end));

    // Now they read, a little at a time.
    guest.turnUntil(() => {
      for (const pair of slow) pair.read();
      take(guest.exchange());
      return slow.every((pair) => pair.complete);
    });
  });
});

/** A connection with as much under way in both directions as goes: neither end reads for a while. */
class SlowPair {
  private readonly guest: VsockGuest;
  private readonly client: HostPeer;
  private readonly end: GuestEnd;
  private readonly streams: readonly [toHost: number, toGuest: number];
  private sentByGuest = 0;
  private sentByHost = 0;
  private gotByHost = 0;

  constructor(scenario: Scenario, number: number) {
    const { client, end } = scenario.openFromHost(100 + number);
    this.guest = scenario.guest;
    this.client = client;
    this.end = end;
    this.streams = [2 * number, 2 * number + 1];
  }

  get complete(): boolean {
    return this.gotByHost === this.sentByGuest && this.end.fwdCnt === this.sentByHost;
  }

  fill(): void {
    const [toHost, toGuest] = this.streams;
    for (; this.sentByGuest < CREDIT; this.sentByGuest += PIECE) {
      this.end.write(patternAt(toHost, this.sentByGuest, PIECE));
      this.guest.settle();
    }
    for (;;) {
      const written = this.client.write(patternAt(toGuest, this.sentByHost, PIECE));
      if (written <= 0) return;
      this.sentByHost += written;
    }
  }

  /** Takes what came for it, and tells nobody. */
  receive(came: readonly Packet[]): void {
    const position = this.end.fwdCnt;
    checkPattern('to the guest', this.streams[1], position, this.end.take(came));
  }

  /** Both ends read a little. */
  read(): void {
    this.end.tellCredit();
    const part = this.client.readOnce(10_000);
    if (part === 'eof') throw new Error('the end came early');
    if (part === undefined) return;
    checkPattern('to the host', this.streams[0], this.gotByHost, part);
    this.gotByHost += part.length;
  }
}

describe('a client that vanishes', () => {
  test.each<[stage: string, vanish: (scenario: Scenario) => void]>([
    ['before it is accepted', (scenario) => scenario.client().close()],
    [
      'before it has said anything',
      (scenario) => {
        const client = scenario.client();
        scenario.guest.settle();
        client.close();
      },
    ],
    [
      'in the middle of its line',
      (scenario) => {
        const client = scenario.client();
        client.write('CONNE');
        scenario.guest.settle();
        client.close();
      },
    ],
    [
      'behind its line, before the device has looked',
      (scenario) => {
        const client = scenario.client();
        client.write('CONNECT 9\n');
        client.close();
      },
    ],
    [
      'when the guest has been asked',
      (scenario) => {
        const client = scenario.client();
        client.write('CONNECT 9\n');
        scenario.guest.settle();
        client.close();
      },
    ],
    [
      'when the guest has answered',
      (scenario) => {
        scenario.openFromHost(9).client.close();
      },
    ],
  ])('%s: no connection and no descriptor is left, and another goes on', (_stage, vanish) => {
    using scenario = new Scenario();
    const { guest } = scenario;
    const other = scenario.openFromHost(8);
    const watched = guest.loop.watched;
    vanish(scenario);
    // The guest goes through with whatever it is asked, as it does not know yet.
    for (let came = guest.exchange(); came.length > 0; came = guest.exchange()) {
      for (const { op, srcPort, dstPort } of came) {
        const end = new GuestEnd(guest, dstPort, srcPort);
        if (op === OP.REQUEST) end.send(OP.RESPONSE);
        if (op === OP.SHUTDOWN) end.send(OP.RST);
      }
    }
    expect(guest.device.connectionCount).toBe(1);
    expect(guest.loop.watched).toBe(watched);
    expectAlive(scenario, other.client, other.end);
  });
});
