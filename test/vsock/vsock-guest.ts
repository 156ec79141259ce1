// A vsock guest without a VM: plays the driver of a VsockDevice on rings in memory of its own, and turns the loop.

import { featureWords, VIRTIO_F_VERSION_1_BIT, type DeviceState } from '../../src/devices/virtio/device.js';
import type { QueuePosition, SplitQueue } from '../../src/devices/virtio/queue.js';
import { EventLoop } from '../../src/platform/event-loop.js';
import { MIB } from '../../src/platform/units.js';
import type { Fd } from '../../src/platform/units.js';
import { VsockDevice, type VsockDeviceOptions } from '../../src/vsock/device.js';
import { HEADER_SIZE, PacketHeader, VIRTIO_VSOCK_TYPE_STREAM, VMADDR_CID_HOST } from '../../src/vsock/packet.js';
import { VIRTIO_VSOCK_F_SEQPACKET_BIT } from '../../src/vsock/settings.js';
import { CountingInterrupt, DrivenRing, TestMemory, type TestBuffer } from '../support/driven-ring.js';

export const GUEST_CID = 3;

/** A packet as the guest sees it. */
export interface Packet {
  readonly srcCid: number;
  readonly dstCid: number;
  readonly srcPort: number;
  readonly dstPort: number;
  readonly type: number;
  readonly op: number;
  readonly flags: number;
  readonly bufAlloc: number;
  readonly fwdCnt: number;
  readonly payload: Buffer;
}

export interface PacketToSend {
  readonly srcPort: number;
  readonly dstPort: number;
  readonly op: number;
  readonly flags?: number;
  readonly payload?: Uint8Array;
  readonly bufAlloc?: number;
  readonly fwdCnt?: number;
  readonly srcCid?: number;
  readonly dstCid?: number;
  readonly type?: number;
  /** What the length field says, if not the truth. */
  readonly len?: number;
}

/** How the buffers of a chain are cut: lengths of descriptors, the last one repeated until all is covered. */
export type Cut = readonly number[];

export interface GuestOptions extends Partial<VsockDeviceOptions> {
  readonly queueSize?: number;
  readonly rxBufferSize?: number;
  readonly rxCut?: Cut;
  readonly eventIdx?: boolean;
  readonly indirect?: boolean;
  readonly memorySize?: number;
  /** Whether the driver accepts VIRTIO_VSOCK_F_SEQPACKET. */
  readonly seqpacket?: boolean;
}

/** The packet level of a guest's driver: posts receive buffers, queues packets, takes what came. */
export class PacketDriver {
  readonly ram: TestMemory;
  rx: DrivenRing;
  tx: DrivenRing;
  /** Buffer space the guest claims in its packets unless a packet says otherwise. */
  bufAlloc = 256 * 1024;
  /** Whether taken receive buffers are posted again at once. */
  repost = true;
  rxBufferSize = 4096;
  rxCut: Cut | undefined;
  private readonly rxBuffers = new Map<number, TestBuffer[]>();
  private readonly txBuffers = new Map<number, { address: number; size: number }>();
  private readonly freeTx: { address: number; size: number }[] = [];

  constructor(ram: TestMemory, rx: DrivenRing, tx: DrivenRing) {
    this.ram = ram;
    this.rx = rx;
    this.tx = tx;
  }

  /** Other rings from now on; what was in the old ones is forgotten. */
  replaceRings(rx: DrivenRing, tx: DrivenRing): void {
    this.rx = rx;
    this.tx = tx;
    this.rxBuffers.clear();
    this.txBuffers.clear();
  }

  /** Posts `count` receive buffers (as many as fit by default). */
  postRx(count = Infinity, size = this.rxBufferSize): this {
    const cut = this.rxCut ?? [size];
    for (let posted = 0; posted < count; posted++) {
      const buffers: TestBuffer[] = [];
      for (let length = 0, part = 0; length < size; part++) {
        const piece = Math.min(cut[Math.min(part, cut.length - 1)], size - length);
        buffers.push({ address: 0, length: piece, writable: true });
        length += piece;
      }
      if (this.rx.freeDescriptors < buffers.length) return this;
      const placed = buffers.map((buffer) => ({ ...buffer, address: this.ram.allocate(buffer.length, 4) }));
      this.rxBuffers.set(this.rx.add(placed), placed);
    }
    return this;
  }

