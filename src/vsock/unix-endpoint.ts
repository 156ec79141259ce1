// A Unix socket as the host side of a connection, and as the place where connections of the guest go. Streams; what is
// different about messages is seqpacket-endpoint.ts.
//
// Runs in the I/O worker. A socket is registered with epoll once, edge-triggered, for as long as it lives; room for
// writing is only watched while a write has stalled, since every read of the peer would wake the loop otherwise.

import { EAGAIN } from '../platform/errno.js';
import { EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP } from '../platform/epoll.js';
import type { EventLoop, FdHandler, Timer, TimerTask } from '../platform/event-loop.js';
import type { IovecArray } from '../platform/iovec.js';
import { close, libc, orErrno } from '../platform/libc.js';
import { NativeBuffer } from '../platform/native-buffer.js';
import {
  setSendBuffer,
  SHUT_RD,
  SHUT_WR,
  SOCK_SEQPACKET,
  SOCK_STREAM,
  tryConnect,
  tryShutdown,
  trySocket,
  UnixAddress,
  type SocketType,
} from '../platform/unix-socket.js';
import { KIB, type Fd } from '../platform/units.js';
import type { Backend, ConnectOutcome, EndpointEvents, PendingConnect, StreamEndpoint } from './endpoint.js';
import { VIRTIO_VSOCK_TYPE_SEQPACKET } from './packet.js';

const READ_EVENTS = (EPOLLIN | EPOLLRDHUP | EPOLLET) >>> 0;
const WRITE_EVENTS = (READ_EVENTS | EPOLLOUT) >>> 0;

/**
 * What the host may leave unread before writes stall: the more there is on its way, the seldomer host, worker and guest
 * wait for each other. The kernel doubles it, and caps it at net.core.wmem_max without a complaint.
 */
export const SEND_BUFFER = 512 * KIB;

/** struct msghdr, of which only msg_iov (at 16) and msg_iovlen (at 24) are used. */
export const MSGHDR_SIZE = 56;
export const MSG_IOV_OFFSET = 16;
export const MSG_IOVLEN_OFFSET = 24;
const MSG_PEEK = 2;

// One per thread, as is everything below: the answer to a client, and the scratch for a peek.
const answer = new NativeBuffer(32);
const peekHeader = new NativeBuffer(MSGHDR_SIZE);
const encoder = new TextEncoder();

export class UnixEndpoint implements StreamEndpoint, FdHandler {
  protected readonly fd: Fd;
  private readonly loop: EventLoop;
  private events: EndpointEvents | undefined;
  private watched = false;
  private closed = false;

  /** Takes over `fd`, a connected non-blocking socket. */
  constructor(fd: Fd, loop: EventLoop, sendBuffer = SEND_BUFFER) {
    this.fd = fd;
    this.loop = loop;
    setSendBuffer(fd, sendBuffer);
  }

  attach(events: EndpointEvents): void {
    const before = this.events;
    this.events = events;
    if (!this.watched) {
      this.watched = true;
      this.loop.watch(this.fd, READ_EVENTS, this);
    } else if (before !== undefined) {
      // Edges that went to the one before may concern this one: a change of the watch tells the state anew.
      this.loop.rewatch(this.fd, READ_EVENTS);
    }
  }

  accepted(localPort: number): number {
    const line = encoder.encodeInto(`OK ${localPort}\n`, answer.bytes).written;
    const result = orErrno(libc.write(this.fd, answer.address, line));
    // A client that has not read a byte yet has room for a line, unless something is wrong with it.
    return result < 0 || result === line ? result : -EAGAIN;
  }

  read(target: IovecArray, first: number, count: number): number {
    return orErrno(libc.readv(this.fd, target.entryAddress(first), count));
  }

  write(source: IovecArray, first: number, count: number): number {
    return orErrno(libc.writev(this.fd, source.entryAddress(first), count));
  }

  /** Copies up to what the one entry of `target` takes without taking it from the socket. */
  peek(target: IovecArray): number {
    peekHeader.setU64(MSG_IOV_OFFSET, target.address);
    peekHeader.setU64(MSG_IOVLEN_OFFSET, target.count);
    return orErrno(libc.recvmsg(this.fd, peekHeader.address, MSG_PEEK));
  }

