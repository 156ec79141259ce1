// A vsock driver that keeps to the protocol, as Linux's does, and checks that the device does, too: a model for property
// tests. It has rings of its own in memory of its own; there is no VM.
//
// What it checks of every packet: that the connection is in a state for it, that the bytes are the next ones, that the
// credit it gave is kept, in bytes and in packets, and that what the device says about its own credit makes sense. Of
// the rings: that every buffer comes back once, and that an interrupt comes when it was asked for.

import { featureWords } from '../../src/devices/virtio/device.js';
import { MIB } from '../../src/platform/units.js';
import type { VsockDevice } from '../../src/vsock/device.js';
import { HEADER_SIZE, PacketHeader } from '../../src/vsock/packet.js';
import { CountingInterrupt, DrivenRing, TestMemory, type TestBuffer } from './driven-ring.js';
import type { Random } from './random.js';
import { checkPattern, patternAt } from './stream-pattern.js';

export const MODEL_CID = 7;
const HOST_CID = 2;
const STREAM = 1;
const OP_REQUEST = 1;
const OP_RESPONSE = 2;
const OP_RST = 3;
const OP_SHUTDOWN = 4;
const OP_RW = 5;
const OP_CREDIT_UPDATE = 6;
const OP_CREDIT_REQUEST = 7;
export const SHUTDOWN_RCV = 1;
export const SHUTDOWN_SEND = 2;
const BOTH = SHUTDOWN_RCV | SHUTDOWN_SEND;
/** Linux sends a credit update by itself when less than this is left of its buffer (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE). */
const UPDATE_BELOW = 65_536;
/** What Linux counts for a packet beside its payload, at most. */
const PACKET_OVERHEAD = 1024;
const MAX_PAYLOAD = 8192;

const { ceil, min } = Math;

export type GuestState = 'requested' | 'established' | 'closing' | 'dead';

/** One connection as the guest knows it. */
export class GuestConnection {
  readonly guestPort: number;
  readonly hostPort: number;
  /** Streams: from the host to the guest, and back. */
  readonly streamIn: number;
  readonly streamOut: number;
  state: GuestState;
  /** It did not come to its end in order: bytes may be lost in either direction. */
  broken = false;
  /** The guest broke a rule on purpose and RST is due. */
  expectsReset = false;
  bufAlloc: number;
  received = 0;
  taken = 0;
  told = 0;
  /** Where each received packet ended, of those not taken as far as the device was told. */
  packetEnds: number[] = [];
  sent = 0;
  peerBufAlloc = 0;
  peerTaken = 0;
  said = 0;
  heard = 0;

  constructor(guestPort: number, hostPort: number, stream: number, bufAlloc: number, state: GuestState) {
    this.guestPort = guestPort;
    this.hostPort = hostPort;
    this.streamIn = 2 * stream;
    this.streamOut = 2 * stream + 1;
    this.bufAlloc = bufAlloc;
    this.state = state;
  }

  get credit(): number {
    return this.peerBufAlloc - (this.sent - this.peerTaken);
  }

  get unread(): number {
    return this.received - this.taken;
  }

  /** For messages. */
  describe(): string {
    const { state, said, heard, bufAlloc, received, taken, told, sent, peerBufAlloc, peerTaken } = this;
    return JSON.stringify({ state, said, heard, bufAlloc, received, taken, told, sent, peerBufAlloc, peerTaken });
  }
}

/** What `onRequest` decides. */
export type Answer = GuestConnection | undefined;

export class ModelGuest implements Disposable {
  readonly interrupt = new CountingInterrupt();
  /** By guest and host port. Dead ones stay until their last packets can have come. */
  readonly connections = new Map<string, GuestConnection>();
  /** Called for a REQUEST; the connection to be accepted, or undefined to refuse. */
  onRequest: (guestPort: number, hostPort: number) => Answer = () => undefined;
  /** Packets handled, both ways: what tells a quiet guest from a busy one. */
  activity = 0;