  /** Queues a packet; `cut` says how header and payload are spread over descriptors. */
  send(packet: PacketToSend, cut: Cut = [HEADER_SIZE, 65536]): this {
    const payload = packet.payload ?? new Uint8Array(0);
    const bytes = new Uint8Array(HEADER_SIZE + payload.length);
    const header = new PacketHeader();
    header.setAddresses(packet.srcCid ?? GUEST_CID, packet.srcPort, packet.dstCid ?? VMADDR_CID_HOST, packet.dstPort);
    header.setOperation(
      packet.type ?? VIRTIO_VSOCK_TYPE_STREAM,
      packet.op,
      packet.flags ?? 0,
      packet.len ?? payload.length,
      packet.bufAlloc ?? this.bufAlloc,
      packet.fwdCnt ?? 0,
    );
    bytes.set(header.bytes);
    bytes.set(payload, HEADER_SIZE);
    return this.sendRaw(bytes, cut);
  }

  /** Queues any bytes as a tx chain. */
  sendRaw(bytes: Uint8Array, cut: Cut = [65536]): this {
    this.reclaimTx();
    const memory = this.takeTx(bytes.length);
    this.ram.bytes.set(bytes, memory.address);
    const buffers: TestBuffer[] = [];
    for (let done = 0, part = 0; done < bytes.length; part++) {
      const length = Math.min(cut[Math.min(part, cut.length - 1)], bytes.length - done);
      buffers.push({ address: memory.address + done, length });
      done += length;
    }
    this.txBuffers.set(this.tx.add(buffers), memory);
    return this;
  }

  /** The packets delivered since the last call. */
  receive(): Packet[] {
    const taken: TestBuffer[][] = [];
    const packets = this.rx.collect().map(({ id, length }) => {
      const buffers = this.rxBuffers.get(id);
      if (buffers === undefined) throw new Error(`used buffer ${id} was never posted`);
      const bytes = Buffer.concat(
        buffers.map((buffer) => this.ram.memory.read(buffer.address, buffer.length)),
      ).subarray(0, length);
      this.rxBuffers.delete(id);
      taken.push(buffers);
      return parsePacket(bytes);
    });
    // Only now: the descriptors of what is posted again are those of what has just been read.
    if (this.repost) for (const buffers of taken) this.rxBuffers.set(this.rx.add(buffers), buffers);
    return packets;
  }

  private reclaimTx(): void {
    for (const { id } of this.tx.collect()) {
      const memory = this.txBuffers.get(id);
      if (memory !== undefined) this.freeTx.push(memory);
      this.txBuffers.delete(id);
    }
  }

  private takeTx(length: number): { address: number; size: number } {
    const index = this.freeTx.findIndex((memory) => memory.size >= length);
    if (index >= 0) return this.freeTx.splice(index, 1)[0];
    const size = Math.max(length, 256);
    return { address: this.ram.allocate(size, 4), size };
  }
}

export class VsockGuest extends PacketDriver implements Disposable {
  readonly loop: EventLoop;
  device: VsockDevice;
  readonly interrupt = new CountingInterrupt();
  event: DrivenRing;
  readonly logged: string[] = [];
  /** The device's configuration space: the guest's context id. */
  config = new Uint8Array(8);
  private readonly options: GuestOptions & { socketPath: string };
  private queues: SplitQueue[] = [];

