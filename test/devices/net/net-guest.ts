// A guest with a network device, without a VM: plays the driver on rings in memory of its own, and the host on the other
// end of sockets that stand in for the tap (one frame a call, a header before each).

import { NetDevice, type TapControl } from '../../../src/devices/net/device.js';
import {
  NET_COUNTERS,
  VIRTIO_NET_F_CTRL_GUEST_OFFLOADS_BIT,
  VIRTIO_NET_F_CTRL_VQ_BIT,
  VIRTIO_NET_F_MQ_BIT,
  VIRTIO_NET_F_MRG_RXBUF_BIT,
} from '../../../src/devices/net/settings.js';
import type { RateLimiterSettings } from '../../../src/devices/rate-limiter.js';
import { featureWords, type DeviceState } from '../../../src/devices/virtio/device.js';
import type { QueuePosition, SplitQueue } from '../../../src/devices/virtio/queue.js';
import { EventLoop } from '../../../src/platform/event-loop.js';
import { close, libc, orErrno } from '../../../src/platform/libc.js';
import { NativeBuffer } from '../../../src/platform/native-buffer.js';
import { SOCK_SEQPACKET, socketPair } from '../../../src/platform/unix-socket.js';
import { MIB, type Fd } from '../../../src/platform/units.js';
import { CountingInterrupt, DrivenRing, TestMemory, type TestBuffer } from '../../support/driven-ring.js';

export const HEADER = 12;

export type NetCounter = (typeof NET_COUNTERS)[number];

/** The header before a frame; fields that are left out are 0. */
export interface Header {
  readonly flags?: number;
  readonly gsoType?: number;
  readonly hdrLen?: number;
  readonly gsoSize?: number;
  readonly csumStart?: number;
  readonly csumOffset?: number;
}

export function headerBytes(header: Header = {}): Buffer {
  const bytes = Buffer.alloc(HEADER);
  bytes[0] = header.flags ?? 0;
  bytes[1] = header.gsoType ?? 0;
  bytes.writeUInt16LE(header.hdrLen ?? 0, 2);
  bytes.writeUInt16LE(header.gsoSize ?? 0, 4);
  bytes.writeUInt16LE(header.csumStart ?? 0, 6);
  bytes.writeUInt16LE(header.csumOffset ?? 0, 8);
  return bytes;
}

/** A frame of `length` bytes that no other looks like. */
export function frameOf(length: number, seed = length): Buffer {
  const frame = Buffer.alloc(length);
  for (let index = 0, value = seed * 2654435761; index < length; index++) {
    value = (Math.imul(value, 1664525) + 1013904223) | 0;
    frame[index] = value >>> 24;
  }
  return frame;
}

/** The host's end of a queue of the tap. */
export class FakeTapQueue {
  readonly fd: Fd;
  private readonly peer: Fd;
  private readonly buffer = new NativeBuffer(MIB);
  private peerOpen = true;

  constructor() {
    [this.fd, this.peer] = socketPair(SOCK_SEQPACKET);
  }

  /** Sends a frame towards the guest; false when the queue is full. */
  send(frame: Uint8Array, header = headerBytes()): boolean {
    this.buffer.bytes.set(header);
    this.buffer.bytes.set(frame, HEADER);
    return orErrno(libc.write(this.peer, this.buffer.address, HEADER + frame.length)) > 0;
  }

  /** Sends bytes that need not be a frame. */
  sendRaw(bytes: Uint8Array): void {
    this.buffer.bytes.set(bytes);
    libc.write(this.peer, this.buffer.address, bytes.length);
  }

  /** The next frame of the guest with its header. */
  receive(): { readonly header: Buffer; readonly frame: Buffer } | undefined {
    const count = orErrno(libc.read(this.peer, this.buffer.address, this.buffer.byteLength));
    if (count <= 0) return undefined;
    const bytes = Buffer.from(this.buffer.bytes.subarray(0, count));
    return { header: bytes.subarray(0, HEADER), frame: bytes.subarray(HEADER) };
  }

  receiveAll(): Buffer[] {
    const frames: Buffer[] = [];
    for (let next = this.receive(); next !== undefined; next = this.receive()) frames.push(next.frame);
    return frames;
  }

  /** What becomes of a tap that somebody deletes. */
  vanish(): void {
    this.peerOpen = false;
    close(this.peer);
  }

  close(): void {
    close(this.fd);
    if (this.peerOpen) close(this.peer);
  }
}

/** What the device asks of its tap, noted. */
export class NotedTapControl implements TapControl {
  offloads: number[] = [];
  readonly attached: boolean[];
  refuse = 0;

  constructor(queues: number) {
    this.attached = new Array<boolean>(queues).fill(true);
  }

  setOffload(mask: number): number {
    if (this.refuse < 0) return this.refuse;
    this.offloads.push(mask);
    return 0;
  }