  private readonly random: Random;
  private readonly device: VsockDevice;
  private readonly ram = new TestMemory(16 * MIB);
  private readonly eventIdx: boolean;
  private readonly indirect: boolean;
  private readonly chattyUpdates: boolean;
  private readonly header = new PacketHeader();
  private rx!: DrivenRing;
  private tx!: DrivenRing;
  private readonly rxPosted = new Map<number, readonly TestBuffer[]>();
  private readonly txPosted = new Map<number, readonly [address: number, size: number, content: Buffer]>();
  private readonly freeTx: [address: number, size: number][] = [];
  private freeRx: TestBuffer[][] = [];
  /** Packets that wait for room in the ring. */
  private backlog: Buffer[] = [];
  private rxCollected = 0;
  private txCollected = 0;
  /** Used rings of drivers before this one: nobody writes there any more. */
  private readonly abandoned: DrivenRing[] = [];

  constructor(random: Random, device: VsockDevice) {
    this.random = random;
    this.device = device;
    this.eventIdx = random.oneIn(2);
    this.indirect = random.oneIn(2);
    this.chattyUpdates = random.oneIn(2);
    this.probe();
  }

  /** The driver comes up, perhaps after another one was there: with rings of any size. */
  probe(): void {
    const { random, ram } = this;
    const size = (): number => 2 ** random.between(3, 8);
    this.rx = new DrivenRing(ram, size());
    this.tx = new DrivenRing(ram, size());
    const event = new DrivenRing(ram, 8);
    this.rxCollected = 0;
    this.txCollected = 0;
    const features = { eventIdx: this.eventIdx, indirect: this.indirect };
    this.device.activate({
      memory: ram.memory,
      queues: [this.rx.device(features), this.tx.device(features), event.device(features)],
      features: featureWords([]),
      interrupt: this.interrupt,
    });
  }

  /** The driver resets the device and forgets everything; `probe` may follow. */
  reset(): void {
    this.device.reset();
    for (const ring of [this.rx, this.tx]) {
      ring.collect();
      this.abandoned.push(ring);
    }
    for (const [address, size] of this.txPosted.values()) this.freeTx.push([address, size]);
    for (const buffers of this.rxPosted.values()) this.freeRx.push([...buffers]);
    this.txPosted.clear();
    this.rxPosted.clear();
    this.backlog = [];
    for (const connection of this.connections.values()) {
      connection.broken = true;
      connection.state = 'dead';
    }
    this.connections.clear();
  }

  // ---- What a guest's programs do

  connect(guestPort: number, hostPort: number, stream: number): GuestConnection {
    const connection = new GuestConnection(guestPort, hostPort, stream, this.anyBufAlloc(), 'requested');
    this.connections.set(key(guestPort, hostPort), connection);
    this.queue(connection, OP_REQUEST);
    return connection;
  }

  accept(guestPort: number, hostPort: number, stream: number): GuestConnection {
    return new GuestConnection(guestPort, hostPort, stream, this.anyBufAlloc(), 'established');
  }

  /** Sends some of the connection's stream, within its credit. */
  send(connection: GuestConnection, limit: number): void {
    if (connection.state !== 'established' || (connection.said & SHUTDOWN_SEND) !== 0) return;
    if ((connection.heard & SHUTDOWN_RCV) !== 0) return;
    const length = min(limit, connection.credit, MAX_PAYLOAD);
    if (length <= 0) return;
    this.queue(connection, OP_RW, 0, patternAt(connection.streamOut, connection.sent, length));
    connection.sent += length;
  }

  /** Sends more than any credit: RST must follow. */
  overrun(connection: GuestConnection): void {
    if (connection.state !== 'established' || (connection.said & SHUTDOWN_SEND) !== 0) return;
    if (connection.peerBufAlloc >= 60_000 || connection.heard !== 0) return;
    connection.expectsReset = true;
    connection.broken = true;
    this.queue(connection, OP_RW, 0, Buffer.alloc(connection.peerBufAlloc + 1));
  }

