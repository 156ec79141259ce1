// Streams of the library without a VM: the test plays the guest, and turns the worker's loop between turns of Node's.

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { receiveMessageOnPort } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { EAGAIN } from '../../src/platform/errno.js';
import { createEventFd, drainEventFd } from '../../src/platform/eventfd.js';
import { IovecArray } from '../../src/platform/iovec.js';
import { close } from '../../src/platform/libc.js';
import { NativeBuffer } from '../../src/platform/native-buffer.js';
import { SOCK_STREAM, socketPair } from '../../src/platform/unix-socket.js';
import { KIB, MIB } from '../../src/platform/units.js';
import { BellAnswerer, BellRinger, BELL_SLOTS, createBellMemory } from '../../src/vsock/in-process/bell.js';
import { VsockHost } from '../../src/vsock/in-process/host.js';
import type { HostMessage } from '../../src/vsock/in-process/messages.js';
import { RingEndpoint } from '../../src/vsock/in-process/ring-endpoint.js';
import { RING_BYTES, StreamBlock, WORD } from '../../src/vsock/in-process/stream-block.js';
import { StreamHub } from '../../src/vsock/in-process/stream-hub.js';
import type { VsockStream } from '../../src/vsock/in-process/stream.js';
import { REQUEST_TIMEOUT_MS } from '../../src/vsock/connection.js';
import { openDescriptors } from '../support/process-state.js';
import { HostPeer } from './host-peer.js';
import { BOTH, GuestEnd, ManualLoop, OP, ops, payload, RCV, SEND } from './scenario.js';
import { VsockGuest, type Packet, type PacketToSend } from './vsock-guest.js';

const PORT = 1234;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Both ends of in-process streams in one thread. */
class Streams {
  readonly loop = new ManualLoop();
  readonly host: VsockHost;
  readonly hub: StreamHub;
  readonly guest: VsockGuest;
  private ended = false;

  constructor(guestCid = 3) {
    this.host = new VsockHost(guestCid);
    const { port } = this.host.handles;
    this.hub = new StreamHub({
      loop: this.loop,
      shared: this.host.handles,
      receive: () => (receiveMessageOnPort(port) as { message: HostMessage } | undefined)?.message,
      send: (message) => {
        port.postMessage(message);
      },
    });
    this.guest = new VsockGuest({
      guestCid,
      loop: this.loop,
      socketPath: '/nonexistent/socket',
      inProcess: this.hub,
      memorySize: 32 * MIB,
    });
    this.host.started();
  }

  activate(): this {
    this.guest.activate().postRx();
    return this;
  }

  /** Turns both loops until nothing more happens; what came for the guest since the last call. */
  async exchange(): Promise<Packet[]> {
    const packets: Packet[] = [];
    for (let idle = 0; idle < 4; idle++) {
      const came = this.guest.exchange();
      if (came.length > 0) idle = 0;
      packets.push(...came);
      await turn();
    }
    return packets;
  }

  /** The library connects, and the guest accepts. */
  async open(): Promise<{ stream: VsockStream; end: GuestEnd }> {
    const connecting = this.host.connect(PORT);
    const [request] = await this.exchange();
    const end = new GuestEnd(this.guest, PORT, request.srcPort);
    end.send(OP.RESPONSE);
    await this.exchange();
    return { stream: await connecting, end };
  }

  /** The end of the VM, as src/vmm goes about it. */
  end(): void {
    if (this.ended) return;
    this.ended = true;
    this.host.ending();
    this.guest.device.close();
    this.hub.close();
    this.host.close();
  }

  close(): void {
    this.end();
    this.guest.ram.release();
    this.loop.close();
  }
}

let streams: Streams;
let descriptors = 0;
beforeEach(() => {
  descriptors = openDescriptors();
  streams = new Streams();
});
afterEach(async () => {
  streams.close();
  await turn();
  await turn();
  expect(openDescriptors()).toBe(descriptors);
});

