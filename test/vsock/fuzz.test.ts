// A hostile guest against the whole vsock device with real Unix sockets: malformed rings, descriptors that change under
// way, headers with wrong fields, resets at any time. Nothing is thrown, nothing outside guest RAM is touched, nothing
// is leaked, and a file and a connection that are none of the guest's stay as they are.

import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { featureWords } from '../../src/devices/virtio/device.js';
import { EventLoop } from '../../src/platform/event-loop.js';
import { close } from '../../src/platform/libc.js';
import {
  listenUnix,
  SOCK_STREAM,
  tryAccept,
  tryConnect,
  trySocket,
  UnixAddress,
} from '../../src/platform/unix-socket.js';
import type { Fd } from '../../src/platform/units.js';
import { VsockDevice } from '../../src/vsock/device.js';
import { AddressGuard } from '../support/address-guard.js';
import { GuardedRam } from '../support/guarded-ram.js';
import { HIGH_BASE, HIGH_SIZE, LOW_SIZE, NEXT_SIZE } from '../support/hostile-driver.js';
import { HostileGuest, HOSTILE_CID } from '../support/hostile-guest.js';
import { openDescriptors } from '../support/process-state.js';
import { forEachCase, fuzzRun, type Random } from '../support/random.js';
import { HostPeer, SocketDirectory } from './host-peer.js';

const CASES = 70_000;
/** Ports that somebody listens at: the second has a backlog of one, which is full most of the time. */
const OPEN_PORT = 5;
const FULL_PORT = 6;
const CLOSED_PORT = 7;

const CANARY = "not the guest's";

/** The host around the device: listeners that live through all cases, and the peers of one. */
class Host implements Disposable {
  readonly directory = new SocketDirectory();
  readonly path = this.directory.at('v');
  readonly listener = listenUnix(this.path, SOCK_STREAM, 64);
  readonly address = new UnixAddress(this.path);
  private readonly servers = [
    listenUnix(`${this.path}_${OPEN_PORT}`, SOCK_STREAM, 64),
    listenUnix(`${this.path}_${FULL_PORT}`, SOCK_STREAM, 0),
  ];
  private peers: HostPeer[] = [];

  act(random: Random): void {
    switch (random.below(6)) {
      case 0:
        this.connect(random);
        return;
      case 1:
        this.accept(this.servers[random.below(2)]);
        return;
      default:
        if (this.peers.length > 0) this.use(random, random.below(this.peers.length));
    }
  }

  /** Ends the case: no peer and nothing that waits is left for the next. */
  clear(): void {
    for (const peer of this.peers) peer.close();
    this.peers = [];
    for (const server of [...this.servers, this.listener]) {
      for (let fd: number = tryAccept(server); fd >= 0; fd = tryAccept(server)) close(fd as Fd);
    }
  }

  [Symbol.dispose](): void {
    this.clear();
    for (const server of [...this.servers, this.listener]) close(server);
    this.directory[Symbol.dispose]();
  }

  private connect(random: Random): void {
    const peer = new HostPeer(trySocket(SOCK_STREAM) as Fd);
    this.peers.push(peer);
    if (tryConnect(peer.fd, this.address) < 0) return;
    peer.write(
      random.oneIn(6) ? random.pick(['CONN', 'CONNECT x\n', 'CONNECT 99999999999\n', '\0']) : 'CONNECT 9\nhello',
    );
  }

  private accept(server: Fd): void {
    const fd: number = tryAccept(server);
    if (fd >= 0) this.peers.push(new HostPeer(fd as Fd));
  }

  private use(random: Random, index: number): void {
    const peer = this.peers[index];
    switch (random.below(10)) {
      case 0:
        peer.shutdownWrite();
        return;
      case 1:
        peer.close();
        this.peers.splice(index, 1);
        return;
      case 2:
      case 3:
        try {
          peer.readOnce(random.size(payload.length));
        } catch {
          // ECONNRESET: the device closed with something of the peer's unread, as it may.
        }
        return;
      default:
        peer.write(payload.subarray(0, random.size(payload.length)));
    }
  }
}

