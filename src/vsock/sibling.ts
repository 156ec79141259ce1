// Connections of the guest to another guest: through the socket of that guest's monitor, whichever monitor it is, or
// straight to the I/O worker of a VM in this process.
//
// Runs in the I/O worker. The other side is asked with `CONNECT <port>\n` and answers `OK <port>\n`; what follows belongs
// to the guests. A VM in this process is given one end of a socket pair instead and is told the rest by message: it
// answers the same line, and its guest sees the CID of the one that calls instead of the host's.
//
// Neither worker ever waits for the other: each has its own credit towards its guest, and a full socket stops only the
// connection that it carries.

import { EAGAIN } from '../platform/errno.js';
import type { EventLoop, Timer, TimerTask } from '../platform/event-loop.js';
import { IovecArray } from '../platform/iovec.js';
import { libc, orErrno } from '../platform/libc.js';
import { NativeBuffer } from '../platform/native-buffer.js';
import { SOCK_STREAM, tryConnect, trySocket, trySocketPair, UnixAddress } from '../platform/unix-socket.js';
import type { Fd } from '../platform/units.js';
import type { Backend, ConnectOutcome, EndpointEvents, PendingConnect } from './endpoint.js';
import { ANSWER_LIMIT, HANDSHAKE_INVALID, HANDSHAKE_PARTIAL, parseAnswer } from './handshake.js';
import { UnixEndpoint } from './unix-endpoint.js';

/** Within the guest's own connect timeout of 2 s, leaving time for the answer to arrive. */
const CONNECT_TIMEOUT_MS = 1800;
const CONNECT_RETRY_MS = 10;

// One per thread: the line that is being written or looked at.
const line = new NativeBuffer(ANSWER_LIMIT);
const lineVector = new IovecArray(1);
const encoder = new TextEncoder();

/** Where another guest is reached. */
export interface PeerSocket {
  readonly cid: number;
  readonly socket: string;
}

/** One other guest. */
export class SiblingBackend implements Backend {
  /** The socket of its monitor, if it has one. */
  socket: string | undefined;
  /** It is in this process now. */
  direct = false;
  private readonly loop: EventLoop;
  private readonly join: (fd: Fd, port: number, guestPort: number) => void;

  /** `join` hands the other end of a connection to a sibling in this process. */
  constructor(loop: EventLoop, join: (fd: Fd, port: number, guestPort: number) => void) {
    this.loop = loop;
    this.join = join;
  }

  connect(port: number, outcome: ConnectOutcome, guestPort: number): PendingConnect | undefined {
    if (this.direct) {
      const pair = trySocketPair(SOCK_STREAM);
      if (pair !== undefined) {
        this.join(pair[1], port, guestPort);
        return new SiblingConnect(pair[0], this.loop, outcome).awaitAnswer();
      }
    } else if (this.socket !== undefined) {
      const fd = trySocket(SOCK_STREAM);
      if (fd >= 0) return new SiblingConnect(fd as Fd, this.loop, outcome).call(new UnixAddress(this.socket), port);
    }
    outcome.refused();
    return undefined;
  }
}

/** A connection on its way to the other guest: connecting, or waiting for `OK`. */
class SiblingConnect implements PendingConnect, TimerTask, EndpointEvents {
  private readonly fd: Fd;
  private readonly loop: EventLoop;
  private readonly outcome: ConnectOutcome;
  private readonly endpoint: UnixEndpoint;
  private readonly deadline: number;
  private timer: Timer | undefined;
  private target: { readonly address: UnixAddress; readonly port: number } | undefined;

  constructor(fd: Fd, loop: EventLoop, outcome: ConnectOutcome) {
    this.fd = fd;
    this.loop = loop;
    this.outcome = outcome;
    this.endpoint = new UnixEndpoint(fd, loop);
    this.deadline = loop.now() + CONNECT_TIMEOUT_MS;
  }

  /** Calls the monitor that listens at `address`. `undefined` when it was settled at once. */
  call(address: UnixAddress, port: number): PendingConnect | undefined {
    this.target = { address, port };
    return this.tryCall() ? undefined : this;
  }

  /** The other side was called already. */
  awaitAnswer(): PendingConnect {
    this.timer = this.loop.setTimer(Math.max(0, this.deadline - this.loop.now()), this);
    this.endpoint.attach(this);
    return this;
  }

  timerExpired(): void {
    this.timer = undefined;
    // Between two calls there is a target still; afterwards the answer is what did not come in time.
    if (this.target === undefined) this.refuse();
    else this.tryCall();
  }

  cancel(): void {
    this.loop.cancelTimer(this.timer);
    this.endpoint.close();
  }

  endpointReadable(ended: boolean): void {
    lineVector.clear();
    lineVector.add(line.address, ANSWER_LIMIT);
    const count = this.endpoint.peek(lineVector);
    if (count === -EAGAIN) return;
    const length = count > 0 ? parseAnswer(line.bytes, count) : HANDSHAKE_INVALID;
    if (length === HANDSHAKE_PARTIAL && !ended) return;
    if (typeof length === 'string') {
      this.refuse();
      return;
    }
    // Only the line: what follows stays in the socket, where the guest's data is read from.
    lineVector.setLength(0, length);
    this.endpoint.read(lineVector, 0, 1);
    this.loop.cancelTimer(this.timer);
    this.outcome.connected(this.endpoint);
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

  /** Returns whether that settled it. */
  private tryCall(): boolean {
    const { target } = this;
    if (target === undefined) return true;
    const result = tryConnect(this.fd, target.address);
    if (result === -EAGAIN && this.loop.now() < this.deadline) {
      // A full backlog, which no event tells the end of.
      this.timer = this.loop.setTimer(CONNECT_RETRY_MS, this);
      return false;
    }
    this.target = undefined;
    const request = encoder.encodeInto(`CONNECT ${target.port}\n`, line.bytes).written;
    // A fresh socket has room for a line.
    if (result < 0 || orErrno(libc.write(this.fd, line.address, request)) !== request) {
      this.refuse();
      return true;
    }
    this.awaitAnswer();
    return false;
  }

  private refuse(): void {
    this.cancel();
    this.outcome.refused();
  }
}