describe('opening', () => {
  test('the guest is asked from CID 2, and the stream opens with its RESPONSE', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    expect([stream.guestPort, stream.hostPort]).toEqual([PORT, end.hostPort]);
    stream.destroy();
  });

  test('RST is a refusal', async () => {
    streams.activate();
    const refused = expect(streams.host.connect(PORT)).rejects.toMatchObject({ code: 'REFUSED', port: PORT });
    const [request] = await streams.exchange();
    streams.guest.send({ srcPort: PORT, dstPort: request.srcPort, op: OP.RST });
    await streams.exchange();
    await refused;
    expect(streams.host.streamCount).toBe(0);
  });

  test('a guest that never answers is a timeout, by a timer', async () => {
    streams.activate();
    const late = expect(streams.host.connect(PORT)).rejects.toMatchObject({ code: 'TIMED_OUT' });
    await streams.exchange();
    streams.loop.advance(REQUEST_TIMEOUT_MS + 1);
    expect(ops(await streams.exchange())).toEqual(['RST']);
    await late;
  });

  test('a caller that gives a slow guest longer gets its answer', async () => {
    streams.activate();
    const connecting = streams.host.connect(PORT, { timeout: 60_000 });
    const [request] = await streams.exchange();
    streams.loop.advance(REQUEST_TIMEOUT_MS + 1);
    expect(await streams.exchange()).toEqual([]);
    new GuestEnd(streams.guest, PORT, request.srcPort).send(OP.RESPONSE);
    await streams.exchange();
    (await connecting).destroy();
    expect(ops(await streams.exchange())).toEqual(['RST']);
  });

  test('the caller’s timeout and its signal withdraw the request', async () => {
    streams.activate();
    const late = expect(streams.host.connect(PORT, { timeout: 1 })).rejects.toMatchObject({ code: 'TIMED_OUT' });
    expect(ops(streams.guest.exchange())).toEqual(['REQUEST']);
    await late;
    expect(ops(await streams.exchange())).toEqual(['RST']);

    const controller = new AbortController();
    const aborted = expect(streams.host.connect(PORT, { signal: controller.signal })).rejects.toMatchObject({
      code: 'ABORTED',
    });
    expect(ops(await streams.exchange())).toEqual(['REQUEST']);
    controller.abort();
    await aborted;
    expect(ops(await streams.exchange())).toEqual(['RST']);
    expect(streams.host.streamCount).toBe(0);
  });

  test('before the driver is up it fails at once, or waits, and can be called off meanwhile', async () => {
    const atOnce = expect(streams.host.connect(PORT)).rejects.toMatchObject({ code: 'DRIVER_NOT_READY' });
    await streams.exchange();
    await atOnce;
    const controller = new AbortController();
    const { signal } = controller;
    const calledOff = expect(streams.host.connect(PORT, { waitForDriver: true, signal })).rejects.toMatchObject({
      code: 'ABORTED',
    });
    const waiting = streams.host.connect(PORT, { waitForDriver: true });
    await streams.exchange();
    controller.abort();
    await calledOff;
    streams.activate();
    const packets = await streams.exchange();
    expect(ops(packets)).toEqual(['REQUEST']);
    new GuestEnd(streams.guest, PORT, packets[0].srcPort).send(OP.RESPONSE);
    await streams.exchange();
    (await waiting).destroy();
  });

  test('slots are used again, with clean rings', async () => {
    streams.activate();
    for (let round = 0; round < 5; round++) {
      const { stream, end } = await streams.open();
      end.write(`round ${round}`);
      await streams.exchange();
      expect(String(stream.read())).toBe(`round ${round}`);
      stream.write('x');
      expect(String(end.take(await streams.exchange()))).toBe('x');
      stream.destroy();
      await streams.exchange();
    }
    expect(streams.host.streamCount).toBe(0);
  });
});

