// What most vsock tests begin with: a guest, a socket directory, an open connection.

import { SOCK_SEQPACKET, SOCK_STREAM, listenUnix, type SocketType } from '../../src/platform/unix-socket.js';
import { close } from '../../src/platform/libc.js';
import { EventLoop } from '../../src/platform/event-loop.js';
import type { Timer, TimerTask } from '../../src/platform/event-loop.js';
import {
  VIRTIO_VSOCK_OP_CREDIT_REQUEST,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
  VIRTIO_VSOCK_TYPE_STREAM,
} from '../../src/vsock/packet.js';
import { HostPeer, HostServer, SocketDirectory } from './host-peer.js';
import {
  PacketDriver,
  VsockGuest,
  type Cut,
  type GuestOptions,
  type Packet,
  type PacketToSend,
} from './vsock-guest.js';

export const OP = {
  REQUEST: VIRTIO_VSOCK_OP_REQUEST,
  RESPONSE: VIRTIO_VSOCK_OP_RESPONSE,
  RST: VIRTIO_VSOCK_OP_RST,
  SHUTDOWN: VIRTIO_VSOCK_OP_SHUTDOWN,
  RW: VIRTIO_VSOCK_OP_RW,
  CREDIT_UPDATE: VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  CREDIT_REQUEST: VIRTIO_VSOCK_OP_CREDIT_REQUEST,
} as const;

export const RCV = 1;
export const SEND = 2;
export const BOTH = 3;

/** The operations of packets, by name. */
export function ops(packets: readonly Packet[]): string[] {
  const names = new Map<number, string>(Object.entries(OP).map(([name, op]) => [op, name]));
  return packets.map((packet) => names.get(packet.op) ?? `op ${packet.op}`);
}

/** The payload of packets, joined. */
export function payload(packets: readonly Packet[]): Buffer {
  return Buffer.concat(packets.map((packet) => packet.payload));
}

/** One side of a connection: what the guest needs to say something on it. */
export class GuestEnd {
  readonly guestPort: number;
  readonly hostPort: number;
  /** What the guest has taken: goes out as fwd_cnt. */
  fwdCnt = 0;
  private readonly guest: PacketDriver;
  private readonly type: number;

  constructor(guest: PacketDriver, guestPort: number, hostPort: number, type = VIRTIO_VSOCK_TYPE_STREAM) {
    this.guest = guest;
    this.type = type;
    this.guestPort = guestPort;
    this.hostPort = hostPort;
  }

  send(op: number, more: Partial<PacketToSend> = {}, cut?: Cut): this {
    const { guestPort, hostPort, fwdCnt, type } = this;
    this.guest.send({ srcPort: guestPort, dstPort: hostPort, op, fwdCnt, type, ...more }, cut);
    return this;
  }

  write(data: Uint8Array | string, cut?: Cut): this {
    return this.send(OP.RW, { payload: Buffer.from(data) }, cut);
  }

  /** Takes what has come: its payload, which counts as forwarded; credit is told with the next packet. */
  take(packets: readonly Packet[]): Buffer {
    const mine = packets.filter((packet) => packet.dstPort === this.guestPort && packet.srcPort === this.hostPort);
    const bytes = payload(mine);
    this.fwdCnt = (this.fwdCnt + bytes.length) % 0x1_0000_0000;
    return bytes;
  }

  tellCredit(): this {
    return this.send(OP.CREDIT_UPDATE);
  }
}

/** A loop whose clock a test moves by hand: timers expire when it says so. */
export class ManualLoop extends EventLoop {
  private offset = 0;

  override now(): number {
    return super.now() + this.offset;
  }

  override setTimer(milliseconds: number, task: TimerTask): Timer {
    return super.setTimer(milliseconds, task);
  }

  /** Lets `milliseconds` pass, and what is due expire. */
  advance(milliseconds: number): void {
    this.offset += milliseconds;
    this.turn(0);
  }
}