  watchWritable(watch: boolean): void {
    this.loop.rewatch(this.fd, watch ? WRITE_EVENTS : READ_EVENTS);
  }

  shutdownWrite(): void {
    // Fails only when the peer is gone, which is told by an event.
    tryShutdown(this.fd, SHUT_WR);
  }

  shutdownRead(): void {
    tryShutdown(this.fd, SHUT_RD);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.events = undefined;
    this.loop.unwatch(this.fd);
    close(this.fd);
  }

  /** Whether epoll's `events` say that the peer has sent all it will. */
  protected static tellsEnd(events: number): boolean {
    return (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) !== 0;
  }

  ready(events: number): void {
    const ended = UnixEndpoint.tellsEnd(events);
    if (ended || (events & EPOLLIN) !== 0) this.events?.endpointReadable(ended);
    // Each of these may have closed the endpoint, which takes `events` away.
    if ((events & (EPOLLHUP | EPOLLERR)) !== 0) this.events?.endpointHungUp();
    if ((events & EPOLLOUT) !== 0) this.events?.endpointWritable();
  }
}

/** Makes a connected socket of a SOCK_ type the host side of a connection. */
export type EndpointFactory = (fd: Fd, type: SocketType) => UnixEndpoint;

/** Within the guest's own connect timeout of 2 s, leaving time for the answer to arrive. */
const CONNECT_TIMEOUT_MS = 1800;
const CONNECT_RETRY_MS = 10;

/** Connections of the guest to port P go to the Unix socket `<prefix>_P`. */
export class UnixBackend implements Backend {
  readonly carriesMessages = true;
  private readonly prefix: string;
  private readonly loop: EventLoop;
  private readonly open: EndpointFactory;

  constructor(prefix: string, loop: EventLoop, open: EndpointFactory) {
    this.prefix = prefix;
    this.loop = loop;
    this.open = open;
  }

  connect(port: number, outcome: ConnectOutcome, _guestPort: number, type: number): PendingConnect | undefined {
    // A listener of the other type makes connect(2) fail with EPROTOTYPE, which refuses the guest as no listener does.
    const socketType = type === VIRTIO_VSOCK_TYPE_SEQPACKET ? SOCK_SEQPACKET : SOCK_STREAM;
    const fd = trySocket(socketType);
    if (fd < 0) {
      outcome.refused();
      return undefined;
    }
    const address = new UnixAddress(`${this.prefix}_${port}`);
    const attempt = new UnixConnect(fd as Fd, address, this.loop, {
      connected: () => {
        outcome.connected(this.open(fd as Fd, socketType));
      },
      refused: () => {
        outcome.refused();
      },
    });
    return attempt.start() ? undefined : attempt;
  }
}

/** `connected`: the socket passes to whoever is told. */
interface SocketOutcome {
  connected(): void;
  refused(): void;
}

/** A connect to a listener whose backlog is full: there is no event for room in it, so it is tried again and again. */
class UnixConnect implements PendingConnect, TimerTask {
  private readonly fd: Fd;
  private readonly address: UnixAddress;
  private readonly loop: EventLoop;
  private readonly outcome: SocketOutcome;
  private readonly deadline: number;
  private timer: Timer | undefined;

  constructor(fd: Fd, address: UnixAddress, loop: EventLoop, outcome: SocketOutcome) {
    this.fd = fd;
    this.address = address;
    this.loop = loop;
    this.outcome = outcome;
    this.deadline = loop.now() + CONNECT_TIMEOUT_MS;
  }

  /** Tries once; whether that settled it. */
  start(): boolean {
    const result = tryConnect(this.fd, this.address);
    if (result >= 0) {
      this.outcome.connected();
      return true;
    }
    if (result !== -EAGAIN || this.loop.now() >= this.deadline) {
      close(this.fd);
      this.outcome.refused();
      return true;
    }
    this.timer = this.loop.setTimer(CONNECT_RETRY_MS, this);
    return false;
  }

  timerExpired(): void {
    this.start();
  }

  cancel(): void {
    this.loop.cancelTimer(this.timer);
    close(this.fd);
  }
}