describe('bytes', () => {
  test('a host that writes much is held back by a guest with little credit, and nothing is lost', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    end.send(OP.CREDIT_UPDATE, { bufAlloc: 16 * KIB });
    streams.guest.bufAlloc = 16 * KIB;
    const data = randomBytes(3 * RING_BYTES + 12_345);
    let written = false;
    expect(stream.write(data, () => (written = true))).toBe(false);
    const first = end.take(await streams.exchange());
    expect(first.length).toBeLessThanOrEqual(16 * KIB);
    expect(written).toBe(false);
    const pieces = [first];
    for (let total = first.length; total < data.length; total += pieces[pieces.length - 1].length) {
      end.tellCredit();
      pieces.push(end.take(await streams.exchange()));
    }
    expect(Buffer.concat(pieces).equals(data)).toBe(true);
    expect(written).toBe(true);
    stream.destroy();
  });

  test('a reader that does not read keeps the guest’s credit', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    const sent: Buffer[] = [];
    const chunk = 16 * KIB;
    // As much as the ring and the worker's buffer take, and what the guest is given credit for.
    const [{ bufAlloc }] = await credit(end);
    for (let free = bufAlloc; free >= chunk;) {
      const data = randomBytes(chunk);
      sent.push(data);
      end.write(data);
      await streams.exchange();
      const [{ fwdCnt }] = await credit(end);
      free = bufAlloc - (sent.length * chunk - fwdCnt);
    }
    const total = sent.length * chunk;
    expect(total).toBe(RING_BYTES + bufAlloc);
    const pieces: Buffer[] = [];
    stream.on('data', (piece: Buffer) => pieces.push(piece));
    await streams.exchange();
    expect(Buffer.concat(pieces).equals(Buffer.concat(sent))).toBe(true);
    expect((await credit(end))[0].fwdCnt).toBe(total);
    stream.destroy();
  });

  test('pieces are at most 64 KiB and views of nothing that changes', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    const data = randomBytes(100_000);
    end.write(data.subarray(0, 50_000)).write(data.subarray(50_000));
    await streams.exchange();
    const pieces: Buffer[] = [];
    stream.on('data', (piece: Buffer) => pieces.push(piece));
    await streams.exchange();
    expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThanOrEqual(64 * KIB);
    end.write(Buffer.alloc(RING_BYTES / 4));
    await streams.exchange();
    expect(Buffer.concat(pieces).subarray(0, data.length).equals(data)).toBe(true);
    stream.destroy();
  });

  async function credit(end: GuestEnd): Promise<Packet[]> {
    end.send(OP.CREDIT_REQUEST);
    const packets = await streams.exchange();
    return packets.slice(-1);
  }
});