  /** A program reads up to `limit` bytes. */
  take(connection: GuestConnection, limit: number): void {
    if (connection.state !== 'established') return;
    connection.taken += min(limit, connection.unread);
    const delta = connection.taken - connection.told;
    const free = connection.bufAlloc - delta;
    if (delta > 0 && (free < UPDATE_BELOW || (this.chattyUpdates && connection.unread === 0))) {
      this.queue(connection, OP_CREDIT_UPDATE);
    }
    if (connection.heard === BOTH && connection.unread === 0) this.forget(connection);
  }

  growBuffer(connection: GuestConnection): void {
    connection.bufAlloc = min(2 * connection.bufAlloc, MIB);
  }

  askCredit(connection: GuestConnection): void {
    if (connection.state === 'established') this.queue(connection, OP_CREDIT_REQUEST);
  }

  shutdown(connection: GuestConnection, flags: number): void {
    if (connection.state !== 'established' || connection.expectsReset) return;
    connection.said |= flags;
    this.queue(connection, OP_SHUTDOWN, connection.said);
    if (connection.said === BOTH) connection.state = 'closing';
  }

  resetConnection(connection: GuestConnection): void {
    if (connection.state === 'dead') return;
    connection.broken = true;
    this.forget(connection);
  }

  // ---- What its driver does

  /** Posts up to `count` receive buffers of any shape. */
  postRx(count: number): void {
    const { random, rx } = this;
    for (; count > 0; count--) {
      const indirect = this.indirect && random.oneIn(2);
      const buffers = this.freeRx.pop() ?? this.makeRxBuffers();
      if (rx.freeDescriptors < (indirect ? 1 : buffers.length)) {
        this.freeRx.push(buffers);
        return;
      }
      const head = indirect ? rx.addIndirect(buffers) : rx.add(buffers);
      this.rxPosted.set(head, buffers);
    }
  }

  /** Asks for interrupts, lets the device work, and checks that they come for what it gives back. */
  watched(work: () => void): void {
    const { rx, tx, interrupt } = this;
    rx.setUsedEvent(this.rxCollected);
    tx.setUsedEvent(this.txCollected);
    const before = interrupt.used;
    work();
    const came = this.collectTx() + this.collectRx();
    if (came > 0 && interrupt.used === before) throw new Error('buffers came back without the interrupt asked for');
    this.activity += came;
    this.pushBacklog();
  }

  /** Whether all that was sent has come back. */
  get txIdle(): boolean {
    return this.txPosted.size === 0 && this.backlog.length === 0;
  }

  /** Throws when the device wrote to rings that a driver before this one gave up. */
  checkAbandoned(): void {
    for (const ring of this.abandoned) {
      if (ring.collect().length > 0) throw new Error('a ring was used after a reset');
    }
  }

  [Symbol.dispose](): void {
    this.ram.release();
  }

  private anyBufAlloc(): number {
    return this.random.pick([256, 4096, 20_000, 65_536, 262_144, 262_144, MIB]);
  }

  private makeRxBuffers(): TestBuffer[] {
    const { random } = this;
    const total = random.oneIn(4) ? random.between(HEADER_SIZE + 1, 300) : 4096;
    const buffers: TestBuffer[] = [];
    const pieces = random.oneIn(2) ? 1 : random.between(2, 4);
    for (let left = total; left > 0;) {
      const length = buffers.length + 1 === pieces ? left : random.size(left);
      buffers.push({ address: this.ram.allocate(length, random.oneIn(2) ? 4 : 1), length, writable: true });
      left -= length;
    }
    return buffers;
  }

