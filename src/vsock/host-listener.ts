// Host clients: accepts on the device's socket, reads `CONNECT <port>\n`, and asks the guest on their behalf.
//
// Runs in the I/O worker. The line is peeked at and only taken from the socket when it is whole: a line in pieces needs
// no buffer here, and what the client sends right behind it stays where the guest's data is read from. On a SEQPACKET
// socket the line is the first message.

import { EAGAIN, ECONNABORTED, EINTR, errnoName } from '../platform/errno.js';
import { EPOLLET, EPOLLIN } from '../platform/epoll.js';
import type { DeferredTask, EventLoop, FdHandler, Timer, TimerTask } from '../platform/event-loop.js';
import { IovecArray } from '../platform/iovec.js';
import { close } from '../platform/libc.js';
import { NativeBuffer } from '../platform/native-buffer.js';
import { SOCK_SEQPACKET, tryAccept, type SocketType } from '../platform/unix-socket.js';
import type { Fd } from '../platform/units.js';
import type { EndpointEvents } from './endpoint.js';
import { HANDSHAKE_INVALID, HANDSHAKE_LIMIT, HANDSHAKE_PARTIAL, parseHandshake } from './handshake.js';
import type { Muxer } from './muxer.js';
import { VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_TYPE_STREAM } from './packet.js';
import type { EndpointFactory, UnixEndpoint } from './unix-endpoint.js';

/** Clients accepted in one go, so that a burst of them does not hold up those that are being served. */
const ACCEPT_BATCH = 64;
const ACCEPT_RETRY_MS = 100;

// One per thread: the line of the client that is being looked at.
const line = new NativeBuffer(HANDSHAKE_LIMIT);
const lineVector = new IovecArray(1);

export interface HostListenerOptions {
  /** A listening non-blocking socket, which stays the caller's. */
  readonly fd: Fd;
  readonly type: SocketType;
  readonly open: EndpointFactory;
  readonly loop: EventLoop;
  readonly muxer: Muxer;
  readonly maxClients: number;
  readonly warn: (message: string) => void;
}

export class HostListener implements FdHandler, TimerTask, DeferredTask {
  private readonly fd: Fd;
  private readonly loop: EventLoop;
  private readonly muxer: Muxer;
  private readonly maxClients: number;
  private readonly warn: (message: string) => void;
  private readonly type: SocketType;
  private readonly open: EndpointFactory;
  private readonly handshakes = new Set<HostHandshake>();
  private retry: Timer | undefined;
  /** The last accept failed for want of something. */
  private short = false;
  private closed = false;

  constructor(options: HostListenerOptions) {
    const { fd, loop } = options;
    this.fd = fd;
    this.loop = loop;
    this.muxer = options.muxer;
    this.maxClients = options.maxClients;
    this.warn = options.warn;
    this.type = options.type;
    this.open = options.open;
    loop.watch(fd, (EPOLLIN | EPOLLET) >>> 0, this);
  }

  ready(): void {
    this.acceptSome();
  }

  run(): void {
    this.acceptSome();
  }

  timerExpired(): void {
    this.retry = undefined;
    this.acceptSome();
  }

  /** Closes the clients that have not said yet what they want. */
  dropHandshakes(): void {
    for (const handshake of this.handshakes) handshake.drop();
  }

  close(): void {
    this.closed = true;
    this.loop.cancelTimer(this.retry);
    this.dropHandshakes();
    this.loop.unwatch(this.fd);
  }

  private acceptSome(): void {
    if (this.closed || this.retry !== undefined) return;
    for (let accepted = 0; accepted < ACCEPT_BATCH; accepted++) {
      const client: number = tryAccept(this.fd);
      if (client >= 0) {
        this.short = false;
        this.welcome(client as Fd);
        continue;
      }
      if (client === -EAGAIN) return;
      if (client === -EINTR || client === -ECONNABORTED) continue;
      // EMFILE, ENFILE, ENOMEM: no event tells when there is room again.
      // Told once for each time that it begins: retries may go on for long.
      if (!this.short) this.warn(`accept: ${errnoName(-client)}; host clients wait`);
      this.short = true;
      this.retry = this.loop.setTimer(ACCEPT_RETRY_MS, this);
      return;
    }
    this.loop.defer(this);
  }

  private welcome(client: Fd): void {
    // Before the driver is up nobody could answer, and past the cap nobody shall: a defined answer beats a silent wait.
    if (!this.muxer.active || this.handshakes.size + this.muxer.connectionCount >= this.maxClients) {
      close(client);
      return;
    }
    const endpoint = this.open(client, this.type);
    const handshake = new HostHandshake(endpoint, this.type, this.muxer, this.handshakes);
    this.handshakes.add(handshake);
    handshake.begin();
  }
}

/** A client that has not said yet, or not completely, what it wants. */
class HostHandshake implements EndpointEvents {
  private readonly endpoint: UnixEndpoint;
  private readonly muxer: Muxer;
  private readonly all: Set<HostHandshake>;
  private readonly type: SocketType;

  constructor(endpoint: UnixEndpoint, type: SocketType, muxer: Muxer, all: Set<HostHandshake>) {
    this.endpoint = endpoint;
    this.type = type;
    this.muxer = muxer;
    this.all = all;
  }

  begin(): void {
    // Most clients have written their line by the time they are accepted: that saves them a turn of the loop.
    if (!this.look(false)) this.endpoint.attach(this);
  }

  endpointReadable(ended: boolean): void {
    this.look(ended);
  }

  endpointWritable(): void {
    // Nothing has been written that could have stalled.
  }

  endpointHungUp(): void {
    // Told along with `endpointReadable(true)`, which has settled it.
  }

  endpointReset(): void {
    // No socket tells this.
  }

  drop(): void {
    this.all.delete(this);
    this.endpoint.close();
  }

  /** Looks at what the client has sent so far. Returns whether that settled it. */
  private look(ended: boolean): boolean {
    lineVector.clear();
    lineVector.add(line.address, HANDSHAKE_LIMIT);
    const count = this.endpoint.peek(lineVector);
    if (count === -EAGAIN) return false;
    const request = count > 0 ? parseHandshake(line.bytes, count) : HANDSHAKE_INVALID;
    const messages = this.type === SOCK_SEQPACKET;
    if (request === HANDSHAKE_PARTIAL && !ended && !messages) return false;
    // What stands behind the line in the same message would be lost.
    if (typeof request === 'string' || (messages && request.length !== count)) {
      this.drop();
      return true;
    }
    this.all.delete(this);
    lineVector.setLength(0, request.length);
    this.endpoint.read(lineVector, 0, 1);
    const type = messages ? VIRTIO_VSOCK_TYPE_SEQPACKET : VIRTIO_VSOCK_TYPE_STREAM;
    if (!this.muxer.connectToGuest(request.port, this.endpoint, undefined, type)) this.endpoint.close();
    return true;
  }
}