describe('ends', () => {
  test('end() is SHUTDOWN(SEND), behind the last byte; the guest may go on', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    stream.end('last words');
    const packets = await streams.exchange();
    expect(ops(packets)).toEqual(['RW', 'SHUTDOWN']);
    expect([String(payload(packets)), packets[1].flags]).toEqual(['last words', SEND]);
    end.write('an answer').send(OP.SHUTDOWN, { flags: SEND });
    let text = '';
    for await (const piece of (await pump(stream), stream)) text += String(piece);
    expect(text).toBe('an answer');
    expect(stream.errored).toBeNull();
  });

  test('the guest’s SHUTDOWN(SEND) is an end; writing goes on', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    end.write('over').send(OP.SHUTDOWN, { flags: SEND });
    const ended = once(stream, 'end');
    stream.resume();
    await streams.exchange();
    await ended;
    stream.write('and out');
    expect(String(end.take(await streams.exchange()))).toBe('and out');
    stream.end();
    const closed = once(stream, 'close');
    expect(ops(await streams.exchange())).toContain('SHUTDOWN');
    await closed;
  });

  test('a guest that closes both ways ends the stream in order', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    end.write('bye').send(OP.SHUTDOWN, { flags: BOTH });
    expect(ops(await streams.exchange())).toEqual(['RST']);
    const closed = once(stream, 'close');
    expect(String(stream.read())).toBe('bye');
    stream.resume();
    await closed;
    expect([stream.errored, stream.writableFinished]).toEqual([null, true]);
  });

  test('writing to a guest that reads no more fails', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    end.send(OP.SHUTDOWN, { flags: RCV });
    await streams.exchange();
    const failed = once(stream, 'error');
    stream.write('too late');
    expect((await failed)[0]).toMatchObject({ code: 'CLOSED' });
  });

  test('destroy() is RST', async () => {
    streams.activate();
    const { stream } = await streams.open();
    stream.write('never mind');
    stream.destroy();
    expect(ops(await streams.exchange())).toEqual(['RST']);
  });

  test('rule 24: destroy() after finish loses nothing of what was written', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    streams.guest.bufAlloc = 8 * KIB;
    end.tellCredit();
    await streams.exchange();
    const data = randomBytes(RING_BYTES);
    stream.end(data);
    await once(stream, 'finish');
    stream.destroy();
    const pieces: Buffer[] = [];
    let packets: Packet[];
    do {
      packets = await streams.exchange();
      pieces.push(end.take(packets));
      end.tellCredit();
    } while (!packets.some(({ op, flags }) => op === OP.SHUTDOWN && (flags & SEND) !== 0));
    expect(Buffer.concat(pieces).equals(data)).toBe(true);
  });

  test('RST of the guest is an error, after what came before it', async () => {
    streams.activate();
    const { stream, end } = await streams.open();
    end.write('before').send(OP.RST);
    await streams.exchange();
    const failed = once(stream, 'error');
    const pieces: string[] = [];
    stream.on('data', (piece) => pieces.push(String(piece)));
    expect((await failed)[0]).toMatchObject({ name: 'VsockError', code: 'RESET', port: PORT });
    expect(pieces).toEqual(['before']);
    expect(streams.host.streamCount).toBe(0);
  });

  test('a reset of the driver resets its streams, and a write that waits fails', async () => {
    streams.activate();
    const { stream } = await streams.open();
    const failed = once(stream, 'error');
    stream.write(Buffer.alloc(2 * RING_BYTES));
    streams.guest.device.reset();
    await streams.exchange();
    expect((await failed)[0]).toMatchObject({ code: 'RESET' });
  });

  test('the end of the VM closes everything, and what had come in order is still there', async () => {
    streams.activate();
    const open = await streams.open();
    const over = await streams.open();
    over.end.write('all of it').send(OP.SHUTDOWN, { flags: BOTH });
    await streams.exchange();
    const failed = once(open.stream, 'error');
    const pending = expect(streams.host.connect(PORT)).rejects.toMatchObject({ code: 'CLOSED' });
    streams.end();
    expect((await failed)[0]).toMatchObject({ code: 'CLOSED' });
    await pending;
    let text = '';
    for await (const piece of over.stream) text += String(piece);
    expect(text).toBe('all of it');
  });

  async function pump(stream: VsockStream): Promise<void> {
    stream.pause();
    await streams.exchange();
  }
});

describe('listening', () => {
  const GUEST_PORT = 50_000;

  test('a connection of the guest arrives, and is answered when the main thread has taken it', async () => {
    streams.activate();
    const server = streams.host.listen(PORT);
    const connection = once(server, 'connection') as Promise<[VsockStream]>;
    const end = new GuestEnd(streams.guest, GUEST_PORT, PORT);
    end.send(OP.REQUEST);
    expect(ops(await streams.exchange())).toEqual(['RESPONSE']);
    const [stream] = await connection;
    expect([stream.guestPort, stream.hostPort]).toEqual([GUEST_PORT, PORT]);
    end.write('hello');
    await streams.exchange();
    expect(String(stream.read())).toBe('hello');
    stream.destroy();
    server.close();
  });

  test('a main thread that is busy for too long is a refusal, and what it says later is dropped', async () => {
    streams.activate();
    streams.host.listen(PORT, () => undefined);
    await streams.exchange();
    streams.guest.send({ srcPort: GUEST_PORT, dstPort: PORT, op: OP.REQUEST });
    streams.guest.settle(); // Node's loop does not turn.
    streams.loop.advance(1800);
    expect(ops(streams.guest.exchange())).toEqual(['RST']);
    await streams.exchange();
    expect(streams.host.streamCount).toBe(0);
  });

  test('a guest that gives up before it is accepted leaves nothing behind', async () => {
    streams.activate();
    streams.host.listen(PORT, () => undefined);
    await streams.exchange();
    streams.guest.send({ srcPort: GUEST_PORT, dstPort: PORT, op: OP.REQUEST });
    streams.guest.send({ srcPort: GUEST_PORT, dstPort: PORT, op: OP.RST });
    expect(await streams.exchange()).toEqual([]);
    expect(streams.host.streamCount).toBe(0);
  });

  test('without a server, or with one that nobody listens to, the guest is refused', async () => {
    streams.activate();
    streams.guest.send({ srcPort: GUEST_PORT, dstPort: PORT, op: OP.REQUEST });
    expect(ops(await streams.exchange())).toEqual(['RST']);
    const server = streams.host.listen(PORT);
    streams.guest.send({ srcPort: GUEST_PORT, dstPort: PORT, op: OP.REQUEST });
    expect(ops(await streams.exchange())).toEqual(['RST']);
    server.close();
  });
});