  private queue(connection: GuestConnection, op: number, flags = 0, payload: Buffer = Buffer.alloc(0)): void {
    const { header } = this;
    header.setAddresses(MODEL_CID, connection.guestPort, HOST_CID, connection.hostPort);
    header.setOperation(STREAM, op, flags, payload.length, connection.bufAlloc, connection.taken);
    connection.told = connection.taken;
    connection.packetEnds = connection.packetEnds.filter((end) => end > connection.taken);
    this.backlog.push(Buffer.concat([header.bytes, payload]));
    this.pushBacklog();
  }

  private pushBacklog(): void {
    const { random, tx } = this;
    while (this.backlog.length > 0) {
      const bytes = this.backlog[0];
      const pieces = min(bytes.length, random.pick([1, 1, 2, 2, random.between(3, 6)]));
      const indirect = this.indirect && random.oneIn(2);
      if (tx.freeDescriptors < (indirect ? 1 : pieces)) return;
      this.backlog.shift();
      const [address, size] = this.takeTx(bytes.length);
      this.ram.bytes.set(bytes, address);
      const buffers: TestBuffer[] = [];
      for (let done = 0; done < bytes.length;) {
        const left = bytes.length - done;
        // As Linux does: the header by itself; or anything.
        let length = buffers.length + 1 === pieces ? left : random.size(left);
        if (pieces === 2 && done === 0 && left > HEADER_SIZE) length = HEADER_SIZE;
        buffers.push({ address: address + done, length });
        done += length;
      }
      const head = indirect ? tx.addIndirect(buffers) : tx.add(buffers);
      this.txPosted.set(head, [address, size, bytes]);
    }
  }

  private takeTx(length: number): [address: number, size: number] {
    const index = this.freeTx.findIndex(([, size]) => size >= length);
    if (index >= 0) return this.freeTx.splice(index, 1)[0];
    const size = 64 * ceil(length / 64);
    return [this.ram.allocate(size, 4), size];
  }

  private collectTx(): number {
    const entries = this.tx.collect();
    this.txCollected += entries.length;
    for (const { id, length } of entries) {
      const posted = this.txPosted.get(id);
      if (posted === undefined) throw new Error(`tx buffer ${id} came back without having been given`);
      if (length !== 0) throw new Error(`${length} bytes were written to a tx buffer`);
      this.txPosted.delete(id);
      const [address, size, content] = posted;
      if (!content.equals(this.ram.bytes.subarray(address, address + content.length))) {
        throw new Error('the content of a tx buffer was changed');
      }
      this.freeTx.push([address, size]);
    }
    return entries.length;
  }

  private collectRx(): number {
    const entries = this.rx.collect();
    this.rxCollected += entries.length;
    for (const { id, length } of entries) {
      const buffers = this.rxPosted.get(id);
      if (buffers === undefined) throw new Error(`rx buffer ${id} came back without having been given`);
      this.rxPosted.delete(id);
      const all = Buffer.concat(
        buffers.map((buffer) => this.ram.bytes.subarray(buffer.address, buffer.address + buffer.length)),
      );
      this.freeRx.push([...buffers]);
      if (length < HEADER_SIZE || length > all.length) throw new Error(`a packet of ${length} bytes in ${all.length}`);
      this.header.bytes.set(all.subarray(0, HEADER_SIZE));
      if (this.header.len !== length - HEADER_SIZE) throw new Error('the used length and the length field differ');
      this.receive(all.subarray(HEADER_SIZE, length));
    }
    return entries.length;
  }