  constructor(options: GuestOptions & { socketPath: string; listener?: Fd }) {
    const ram = new TestMemory(options.memorySize ?? 16 * MIB);
    const size = options.queueSize ?? 64;
    super(ram, new DrivenRing(ram, size), new DrivenRing(ram, size));
    this.options = options;
    this.loop = options.loop ?? new EventLoop();
    this.rxBufferSize = options.rxBufferSize ?? 4096;
    this.rxCut = options.rxCut;
    this.event = new DrivenRing(ram, 8);
    this.device = this.makeDevice(options);
  }

  private makeDevice(options: GuestOptions & { socketPath: string }): VsockDevice {
    return new VsockDevice({
      guestCid: GUEST_CID,
      log: (_level, message) => this.logged.push(message),
      writeConfig: (config) => {
        this.config = config.slice();
      },
      ...options,
      loop: this.loop,
    });
  }

  /** The driver comes up: DRIVER_OK. */
  activate(positions: readonly QueuePosition[] = []): this {
    const features = { eventIdx: this.options.eventIdx ?? true, indirect: this.options.indirect ?? true };
    this.queues = [this.rx, this.tx, this.event].map((ring, index) => ring.device(features, positions.at(index)));
    this.device.activate({
      memory: this.ram.memory,
      queues: this.queues,
      features: featureWords([
        VIRTIO_F_VERSION_1_BIT,
        ...((this.options.seqpacket ?? true) ? [VIRTIO_VSOCK_F_SEQPACKET_BIT] : []),
      ]),
      interrupt: this.interrupt,
    });
    return this;
  }

  /** Pauses the machine, as a snapshot does. */
  pause(): DeviceState {
    this.device.quiesce();
    for (const queue of this.queues) queue.publish();
    return this.device.save();
  }

  /** The machine is saved, and goes on with another device over the same memory; `changes` is what that has of its own. */
  restore(changes: Omit<GuestOptions, 'socketPath'> & { socketPath?: string } = {}): this {
    const state = this.pause();
    const positions = this.queues.map(({ position }) => position);
    this.device.close();
    this.device = this.makeDevice({ ...this.options, ...changes });
    this.activate(positions);
    this.device.restore(JSON.parse(JSON.stringify(state)) as DeviceState);
    return this;
  }

  /** After a reset of the device: the driver comes up again, with new rings. */
  restartDriver(): this {
    this.replaceRings(new DrivenRing(this.ram, this.rx.size), new DrivenRing(this.ram, this.tx.size));
    this.event = new DrivenRing(this.ram, 8);
    return this.activate().postRx();
  }

  /** Turns the loop until nothing more happens. */
  settle(): this {
    for (let idle = 0; idle < 3;) {
      const before = this.activity();
      this.loop.turn(0);
      idle = this.activity() === before ? idle + 1 : 0;
    }
    return this;
  }

  /** Turns the loop, sleeping, until `done` or `limitMs` have passed. */
  turnUntil(done: () => boolean, limitMs = 10_000): void {
    const end = this.loop.now() + limitMs;
    while (!done()) {
      if (this.loop.now() > end) throw new Error('waited in vain');
      this.loop.turn(5);
    }
  }

  /** Turns the loop until it is quiet, and returns what came. */
  exchange(): Packet[] {
    return this.settle().receive();
  }

  /** Gives back everything: the device closes, every descriptor with it. */
  close(): void {
    this.device.close();
    if (this.options.loop === undefined) this.loop.close();
    this.ram.release();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  private activity(): number {
    return this.device.counters.values.reduce((sum, value) => sum + value, this.interrupt.used);
  }
}

function parsePacket(bytes: Buffer): Packet {
  const header = new PacketHeader();
  header.bytes.set(bytes.subarray(0, HEADER_SIZE));
  if (header.len !== bytes.length - HEADER_SIZE) {
    throw new Error(`a packet of ${bytes.length} bytes says that its payload has ${header.len}`);
  }
  const { srcCid, dstCid, srcPort, dstPort, type, op, flags, bufAlloc, fwdCnt } = header;
  const payload = bytes.subarray(HEADER_SIZE);
  return { srcCid, dstCid, srcPort, dstPort, type, op, flags, bufAlloc, fwdCnt, payload };
}
