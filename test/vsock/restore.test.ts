// VSOCK.md, "Restore": rules 22 and 23, on a driven ring: the machine is saved, and another device goes on over its memory.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { HostServer } from './host-peer.js';
import { OP, ops, Scenario } from './scenario.js';

const TRANSPORT_RESET = 0;
const EVENT_SIZE = 4;

let scenario: Scenario;

beforeEach(() => {
  scenario = new Scenario();
});

afterEach(() => {
  scenario[Symbol.dispose]();
});

/** Posts a buffer for an event, and returns where it is. */
function postEventBuffer(): number {
  const { guest } = scenario;
  const address = guest.ram.allocate(EVENT_SIZE, 4);
  guest.ram.view.setUint32(address, 0xffff_ffff, true);
  guest.event.add([{ address, length: EVENT_SIZE, writable: true }]);
  return address;
}

/** What Linux does with an event: takes it, and makes its buffer available again. */
function takeEvent(): number {
  const events = scenario.guest.event.collect();
  events.forEach(() => postEventBuffer());
  scenario.guest.device.queueNotified(2);
  return events.length;
}

describe('rule 22: after a restore', () => {
  test('rule 22: the guest is told, once, as soon as it has a buffer for it', () => {
    const { guest } = scenario;
    guest.restore().settle();
    expect(guest.event.collect()).toEqual([]);
    const buffer = postEventBuffer();
    guest.device.queueNotified(2);
    guest.settle();
    expect(guest.event.collect().map(({ length }) => length)).toEqual([EVENT_SIZE]);
    expect(guest.ram.view.getUint32(buffer, true)).toBe(TRANSPORT_RESET);
    postEventBuffer();
    guest.device.queueNotified(2);
    guest.settle();
    expect(guest.event.collect()).toEqual([]);
  });

  test('rule 22: nothing is delivered before the guest has taken the event', () => {
    const { guest } = scenario;
    postEventBuffer();
    guest.settle();
    guest.restore().settle();
    const client = scenario.client();
    client.write('CONNECT 7\n');
    guest.settle();
    // The event is in its buffer; the guest has not looked yet.
    expect(guest.receive()).toEqual([]);
    expect(takeEvent()).toBe(1);
    expect(ops(guest.exchange())).toEqual(['REQUEST']);
  });

  test('rule 22: what the guest sent meanwhile is looked at, though it is not notified again', () => {
    const { guest } = scenario;
    const server = scenario.serve(80);
    postEventBuffer();
    guest.settle();
    // The notification went to the machine that was saved.
    guest.send({ srcPort: 50_000, dstPort: 80, op: OP.REQUEST });
    guest.restore().settle();
    expect(server.accept()).toBeDefined();
    expect(guest.receive()).toEqual([]);
    takeEvent();
    expect(ops(guest.exchange())).toEqual(['RESPONSE']);
  });

  test('rule 22: a reset of the device opens the gate', () => {
    const { guest } = scenario;
    postEventBuffer();
    guest.restore().settle();
    guest.device.reset();
    guest.restartDriver();
    const client = scenario.client();
    client.write('CONNECT 7\n');
    expect(ops(guest.exchange())).toEqual(['REQUEST']);
    postEventBuffer();
    guest.settle();
    expect(guest.event.collect()).toEqual([]);
  });

  test('rule 22: a plain pause and resume arms nothing and loses no connection', () => {
    const { guest } = scenario;
    const { client, end } = scenario.openFromHost(7);
    postEventBuffer();
    guest.settle();
    guest.pause();
    client.write('to the guest');
    end.write('to the host');
    expect(end.take(guest.exchange()).toString()).toBe('to the guest');
    expect(client.read().toString()).toBe('to the host');
    expect(guest.event.collect()).toEqual([]);
  });

  test('rule 22: host ports that were in use before are not given out again', () => {
    const { guest } = scenario;
    const before = [scenario.openFromHost(7), scenario.openFromHost(8)].map(({ end }) => end.hostPort);
    postEventBuffer();
    guest.restore().settle();
    takeEvent();
    const { end } = scenario.openFromHost(7);
    expect(end.hostPort).toBe(Math.max(...before) + 1);
  });

  test('its connections are gone on the host as well, and their packets are answered with RST', () => {
    const { guest } = scenario;
    const { client, end } = scenario.openFromHost(7);
    postEventBuffer();
    guest.restore().settle();
    expect(client.ended).toBe(true);
    takeEvent();
    end.write('late');
    expect(ops(guest.exchange())).toEqual(['RST']);
  });

  test('receive buffers that the device held are there for the one that goes on', () => {
    const { guest } = scenario;
    const { client, end } = scenario.openFromHost(7);
    client.write('x');
    expect(end.take(guest.exchange()).toString()).toBe('x');
    const posted = guest.rx.offered;
    for (let round = 0; round < 3; round++) {
      postEventBuffer();
      guest.restore().settle();
      takeEvent();
    }
    const again = scenario.openFromHost(7);
    again.client.write('y');
    expect(again.end.take(guest.exchange()).toString()).toBe('y');
    expect(guest.rx.offered).toBeGreaterThan(posted);
  });
});

test('rule 23: the restored device has sockets and a context id of its own', () => {
  const { guest } = scenario;
  const first = scenario.serve(80);
  const socketPath = `${scenario.socketPath}-clone`;
  using other = new HostServer(`${socketPath}_80`);
  postEventBuffer();
  guest.restore({ socketPath, guestCid: 33 }).settle();
  expect([...guest.config]).toEqual([33, 0, 0, 0, 0, 0, 0, 0]);
  takeEvent();
  guest.send({ srcCid: 33, srcPort: 1000, dstPort: 80, op: OP.REQUEST });
  expect(guest.exchange()).toMatchObject([{ op: OP.RESPONSE, dstCid: 33 }]);
  expect(first.accept()).toBeUndefined();
  other.accept()?.close();
});