describe('a sibling that calls', () => {
  test('is seen by its own CID and port, and hears OK', async () => {
    streams.activate();
    const [near, far] = socketPair(SOCK_STREAM);
    const sibling = new VsockHost(9);
    sibling.started();
    sibling.addSibling(streams.host);
    sibling.handles.port.postMessage({ op: 'join', cid: 3, port: PORT, guestPort: 777, fd: far });
    const [request] = await streams.exchange();
    expect(request).toMatchObject({ op: OP.REQUEST, srcCid: 9, srcPort: 777, dstPort: PORT });
    streams.guest.send({ srcPort: PORT, dstPort: 777, dstCid: 9, op: OP.RESPONSE });
    await streams.exchange();
    using peer = new HostPeer(near);
    expect(String(peer.readOnce(64))).toBe('OK 777\n');
    sibling.close();
  });

  test('is refused by a closed end when there is no driver, or no such guest', async () => {
    const sibling = new VsockHost(9);
    sibling.started();
    for (const cid of [3, 4]) {
      if (cid === 3) sibling.addSibling(streams.host);
      const [near, far] = socketPair(SOCK_STREAM);
      sibling.handles.port.postMessage({ op: 'join', cid, port: PORT, guestPort: 777, fd: far });
      await streams.exchange();
      using peer = new HostPeer(near);
      expect(peer.ended).toBe(true);
    }
    sibling.close();
  });

  test('is refused when its port is in use already', async () => {
    streams.activate();
    const sibling = new VsockHost(9);
    sibling.started();
    sibling.addSibling(streams.host);
    const pairs = [socketPair(SOCK_STREAM), socketPair(SOCK_STREAM)];
    for (const [, fd] of pairs) {
      sibling.handles.port.postMessage({ op: 'join', cid: 3, port: PORT, guestPort: 777, fd });
    }
    expect(ops(await streams.exchange())).toEqual(['REQUEST']);
    using first = new HostPeer(pairs[0][0]);
    using second = new HostPeer(pairs[1][0]);
    expect([first.ended, second.ended]).toEqual([false, true]);
    sibling.close();
  });
});

