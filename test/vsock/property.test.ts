// Random well-formed guests and host peers against a model: every byte arrives once and in order in both directions,
// credit is kept in both directions, states are legal, every buffer comes back once, and nothing is left at the end.
//
// The guest is test/support/model-guest.ts, which checks all that a guest can see; the host peers here check all that a
// client can see. Sockets are real; there is no VM.

import { unlinkSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { ECONNRESET, EPIPE } from '../../src/platform/errno.js';
import { EventLoop } from '../../src/platform/event-loop.js';
import { close } from '../../src/platform/libc.js';
import { listenUnix, SOCK_STREAM, tryAccept } from '../../src/platform/unix-socket.js';
import type { Fd } from '../../src/platform/units.js';
import { VsockDevice } from '../../src/vsock/device.js';
import { GuestConnection, MODEL_CID, ModelGuest, SHUTDOWN_RCV, SHUTDOWN_SEND } from '../support/model-guest.js';
import { openDescriptors } from '../support/process-state.js';
import { forEachCase, fuzzRun, type Random } from '../support/random.js';
import { checkPattern, patternAt } from '../support/stream-pattern.js';
import { HostPeer, HostServer, SocketDirectory } from './host-peer.js';

const CASES = 600;
const MAX_CONNECTIONS = 12;
/** Below the 8 s after which the device gives a guest up that does not answer SHUTDOWN. */
const SETTLE_LIMIT_MS = 5000;
/** A host port where nobody listens. */
const CLOSED_PORT = 1;

/** The host's end of a connection, and what it knows of the guest's. */
class HostEnd {
  readonly stream: number;
  peer: HostPeer | undefined;
  server: HostServer | undefined;
  guest: GuestConnection | undefined;
  /** Of `CONNECT <port>\n`, for a connection that the host asks for. */
  greeting = Buffer.alloc(0);
  greeted = true;
  welcomed = true;
  answer = '';
  sent = 0;
  received = 0;
  writeEnded = false;
  ended = false;
  closed = false;

  constructor(stream: number) {
    this.stream = stream;
  }

  get streamToGuest(): number {
    return 2 * this.stream;
  }

  get streamFromGuest(): number {
    return 2 * this.stream + 1;
  }
}

class World {
  readonly random: Random;
  readonly loop: EventLoop;
  readonly device: VsockDevice;
  readonly guest: ModelGuest;
  private readonly path: string;
  private readonly ends: HostEnd[] = [];
  private resets = 0;
  private overruns = 0;
  /** Cases that lean one way, to where few get by chance: host peers that write little at a time, or seldom read. */
  private readonly chatty: boolean;
  private readonly lazy: boolean;
  private readonly limit: number;
  private streams = 0;

  constructor(random: Random, loop: EventLoop, directory: SocketDirectory, listener: Fd) {
    this.random = random;
    this.loop = loop;
    this.path = directory.at('v');
    this.chatty = random.oneIn(4);
    this.lazy = random.oneIn(4);
    this.limit = this.chatty || this.lazy ? 2 : MAX_CONNECTIONS;
    this.device = new VsockDevice({
      guestCid: MODEL_CID,
      listener,
      socketPath: this.path,
      loop,
      bufAlloc: random.pick([4096, 10_000, 65_536, 262_144]),
      log: (level, message) => {
        if (level !== 'debug' && this.overruns === 0) throw new Error(`the device complains: ${message}`);
      },
    });
    this.guest = new ModelGuest(random, this.device);
    this.guest.onRequest = (guestPort, hostPort) => this.accept(guestPort, hostPort);
  }

  // ---- Steps

  step(): void {
    const { random, guest } = this;
    switch (random.below(20)) {
      case 0:
        if (this.ends.length < this.limit) this.guestConnects();
        return;
      case 1:
        if (this.ends.length < this.limit) this.hostConnects();
        return;
      case 2:
      case 3:
        guest.postRx(random.size(32));
        return;
      case 4:
      case 5:
      case 6:
        this.turn();
        return;
      case 7:
        if (random.oneIn(8)) this.disturb();
        return;
      case 8:
        if (random.oneIn(150)) this.resetDevice();
        return;
      default:
        if (this.ends.length > 0) this.useEnd(random.pick(this.ends));
    }
  }

  turn(maxSleepMs = 0): void {
    this.guest.watched(() => this.loop.turn(maxSleepMs));
    for (const end of this.ends) this.acceptFor(end);
  }

  private useEnd(end: HostEnd): void {
    const { random, guest } = this;
    switch (random.below(8)) {
      case 0:
      case 1:
      case 2:
        if (this.chatty) this.chat(end);
        else this.write(end, random.size(random.pick([200, 65_536])));
        return;
      case 3:
      case 4:
        if (!this.lazy || random.oneIn(10)) this.read(end, random.size(65_536));
        return;
      case 5:
        if (end.guest !== undefined) guest.take(end.guest, random.size(65_536));
        return;
      default:
        for (let packets = this.lazy ? 8 : 1; packets > 0; packets--) {
          if (end.guest !== undefined) guest.send(end.guest, this.lazy ? 8192 : random.size(8192));
        }
    }
  }

  /** Many packets with next to nothing in them. */
  private chat(end: HostEnd): void {
    for (let words = this.random.size(100); words > 0; words--) {
      this.write(end, this.random.size(100));
      this.guest.postRx(2);
      this.turn();
    }
  }

  /** Ends something, in one of all the ways there are. */
  private disturb(): void {
    const { random, guest } = this;
    if (this.ends.length === 0) return;
    const end = random.pick(this.ends);
    const connection = end.guest;
    switch (random.below(9)) {
      case 0:
      case 1:
        this.endWriting(end);
        return;
      case 2:
        this.close(end);
        return;
    }
    if (connection === undefined) return;
    switch (random.below(6)) {
      case 0:
        guest.shutdown(connection, SHUTDOWN_SEND);
        return;
      case 1:
        guest.shutdown(connection, SHUTDOWN_RCV);
        return;
      case 2:
        guest.shutdown(connection, SHUTDOWN_SEND | SHUTDOWN_RCV);
        return;
      case 3:
        if (random.oneIn(3)) guest.resetConnection(connection);
        return;
      case 4:
        guest.growBuffer(connection);
        guest.askCredit(connection);
        return;
      default:
        if (!random.oneIn(4)) return;
        this.overruns++;
        guest.overrun(connection);
    }
  }

  private resetDevice(): void {
    this.resets++;
    this.turn(); // Clients that the device has not accepted yet would outlive the reset, and rightly so.
    this.guest.reset();
    if (this.device.connectionCount !== 0) throw new Error('connections outlived a reset');
    for (const end of this.ends) {
      this.acceptFor(end);
      this.drain(end);
      if (end.peer !== undefined && !end.closed && !end.ended) throw new Error('a socket outlived a reset');
    }
    this.ends.splice(0).forEach((end) => this.release(end));
    this.guest.probe();
  }

  private guestConnects(): void {
    const stream = this.streams++;
    if (this.random.oneIn(8)) {
      const refused = this.guest.connect(20_000 + stream, CLOSED_PORT, stream);
      refused.expectsReset = true;
      return;
    }
    const end = new HostEnd(stream);
    // A port of its own: then there is no doubt which connection was accepted.
    end.server = new HostServer(`${this.path}_${1000 + stream}`);
    end.guest = this.guest.connect(20_000 + stream, 1000 + stream, stream);
    this.ends.push(end);
  }

  private hostConnects(): void {
    const end = new HostEnd(this.streams++);
    end.peer = HostPeer.connect(this.path);
    end.greeting = Buffer.from(`CONNECT ${1000 + end.stream}\n`);
    end.greeted = false;
    end.welcomed = false;
    this.ends.push(end);
  }

  private accept(guestPort: number, hostPort: number): GuestConnection | undefined {
    const end = this.ends.find((one) => one.stream === guestPort - 1000);
    if (end === undefined) throw new Error(`REQUEST for port ${guestPort}, which no client asked for`);
    if (this.random.oneIn(8)) return undefined;
    end.guest = this.guest.accept(guestPort, hostPort, end.stream);
    return end.guest;
  }

  // ---- Host ends

  private acceptFor(end: HostEnd): void {
    if (end.server === undefined || end.peer !== undefined) return;
    const peer = end.server.accept();
    if (peer === undefined) return;
    end.peer = peer;
    this.closeServer(end);
  }

  private write(end: HostEnd, length: number): void {
    const { peer } = end;
    if (peer === undefined || end.closed || end.writeEnded) return;
    if (!end.greeted) {
      const piece = end.greeting.subarray(0, this.random.size(end.greeting.length));
      if (peer.write(piece) < 0) end.greeted = true;
      end.greeting = end.greeting.subarray(piece.length);
      if (end.greeting.length === 0) end.greeted = true;
      return;
    }
    const result = peer.write(patternAt(end.streamToGuest, end.sent, length));
    if (result > 0) end.sent += result;
    if (result === -EPIPE || result === -ECONNRESET) end.writeEnded = true;
  }

  private read(end: HostEnd, limit: number): boolean {
    const { peer } = end;
    if (peer === undefined || end.closed || end.ended) return false;
    let part: Buffer | 'eof' | undefined;
    try {
      part = peer.readOnce(limit);
    } catch {
      part = 'eof'; // ECONNRESET: the device closed with something of the peer's unread.
      this.checkLoss(end);
    }
    if (part === undefined) return false;
    if (part === 'eof') {
      end.ended = true;
      this.checkEnd(end);
      return true;
    }
    if (!end.welcomed) {
      const line = part.indexOf('\n') + 1;
      end.answer += part.subarray(0, line === 0 ? part.length : line).toString('latin1');
      if (line === 0) return true;
      if (!/^OK \d+\n$/.test(end.answer)) throw new Error(`the answer to CONNECT is ${JSON.stringify(end.answer)}`);
      end.welcomed = true;
      part = part.subarray(line);
    }
    checkPattern('guest to host', end.streamFromGuest, end.received, part);
    end.received += part.length;
    if (end.received > (end.guest?.sent ?? 0)) throw new Error('more came than the guest has sent');
    return true;
  }

  /** The end came: rightly so, and behind everything the guest sent? */
  private checkEnd(end: HostEnd): void {
    const connection = end.guest;
    if (connection === undefined || connection.broken || !end.welcomed) return;
    if ((connection.said & SHUTDOWN_SEND) === 0 && connection.heard === 0) throw new Error('an end that nobody made');
    if (connection.state !== 'dead' || (connection.said & SHUTDOWN_SEND) !== 0) {
      if (end.received !== connection.sent)
        throw new Error(`${end.received} of ${connection.sent} bytes before the end`);
    }
  }

  /** Bytes to the guest may only be lost when the guest said that it wants no more. */
  private checkLoss(end: HostEnd): void {
    const connection = end.guest;
    if (connection === undefined || connection.broken || (connection.said & SHUTDOWN_RCV) !== 0) return;
    throw new Error('the device closed with bytes for the guest unread');
  }

  private drain(end: HostEnd): void {
    while (this.read(end, 65_536));
  }

  private endWriting(end: HostEnd): void {
    if (end.peer === undefined || end.closed || !end.greeted) return;
    end.writeEnded = true;
    end.peer.shutdownWrite();
  }

  private close(end: HostEnd): void {
    if (end.peer === undefined || end.closed) return;
    end.closed = true;
    end.peer.close();
  }

  private release(end: HostEnd): void {
    end.peer?.close();
    this.closeServer(end);
  }

  private closeServer(end: HostEnd): void {
    if (end.server === undefined) return;
    end.server.close();
    end.server = undefined;
    unlinkSync(`${this.path}_${1000 + end.stream}`);
  }

  // ---- The end

  /** Everybody reads and answers until nothing moves any more, and nothing is missing. */
  settle(missing: () => string | undefined): void {
    const deadline = this.loop.now() + SETTLE_LIMIT_MS;
    for (;;) {
      for (let quiet = 0; quiet < 3;) {
        const before = this.progress();
        this.round(0);
        quiet = this.progress() === before ? quiet + 1 : 0;
      }
      const problem = missing();
      if (problem === undefined) return;
      if (this.loop.now() > deadline) throw new Error(problem);
      this.round(5); // What is still to come takes a timer: a guest is asked for credit again.
    }
  }

  private round(maxSleepMs: number): void {
    const { guest } = this;
    guest.postRx(64);
    this.turn(maxSleepMs);
    for (const end of this.ends) {
      if (!end.greeted) this.write(end, 64);
      this.drain(end);
      if (end.guest !== undefined) guest.take(end.guest, Infinity);
    }
  }

  /** What was sent and is not there, but where an end said that it takes no more. */
  undelivered(): string | undefined {
    for (const { guest, closed, ended, received, sent } of this.ends) {
      if (guest === undefined || guest.broken) continue;
      const wanted = (guest.said & SHUTDOWN_RCV) === 0;
      if (wanted && guest.received !== sent) {
        return `${guest.received} of ${sent} bytes reached the guest: ${guest.describe()}`;
      }
      if (!closed && !ended && received !== guest.sent) {
        return `${received} of ${guest.sent} bytes reached the host: ${guest.describe()}`;
      }
      // What reached the host is given back, to half of the buffer at least: else a guest would stall for nothing.
      if (guest.state === 'established' && guest.heard === 0 && guest.said === 0 && !closed && !ended) {
        if (guest.credit * 2 < guest.peerBufAlloc) return `the guest is not told of room: ${guest.describe()}`;
      }
    }
    return undefined;
  }

  /** Everything is closed, from either side. */
  closeAll(): void {
    for (const end of this.ends) {
      if (this.random.oneIn(2) && end.guest !== undefined) this.guest.shutdown(end.guest, SHUTDOWN_RCV | SHUTDOWN_SEND);
      else this.close(end);
    }
    this.settle(() => undefined);
    for (const end of this.ends) this.close(end);
    this.settle(() => {
      const { connectionCount } = this.device;
      return connectionCount === 0 ? undefined : `${connectionCount} connections are left`;
    });
    if (!this.guest.txIdle) throw new Error('tx buffers were not given back');
    this.guest.checkAbandoned();
    for (const end of this.ends) this.release(end);
    this.device.close();
    if (this.loop.watched !== 0) throw new Error(`${this.loop.watched} descriptors are still watched`);
    const timers = (this.loop as unknown as { timers: { heap: unknown[] } }).timers.heap.length;
    if (timers !== 0) throw new Error(`${timers} timers are still set`);
  }

  /** For a case that failed: what would be in the way of the next. */
  abandon(): void {
    for (const end of this.ends) this.release(end);
    this.device.close();
  }

  get totals(): readonly [connections: number, bytes: number, stalls: number, resets: number] {
    const { connectionsFromGuest, connectionsFromHost, rxBytes, txBytes, creditStalls, writeStalls } =
      this.device.counters.snapshot();
    return [connectionsFromGuest + connectionsFromHost, rxBytes + txBytes, creditStalls + writeStalls, this.resets];
  }

  private progress(): number {
    return this.ends.reduce((sum, { received, ended }) => sum + received + Number(ended), this.guest.activity);
  }
}

test('random guests and hosts: bytes in order and once, credit kept, states legal, nothing left', () => {
  const descriptors = openDescriptors();
  const totals = [0, 0, 0, 0];
  {
    using directory = new SocketDirectory();
    const loop = new EventLoop();
    const listener = listenUnix(directory.at('v'), SOCK_STREAM, 64);
    forEachCase('vsock model', fuzzRun(CASES), (random) => {
      const world = new World(random, loop, directory, listener);
      try {
        for (let steps = random.between(50, 1500); steps > 0; steps--) world.step();
        world.settle(() => world.undelivered());
        world.closeAll();
      } catch (error) {
        world.abandon();
        throw error;
      } finally {
        world.guest[Symbol.dispose]();
      }
      world.totals.forEach((total, index) => (totals[index] += total));
      for (let fd: number = tryAccept(listener); fd >= 0; fd = tryAccept(listener)) close(fd as Fd);
    });
    loop.close();
    close(listener);
  }
  expect(openDescriptors()).toBe(descriptors);
  const [connections, bytes, stalls, resets] = totals;
  process.stdout.write(`vsock model: ${JSON.stringify({ connections, bytes, stalls, resets })}\n`);
});