/** Timers that are set: a connection that is gone must not be called back. */
function timersOf(loop: EventLoop): number {
  return (loop as unknown as { timers: { heap: unknown[] } }).timers.heap.length;
}

const payload = new Uint8Array(64 * 1024).fill(0x5a);

test("no guest, however hostile, makes the device throw, leak, or touch what is not the guest's", () => {
  using ram = new GuardedRam(
    { gpa: 0, size: LOW_SIZE },
    { gpa: LOW_SIZE, size: NEXT_SIZE },
    { gpa: HIGH_BASE, size: HIGH_SIZE },
  );
  using host = new Host();
  using guard = new AddressGuard(ram);
  const loop = new EventLoop();
  const canaryFile = host.directory.at('canary');
  writeFileSync(canaryFile, CANARY);
  const descriptors = openDescriptors();
  const totals = { connections: 0, rxBytes: 0, txBytes: 0, faults: 0, broken: 0 };

  forEachCase('vsock', fuzzRun(CASES), (random, index) => {
    ram.clear();
    const device = new VsockDevice({
      guestCid: HOSTILE_CID,
      listener: host.listener,
      socketPath: host.path,
      loop,
      maxConnections: random.oneIn(4) ? 2 : 64,
      bufAlloc: random.pick([4096, 65536, 262144]),
      log: () => undefined,
    });
    const guest = new HostileGuest(random, ram);
    guest.hostPorts = [OPEN_PORT, OPEN_PORT, FULL_PORT, CLOSED_PORT];
    const activate = (): void => {
      device.activate({
        memory: ram.memory,
        queues: guest.makeQueues(),
        features: featureWords([]),
        interrupt: guest.interrupt,
      });
    };
    activate();
    for (let posts = random.below(6); posts > 0; posts--) guest.postRx();
    for (let step = random.between(4, 40); step > 0; step--) {
      switch (random.below(12)) {
        case 0:
        case 1:
          for (let posts = random.between(1, 4); posts > 0; posts--) guest.postRx();
          break;
        case 2:
        case 3:
        case 4:
          guest.sendPacket();
          break;
        case 5:
          if (random.oneIn(6)) guest.scribble();
          break;
        case 6:
        case 7:
          host.act(random);
          break;
        case 8:
          if (!random.oneIn(12)) break;
          device.reset();
          if (!random.oneIn(4)) activate();
          break;
        default:
          loop.turn(0);
          guest.look();
      }
    }
    for (let turns = 0; turns < 3; turns++) loop.turn(0);
    const counters = device.counters.snapshot();
    totals.connections += counters.connectionsFromGuest + counters.connectionsFromHost;
    totals.rxBytes += counters.rxBytes;
    totals.txBytes += counters.txBytes;
    totals.faults += counters.guestFaults;
    totals.broken += guest.interrupt.resets;
    device.close();
    if (device.connectionCount !== 0) throw new Error(`${device.connectionCount} connections are left`);
    if (loop.watched !== 0) throw new Error(`${loop.watched} descriptors are still watched`);
    if (timersOf(loop) !== 0) throw new Error(`${timersOf(loop)} timers are still set`);
    host.clear();
    ram.check();
    if (index % 5000 === 0) expect(openDescriptors()).toBe(descriptors);
  });

  expect(openDescriptors()).toBe(descriptors);
  expect(readFileSync(canaryFile, 'utf8')).toBe(CANARY);
  loop.close();
  // The generator reaches what it is meant to reach; a single case, run again, need not.
  if (totals.connections > 100) {
    expect(Object.values(totals).every((total) => total > 0)).toBe(true);
    expect(guard.checked).toBeGreaterThan(0);
  }
  process.stdout.write(`vsock: ${JSON.stringify({ ...totals, checkedAddresses: guard.checked })}\n`);
});