  setAttached(queue: number, attached: boolean): number {
    if (this.refuse < 0) return this.refuse;
    this.attached[queue] = attached;
    return 0;
  }
}

/** A frame as the driver finds it. */
export interface ReceivedFrame {
  readonly header: Buffer;
  readonly frame: Buffer;
  readonly buffers: number;
}

export interface NetGuestOptions {
  readonly pairs?: number;
  readonly queueSize?: number;
  /** Beyond those that `merge`, `multiQueue` and `control` stand for. */
  readonly features?: readonly number[];
  readonly merge?: boolean;
  readonly multiQueue?: boolean;
  readonly control?: boolean;
  readonly eventIdx?: boolean;
  readonly memorySize?: number;
  readonly rateLimiter?: RateLimiterSettings;
  /** The loop's clock. */
  readonly now?: () => number;
  /** Queues of a real tap, in place of the sockets; they stay the caller's. */
  readonly tap?: readonly Fd[];
}

export class NetGuest implements Disposable {
  readonly ram: TestMemory;
  readonly loop = new EventLoop();
  readonly interrupt = new CountingInterrupt();
  taps: readonly FakeTapQueue[];
  tapControl: NotedTapControl;
  device: NetDevice;
  readonly logged: string[] = [];
  readonly configWrites: { readonly offset: number; readonly bytes: Uint8Array }[] = [];
  rx: DrivenRing[] = [];
  tx: DrivenRing[] = [];
  controlRing!: DrivenRing;
  private readonly counters = new Float64Array(NET_COUNTERS.length);
  private readonly options: NetGuestOptions;
  private readonly rxBuffers: Map<number, TestBuffer[]>[] = [];
  private readonly pendingRx: { id: number; length: number }[][] = [];
  private queues: readonly SplitQueue[] = [];
  private accepted: readonly number[] = [];

  /** Activated at once. */
  constructor(options: NetGuestOptions = {}) {
    const pairs = options.tap?.length ?? options.pairs ?? 1;
    this.options = { ...options, pairs };
    if (options.now !== undefined) this.loop.now = options.now;
    this.ram = new TestMemory(options.memorySize ?? 8 * MIB);
    this.taps = this.makeTaps();
    this.tapControl = new NotedTapControl(pairs);
    this.device = this.makeDevice();
    this.activate();
  }

  private makeTaps(): FakeTapQueue[] {
    const { tap, pairs = 1 } = this.options;
    return Array.from({ length: tap === undefined ? pairs : 0 }, () => new FakeTapQueue());
  }

  private makeDevice(): NetDevice {
    const { options } = this;
    return new NetDevice(
      { kind: 'net', queues: options.tap ?? this.taps.map(({ fd }) => fd), rateLimiter: options.rateLimiter },
      {
        loop: this.loop,
        log: (level, message) => this.logged.push(`${level}: ${message}`),
        updateConfig: (offset, bytes) => this.configWrites.push({ offset, bytes }),
        counters: this.counters,
      },
      ...(options.tap === undefined ? [this.tapControl] : []),
    );
  }

  /** Pauses the machine, as a snapshot does. */
  pause(): DeviceState {
    this.device.quiesce();
    for (const queue of this.queues) queue.publish();
    return this.device.save();
  }

  /** The machine is saved, and goes on with another device and other taps over the same memory. */
  restore(): this {
    const state = JSON.parse(JSON.stringify(this.pause())) as DeviceState;
    const positions = this.queues.map(({ position }) => position);
    this.device.close();
    for (const tap of this.taps) tap.close();
    this.taps = this.makeTaps();
    this.tapControl = new NotedTapControl(this.tapControl.attached.length);
    this.device = this.makeDevice();
    this.connect(this.accepted, positions);
    this.device.restore(state);
    return this;
  }

  [Symbol.dispose](): void {
    this.device.close();
    if (this.loop.watched !== 0) throw new Error(`${this.loop.watched} descriptors are still watched`);
    this.loop.close();
    for (const tap of this.taps) tap.close();
    this.ram.release();
  }

  /** New rings, as after a reset. */
  activate(features: readonly number[] = this.options.features ?? []): void {
    const { pairs = 1, queueSize = 64, merge = true, multiQueue = pairs > 1, control = true } = this.options;
    const size = queueSize;
    this.rx = Array.from({ length: pairs }, () => new DrivenRing(this.ram, size));
    this.tx = Array.from({ length: pairs }, () => new DrivenRing(this.ram, size));
    this.controlRing = new DrivenRing(this.ram, 64);
    this.rxBuffers.length = 0;
    this.pendingRx.length = 0;
    for (let pair = 0; pair < pairs; pair++) {
      this.rxBuffers.push(new Map());
      this.pendingRx.push([]);
    }
    const accepted = [
      ...features,
      ...(merge ? [VIRTIO_NET_F_MRG_RXBUF_BIT] : []),
      ...(multiQueue ? [VIRTIO_NET_F_MQ_BIT] : []),
      ...(control ? [VIRTIO_NET_F_CTRL_VQ_BIT, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS_BIT] : []),
    ];
    this.connect(accepted);
  }

