// What can be seen of a vsock device, and the change of the guest's CID while it runs (event queue, 5.10.6.7).

import { afterEach, expect, test } from '@jest/globals';
import { createCounterMemory, VsockCounters, type VsockCounterSnapshot } from '../../src/vsock/counters.js';
import { BOTH, GuestEnd, OP, ops, Scenario } from './scenario.js';
import type { GuestOptions } from './vsock-guest.js';

let scenario: Scenario;

function start(options: GuestOptions & { start?: 'active' | 'inactive' } = {}): void {
  scenario = new Scenario(options);
}

afterEach(() => {
  scenario[Symbol.dispose]();
});

/** Posts a buffer for an event, and returns where it is. */
function postEventBuffer(length = 4): number {
  const address = scenario.guest.ram.allocate(4, 4);
  scenario.guest.event.add([{ address, length, writable: true }]);
  scenario.guest.ram.bytes.fill(0xff, address, address + length);
  return address;
}

test('counters are in memory that another thread can look at', () => {
  const memory = createCounterMemory();
  start({ counters: memory });
  const { peer, end } = scenario.openFromGuest(80);
  end.write('to the host');
  scenario.guest.settle();
  peer.write('to the guest');
  scenario.guest.exchange();
  const counted = new VsockCounters(memory).snapshot();
  expect(counted).toMatchObject({ txBytes: 11, txWrites: 1, rxBytes: 12, rxReads: 1, connectionsFromGuest: 1 });
  expect(counted.rxBatches).toBeGreaterThan(0);
  expect(counted.txBatches).toBeGreaterThan(0);
  expect(counted.interrupts).toBeGreaterThan(0);
});

test('resets are counted by their reason', () => {
  start();
  const { guest, loop } = scenario;
  const counted = (): VsockCounterSnapshot => guest.device.counters.snapshot();
  new GuestEnd(guest, 50_000, 81).send(OP.REQUEST);
  guest.settle();
  expect(counted()).toMatchObject({ resetsRefused: 1 });
  new GuestEnd(guest, 50_001, 81).write('to nobody');
  guest.settle();
  expect(counted()).toMatchObject({ resetsUnknown: 1 });
  scenario.openFromGuest(80, 50_002).end.send(OP.REQUEST);
  guest.settle();
  expect(counted()).toMatchObject({ resetsBroken: 1 });
  scenario.openFromGuest(82, 50_003).end.send(OP.SHUTDOWN, { flags: BOTH });
  guest.settle();
  expect(counted()).toMatchObject({ resetsFinished: 1 });
  scenario.client().write('CONNECT 7\n');
  guest.settle();
  loop.advance(3000);
  expect(counted()).toMatchObject({ resetsTimedOut: 1 });
});

test('the time that a guest has to answer can be set', () => {
  start({ connectTimeoutMs: 100 });
  const client = scenario.client();
  client.write('CONNECT 7\n');
  scenario.guest.settle();
  scenario.loop.advance(90);
  expect(client.ended).toBe(false);
  scenario.loop.advance(20);
  expect(client.ended).toBe(true);
});

test('connections describe themselves', () => {
  start();
  const { peer, end } = scenario.openFromGuest(80);
  end.write('12345');
  scenario.guest.settle();
  peer.write('123');
  scenario.guest.settle();
  expect(scenario.guest.device.connections()).toEqual([
    {
      type: 'stream',
      guestPort: 50_000,
      peerCid: 2,
      peerPort: 80,
      state: 'established',
      rxBytes: 3,
      txBytes: 5,
      rxCredit: scenario.guest.bufAlloc - 3,
      rxStalled: false,
      txWaiting: 0,
    },
  ]);
});

test.each([true, false])('the end of a connection is logged only where that is wanted: %s', (logConnections) => {
  start({ logConnections });
  const { end } = scenario.openFromGuest(80);
  end.write('12345').send(OP.RST);
  scenario.guest.settle();
  const line = 'reset: stream 50000 with 2:80, 0 bytes to the guest, 5 from it';
  expect(scenario.guest.logged.includes(line)).toBe(logConnections);
});

test('a new CID: config space, an event, the old connections gone, and packets under the new one', () => {
  const written: Uint8Array[] = [];
  start({ writeConfig: (config) => written.push(config) });
  const { guest } = scenario;
  const { peer, end } = scenario.openFromGuest(80);
  const buffer = postEventBuffer();
  guest.device.setGuestCid(77);
  guest.settle();
  expect(written.at(-1)).toEqual(new Uint8Array([77, 0, 0, 0, 0, 0, 0, 0]));
  expect(guest.event.collect().map(({ length }) => length)).toEqual([4]);
  expect([...guest.ram.bytes.subarray(buffer, buffer + 4)]).toEqual([0, 0, 0, 0]);
  expect(peer.ended).toBe(true);
  expect(guest.device.connectionCount).toBe(0);
  // Nothing is said to a guest that does not exist any more, nor heard from it.
  end.write('late');
  expect(guest.exchange()).toEqual([]);
  const server = scenario.serve(90);
  guest.send({ srcCid: 77, srcPort: 1, dstPort: 90, op: OP.REQUEST });
  expect(guest.exchange()).toMatchObject([{ op: OP.RESPONSE, dstCid: 77 }]);
  server.accept()?.close();
});

test('an event waits for a buffer; buffers that are too small go back', () => {
  start();
  const { guest } = scenario;
  guest.device.setGuestCid(77);
  guest.settle();
  postEventBuffer(3);
  const buffer = postEventBuffer();
  guest.device.queueNotified(2);
  guest.settle();
  expect(guest.event.collect().map(({ length }) => length)).toEqual([0, 4]);
  expect(guest.ram.bytes[buffer]).toBe(0);
  expect(ops(guest.exchange())).toEqual([]);
});

test('a driver that comes up after the change is told nothing: it has yet to read its CID', () => {
  start({ start: 'inactive' });
  const { guest } = scenario;
  guest.device.setGuestCid(77);
  guest.settle();
  guest.activate().postRx();
  postEventBuffer();
  guest.settle();
  expect(guest.event.collect()).toEqual([]);
});