/** A guest whose driver is up, with its sockets in a directory of its own. */
export class Scenario implements Disposable {
  readonly directory = new SocketDirectory();
  readonly socketPath = this.directory.at('v');
  readonly loop: ManualLoop;
  readonly guest: VsockGuest;
  private readonly owned: Disposable[] = [];

  constructor(options: GuestOptions & { readonly start?: 'active' | 'inactive' } = {}) {
    const listener = listenUnix(this.socketPath, SOCK_STREAM, 64);
    const seqpacketListener = listenUnix(`${this.socketPath}.seqpacket`, SOCK_SEQPACKET, 64);
    this.owned.push({ [Symbol.dispose]: () => close(listener) }, { [Symbol.dispose]: () => close(seqpacketListener) });
    this.loop = new ManualLoop();
    this.guest = new VsockGuest({
      ...options,
      socketPath: this.socketPath,
      listener,
      seqpacketListener,
      loop: this.loop,
    });
    if (options.start !== 'inactive') this.guest.activate().postRx();
  }

  /** Closes `resource` at the end, unless the test did. */
  own<T extends Disposable>(resource: T): T {
    this.owned.push(resource);
    return resource;
  }

  /** A host client that has not said anything. */
  client(type: SocketType = SOCK_STREAM): HostPeer {
    const path = type === SOCK_STREAM ? this.socketPath : `${this.socketPath}.seqpacket`;
    return this.own(HostPeer.connect(path, type));
  }

  /** A listener for connections of the guest to `port`. */
  serve(port: number, backlog?: number, type?: SocketType): HostServer {
    return this.own(new HostServer(`${this.socketPath}_${port}`, backlog, type));
  }

  /** A host client asks for `port`, and the guest accepts. */
  openFromHost(port: number, said = `CONNECT ${port}\n`): { client: HostPeer; end: GuestEnd; ok: string } {
    const client = this.client();
    client.write(said);
    const [request] = this.guest.exchange();
    const end = new GuestEnd(this.guest, port, request.srcPort);
    end.send(OP.RESPONSE);
    this.guest.settle();
    return { client, end, ok: client.readOnce(`OK ${request.srcPort}\n`.length)?.toString() ?? '' };
  }

  /** The guest asks for `port` from `guestPort`, and a host server accepts. */
  openFromGuest(
    port: number,
    guestPort = 50_000,
    server = this.serve(port),
  ): { peer: HostPeer; end: GuestEnd; answer: Packet[] } {
    const end = new GuestEnd(this.guest, guestPort, port);
    end.send(OP.REQUEST);
    const answer = this.guest.exchange();
    const peer = server.accept();
    if (peer === undefined) throw new Error('the guest did not arrive at the host');
    return { peer: this.own(peer), end, answer };
  }

  /**
   * The guest sends, within its credit, until the host's socket has taken all it can and some waits in the device,
   * however large a socket is here. Returns everything that was sent.
   */
  fillHost(end: GuestEnd): Buffer {
    const { guest } = this;
    const stalls = (): number => guest.device.counters.snapshot().writeStalls;
    const before = stalls();
    const sent: Buffer[] = [];
    let total = 0;
    let known = 0;
    let bufAlloc = 0;
    end.send(OP.CREDIT_REQUEST);
    while (stalls() === before) {
      for (const packet of guest.exchange()) {
        if (packet.dstPort !== end.guestPort) continue;
        known = packet.fwdCnt;
        bufAlloc = packet.bufAlloc;
      }
      const data = Buffer.alloc(Math.min(30_000, bufAlloc - (total - known)), sent.length + 1);
      if (data.length === 0) throw new Error('the guest ran out of credit although the host takes what it is sent');
      end.write(data);
      sent.push(data);
      total += data.length;
      guest.settle();
    }
    return Buffer.concat(sent);
  }

  [Symbol.dispose](): void {
    this.guest.close();
    for (const resource of this.owned) resource[Symbol.dispose]();
    this.loop.close();
    this.directory[Symbol.dispose]();
  }
}