  /** The device takes the rings, from `positions` on where it was saved. */
  private connect(accepted: readonly number[], positions: readonly QueuePosition[] = []): void {
    const { pairs = 1, multiQueue = pairs > 1 } = this.options;
    const ringFeatures = { eventIdx: this.options.eventIdx ?? true, indirect: true };
    const known = multiQueue ? pairs : 1;
    const rings: DrivenRing[] = [];
    for (let pair = 0; pair < known; pair++) rings.push(this.rx[pair], this.tx[pair]);
    rings.push(this.controlRing);
    const queues = rings.map((ring, index) => ring.device(ringFeatures, positions.at(index)));
    this.queues = queues;
    this.accepted = accepted;
    this.device.activate({
      memory: this.ram.memory,
      queues,
      features: featureWords(accepted),
      interrupt: this.interrupt,
    });
  }

  counter(name: NetCounter): number {
    return this.counters[NET_COUNTERS.indexOf(name)];
  }

  /** Turns the loop until there is nothing left to do at once. */
  turn(turns = 3): this {
    for (let count = 0; count < turns; count++) this.loop.turn(0);
    return this;
  }

  /** Posts `count` receive chains whose buffers have the given lengths. */
  postRx(count: number, lengths: readonly number[] = [1536], pair = 0, alignment = 4): this {
    for (let posted = 0; posted < count; posted++) {
      const buffers = lengths.map((length) => ({
        address: this.ram.allocate(length, alignment),
        length,
        writable: true,
      }));
      const ring = this.rx[pair];
      const direct = buffers.length === 1 || ring.freeDescriptors > ring.size / 2 + buffers.length;
      this.rxBuffers[pair].set(direct ? ring.add(buffers) : ring.addIndirect(buffers), buffers);
    }
    return this;
  }

  /** The frames that have come; throws when what the device says of them does not fit together. */
  received(pair = 0): ReceivedFrame[] {
    const pending = this.pendingRx[pair];
    pending.push(...this.rx[pair].collect());
    const frames: ReceivedFrame[] = [];
    const merge = this.options.merge ?? true;
    while (pending.length > 0) {
      const first = this.content(pair, pending[0]);
      const buffers = first.readUInt16LE(10);
      if (buffers < 1 || (!merge && buffers !== 1)) throw new Error(`a frame in ${buffers} buffers`);
      if (pending.length < buffers) throw new Error(`a frame in ${buffers} buffers, and only ${pending.length} came`);
      const pieces = pending.splice(0, buffers).map((used) => this.content(pair, used));
      const whole = Buffer.concat(pieces);
      frames.push({ header: whole.subarray(0, HEADER), frame: whole.subarray(HEADER), buffers });
    }
    return frames;
  }

  /** Queues a frame; `cut` says how header and frame are spread over descriptors. */
  send(frame: Uint8Array, header: Uint8Array = headerBytes(), cut: readonly number[] = [HEADER], pair = 0): number {
    const bytes = Buffer.concat([header, frame]);
    const buffers: TestBuffer[] = [];
    for (let done = 0, part = 0; done < bytes.length; part++) {
      const length = part < cut.length ? Math.min(cut[part], bytes.length - done) : bytes.length - done;
      const address = this.ram.allocate(length, 1);
      this.ram.bytes.set(bytes.subarray(done, done + length), address);
      buffers.push({ address, length });
      done += length;
    }
    const ring = this.tx[pair];
    return buffers.length > 3 ? ring.addIndirect(buffers) : ring.add(buffers);
  }

  /** Gives a command to the control queue and returns the answer: 0 is OK, 1 an error; undefined when there is none. */
  command(...bytes: readonly number[]): number | undefined {
    const command = this.ram.allocate(Math.max(1, bytes.length));
    this.ram.bytes.set(bytes, command);
    const answer = this.ram.allocate(1);
    this.ram.bytes[answer] = 0xee;
    this.controlRing.add([
      { address: command, length: bytes.length },
      { address: answer, length: 1, writable: true },
    ]);
    this.turn();
    const [used] = this.controlRing.collect();
    return (used as { length: number } | undefined)?.length === 1 ? this.ram.bytes[answer] : undefined;
  }

  private content(pair: number, { id, length }: { id: number; length: number }): Buffer {
    const buffers = this.rxBuffers[pair].get(id) ?? [];
    const whole = Buffer.concat(
      buffers.map(({ address, length: size }) => Buffer.from(this.ram.bytes.subarray(address, address + size))),
    );
    if (length > whole.length) throw new Error(`${length} bytes written to a chain of ${whole.length}`);
    return whole.subarray(0, length);
  }
}