describe('two siblings', () => {
  const CHUNK = 16 * KIB;

  /** One guest of two: sends as much as it may, and takes what comes when it is let. */
  class Side {
    readonly sent: Buffer[] = [];
    readonly taken: Buffer[] = [];
    readonly streams: Streams;
    private readonly address: { srcCid: number; srcPort: number; dstCid: number; dstPort: number };
    private bufAlloc = 0;
    private fwdCnt = 0;
    private total = 0;

    constructor(streams: Streams, address: { srcCid: number; srcPort: number; dstCid: number; dstPort: number }) {
      this.streams = streams;
      this.address = address;
      // Whatever the other sends stays on the way at first.
      streams.guest.bufAlloc = 0;
    }

    say(op: number, more: Partial<PacketToSend> = {}): void {
      const fwdCnt = this.taken.reduce((sum, { length }) => sum + length, 0);
      this.streams.guest.send({ ...this.address, op, fwdCnt, ...more });
    }

    async hear(): Promise<Packet[]> {
      const packets = await this.streams.exchange();
      for (const { bufAlloc, fwdCnt, payload: bytes } of packets) {
        this.bufAlloc = bufAlloc;
        this.fwdCnt = fwdCnt;
        if (bytes.length > 0) this.taken.push(bytes);
      }
      return packets;
    }

    /** Sends what there is credit for; whether that was anything. */
    async fill(): Promise<boolean> {
      let any = false;
      for (; this.total + CHUNK - this.fwdCnt <= this.bufAlloc; any = true) {
        const data = randomBytes(CHUNK);
        this.sent.push(data);
        this.total += CHUNK;
        this.say(OP.RW, { payload: data });
        await this.hear();
      }
      this.say(OP.CREDIT_REQUEST);
      await this.hear();
      return any;
    }
  }

  test('that send until everything between them is full go on when they read, and lose nothing', async () => {
    const other = new Streams(9);
    try {
      streams.host.addSibling(other.host);
      streams.activate();
      other.activate();
      const a = new Side(streams, { srcCid: 3, srcPort: 100, dstCid: 9, dstPort: 200 });
      const b = new Side(other, { srcCid: 9, srcPort: 200, dstCid: 3, dstPort: 100 });
      a.say(OP.REQUEST);
      await a.hear();
      expect((await b.hear())[0]).toMatchObject({ op: OP.REQUEST, srcCid: 3, srcPort: 100, dstCid: 9, dstPort: 200 });
      b.say(OP.RESPONSE);
      await b.hear();
      expect((await a.hear())[0]).toMatchObject({ op: OP.RESPONSE, srcCid: 9, srcPort: 200, dstCid: 3, dstPort: 100 });
      for (let more = true; more;) more = (await Promise.all([a.fill(), b.fill()])).some(Boolean);
      expect([a.taken, b.taken]).toEqual([[], []]);
      expect(Math.min(a.sent.length, b.sent.length) * CHUNK).toBeGreaterThan(256 * KIB);

      streams.guest.bufAlloc = 256 * KIB;
      other.guest.bufAlloc = 256 * KIB;
      const done = (from: Side, to: Side): boolean => from.sent.length * CHUNK === Buffer.concat(to.taken).length;
      for (let round = 0; round < 500 && !(done(a, b) && done(b, a)); round++) {
        a.say(OP.CREDIT_UPDATE);
        b.say(OP.CREDIT_UPDATE);
        await a.hear();
        await b.hear();
      }
      expect(Buffer.concat(b.taken).equals(Buffer.concat(a.sent))).toBe(true);
      expect(Buffer.concat(a.taken).equals(Buffer.concat(b.sent))).toBe(true);
    } finally {
      other.close();
    }
  });
});

describe('wake-ups', () => {
  test('a bell tells each slot once, in order, and wakes only a sleeper', () => {
    const event = createEventFd();
    const memory = createBellMemory();
    const ringer = new BellRinger(memory, event);
    const answerer = new BellAnswerer(memory);
    for (const slot of [BELL_SLOTS - 1, 1024, 33, 33, 0]) ringer.ring(slot);
    expect(drainEventFd(event)).toBe(false);
    expect(answerer.sleep()).toBe(false);
    const count = answerer.take();
    expect(Array.from({ length: count }, (_, index) => answerer.slotAt(index))).toEqual([0, 33, 1024, BELL_SLOTS - 1]);
    expect(answerer.sleep()).toBe(true);
    ringer.ring(7);
    ringer.ring(8);
    expect(drainEventFd(event)).toBe(true);
    expect(answerer.take()).toBe(2);
    ringer.silence();
    ringer.ring(9);
    expect(answerer.take()).toBe(0);
    close(event);
  });

  test('a wish that the partner took too early is made anew', () => {
    const event = createEventFd();
    const bell = new BellRinger(createBellMemory(), event);
    const { loop } = streams;
    const block = new StreamBlock();
    block.reset();
    const endpoint = new RingEndpoint({ loop, bell, released: () => undefined }, 1, block);
    const bytes = new NativeBuffer(RING_BYTES);
    const vector = new IovecArray(1);
    vector.add(bytes.address, RING_BYTES);

    // Full, and the wish for room is taken although there is none.
    expect(endpoint.write(vector, 0, 1)).toBe(RING_BYTES);
    endpoint.watchWritable(true);
    expect(block.takeWish(WORD.TO_HOST_WRITER_WAITS)).toBe(true);
    endpoint.look();
    expect(block.takeWish(WORD.TO_HOST_WRITER_WAITS)).toBe(true);

    // Empty, and the wish for bytes is taken although there are none.
    expect(endpoint.read(vector, 0, 1)).toBe(-EAGAIN);
    expect(block.takeWish(WORD.TO_GUEST_READER_WAITS)).toBe(true);
    endpoint.look();
    expect(block.takeWish(WORD.TO_GUEST_READER_WAITS)).toBe(true);
    endpoint.close('finished');
    close(event);
  });
});