  private receive(payload: Buffer): void {
    const { srcCid, dstCid, srcPort, dstPort, type, op, flags, bufAlloc, fwdCnt, reservedCidBits } = this.header;
    if (srcCid !== HOST_CID || dstCid !== MODEL_CID || type !== STREAM || reservedCidBits !== 0) {
      throw new Error('a packet with a wrong address or type');
    }
    if (op !== OP_RW && payload.length > 0) throw new Error(`payload in a packet of operation ${op}`);
    if (op !== OP_SHUTDOWN && flags !== 0) throw new Error(`flags in a packet of operation ${op}`);
    const connection = this.connections.get(key(dstPort, srcPort));
    if (op === OP_REQUEST) {
      if (connection !== undefined) throw new Error('REQUEST for a connection that is there');
      this.answer(dstPort, srcPort, bufAlloc);
      return;
    }
    if (connection === undefined) throw new Error(`operation ${op} for a connection that never was`);
    // What was under way when the guest reset the connection.
    if (connection.state === 'dead') return;
    if (op === OP_RST) {
      this.receiveReset(connection);
      return;
    }
    if (fwdCnt < connection.peerTaken || fwdCnt > connection.sent) {
      if (!connection.expectsReset) throw new Error(`fwd_cnt ${fwdCnt} of ${connection.sent} bytes sent`);
    }
    connection.peerBufAlloc = bufAlloc;
    connection.peerTaken = fwdCnt;
    if (connection.state === 'requested' && op !== OP_RESPONSE) throw new Error(`operation ${op} before RESPONSE`);
    switch (op) {
      case OP_RESPONSE:
        if (connection.state !== 'requested') throw new Error('RESPONSE that nobody asked for');
        connection.state = 'established';
        return;
      case OP_RW:
        this.receiveData(connection, payload);
        return;
      case OP_SHUTDOWN:
        if (flags === 0 || (connection.heard & ~flags) !== 0)
          throw new Error(`SHUTDOWN ${flags} after ${connection.heard}`);
        connection.heard = flags;
        if (flags === BOTH && connection.unread === 0) this.forget(connection);
        return;
      case OP_CREDIT_REQUEST:
        if (connection.state === 'established') this.queue(connection, OP_CREDIT_UPDATE);
        return;
      case OP_CREDIT_UPDATE:
        return;
      default:
        throw new Error(`operation ${op}`);
    }
  }

  private answer(guestPort: number, hostPort: number, bufAlloc: number): void {
    const accepted = this.onRequest(guestPort, hostPort);
    const connection = accepted ?? new GuestConnection(guestPort, hostPort, 0, 0, 'dead');
    connection.peerBufAlloc = bufAlloc;
    this.connections.set(key(guestPort, hostPort), connection);
    this.queue(connection, accepted === undefined ? OP_RST : OP_RESPONSE);
  }

  private receiveReset(connection: GuestConnection): void {
    if (connection.state === 'established' && !connection.expectsReset) {
      throw new Error(`RST for no reason, after ${connection.received} bytes in and ${connection.sent} out`);
    }
    if (connection.state === 'requested') connection.broken = true;
    connection.state = 'dead';
  }

  private receiveData(connection: GuestConnection, payload: Buffer): void {
    if (payload.length === 0) throw new Error('RW without payload');
    if ((connection.heard & SHUTDOWN_SEND) !== 0) throw new Error('RW after SHUTDOWN(SEND)');
    checkPattern('host to guest', connection.streamIn, connection.received, payload);
    connection.received += payload.length;
    connection.packetEnds.push(connection.received);
    const held = connection.received - connection.told;
    const packets = connection.packetEnds.length;
    if (held > connection.bufAlloc) throw new Error(`${held} bytes under way, of ${connection.bufAlloc} allowed`);
    if (packets > 1 && held + packets * PACKET_OVERHEAD > connection.bufAlloc + PACKET_OVERHEAD) {
      throw new Error(`${packets} packets of ${held} bytes under way overrun a buffer of ${connection.bufAlloc}`);
    }
    // A closed socket throws away what still comes, without a word.
    if (connection.state === 'closing' || (connection.said & SHUTDOWN_RCV) !== 0)
      connection.taken = connection.received;
  }

  /** Says RST and lets the connection go. */
  private forget(connection: GuestConnection): void {
    this.queue(connection, OP_RST);
    connection.state = 'dead';
  }
}

function key(guestPort: number, hostPort: number): string {
  return `${guestPort}:${hostPort}`;
}
