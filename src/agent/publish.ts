// A port of the host that leads into the guest: to a TCP port at 127.0.0.1 there, by way of the agent, or to a vsock port. No
// tap, no root, no network in the guest but its loopback. Main thread.

import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { formatHostPort, MAX_TCP_PORT } from '../platform/net-address.js';
import { AgentError, messageOf } from './errors.js';
import type { Reach } from './reach.js';
import { splice } from './splice.js';

/** Where a published port is on the host. */
export interface PublishBase {
  /** The address of the host to listen at: 127.0.0.1 unless given. Others let other machines in. */
  readonly host?: string | undefined;
  /** 0 for one that is free. */
  readonly hostPort: number;
  /**
   * Milliseconds that a connection has to get to its place: 120,000 unless given. One that comes before the guest is ready
   * waits for it, and for somebody to listen at the guest's port.
   */
  readonly readyTimeout?: number | undefined;
  /** Hears of connections that could not be carried to the guest; their clients see a reset. */
  readonly onError?: ((error: unknown) => void) | undefined;
}

/** A port of the host that leads to a TCP port of the guest. */
export interface PublishOptions extends PublishBase {
  /** A TCP port at 127.0.0.1 in the guest, whose agent connects to it. */
  readonly guestPort: number;
}

/** A port of the host that leads to a vsock port of the guest, whatever listens there. */
export interface PublishVsockOptions extends PublishBase {
  /** The vsock port of the guest. */
  readonly vsockPort: number;
}

/** Connections that a published port carries or holds at once; others are hung up on. */
const MAX_CONNECTIONS = 1024;
const READY_LIMIT_MS = 120_000;
/** What setTimeout takes. */
const MAX_TIMEOUT_MS = 0x7fff_ffff;
const MAX_VSOCK_PORT = 0xffff_fffe;

/** A port that is published. */
export class PublishedPort {
  /** The address of the host. */
  readonly host: string;
  /** The number that was asked for, or that the kernel chose for 0. */
  readonly hostPort: number;
  /** The TCP port of the guest; undefined where it leads to vsock. */
  readonly guestPort: number | undefined;
  /** The vsock port of the guest; undefined where it leads to TCP. */
  readonly vsockPort: number | undefined;
  private readonly server: Server;
  private readonly carrier: Carrier;

  /** @internal */
  constructor(server: Server, carrier: Carrier, options: PublishOptions | PublishVsockOptions) {
    const address = server.address();
    this.server = server;
    this.carrier = carrier;
    this.host = options.host ?? LOOPBACK;
    this.hostPort = typeof address === 'object' && address !== null ? address.port : 0;
    this.guestPort = 'guestPort' in options ? options.guestPort : undefined;
    this.vsockPort = 'vsockPort' in options ? options.vsockPort : undefined;
  }

  /** Takes no more connections and ends those there are. Does nothing the second time. */
  async close(): Promise<void> {
    const closed = this.server.listening ? once(this.server, 'close') : undefined;
    this.server.close();
    this.carrier.close();
    await closed;
  }

  /** The same as `close`, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

const LOOPBACK = '127.0.0.1';

/**
 * Listens on the host; connections go where `reach` leads. Rejects with AgentError HOST_PORT, or RangeError. The server does
 * not keep the process alive. `warn` hears of connections that fail, in words for a log.
 */
export async function publishPort(
  options: PublishOptions | PublishVsockOptions,
  reach: Reach,
  warn: (message: string) => void = () => undefined,
): Promise<PublishedPort> {
  const { host = LOOPBACK, hostPort, readyTimeout = READY_LIMIT_MS, onError } = options;
  checkNumber('hostPort', hostPort, [0, MAX_TCP_PORT]);
  checkNumber('readyTimeout', readyTimeout, [1, MAX_TIMEOUT_MS]);
  if ('guestPort' in options) checkNumber('guestPort', options.guestPort, [1, MAX_TCP_PORT]);
  else checkNumber('vsockPort', options.vsockPort, [0, MAX_VSOCK_PORT]);
  const carrier = new Carrier(reach, readyTimeout, (error) => {
    warn(`a connection to ${formatHostPort(host, listeningPort(server))} was reset: ${messageOf(error)}`);
    onError?.(error);
  });
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => {
    carrier.take(socket);
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.on('drop', () => {
    warn(`a connection to ${formatHostPort(host, listeningPort(server))} was hung up on: there are ${MAX_CONNECTIONS}`);
  });
  server.unref();
  try {
    server.listen({ host, port: hostPort });
    await once(server, 'listening');
  } catch (error) {
    const mend = 'choose another host port, or 0 for a free one';
    throw new AgentError(
      'HOST_PORT',
      `port ${hostPort} of ${host} cannot be listened at: ${messageOf(error)}; ${mend}`,
      {
        side: 'host',
        cause: error,
      },
    );
  }
  // What goes wrong with accepting later, such as too few descriptors, goes wrong for that connection.
  server.on('error', (error) => {
    warn(`port ${listeningPort(server)} of ${host}: ${error.message}`);
  });
  return new PublishedPort(server, carrier, options);
}

/** The connections of one port. */
class Carrier {
  private readonly reach: Reach;
  private readonly readyTimeout: number;
  private readonly onError: (error: unknown) => void;
  private readonly sockets = new Set<Socket>();
  private readonly streams = new Set<Duplex>();
  private readonly closing = new AbortController();

  constructor(reach: Reach, readyTimeout: number, onError: (error: unknown) => void) {
    this.reach = reach;
    this.readyTimeout = readyTimeout;
    this.onError = onError;
  }

  take(socket: Socket): void {
    this.sockets.add(socket);
    socket.on('close', () => this.sockets.delete(socket));
    socket.on('error', () => undefined);
    this.carry(socket).catch((error: unknown) => {
      socket.resetAndDestroy();
      if (!this.closing.signal.aborted) this.onError(error);
    });
  }

  close(): void {
    this.closing.abort();
    for (const stream of this.streams) stream.destroy();
    for (const socket of this.sockets) socket.resetAndDestroy();
  }

  private async carry(socket: Socket): Promise<void> {
    const stop = new AbortController();
    const onClosing = (): void => {
      stop.abort();
    };
    const timer = setTimeout(onClosing, this.readyTimeout);
    timer.unref();
    this.closing.signal.addEventListener('abort', onClosing);
    try {
      const stream = await this.reach(stop.signal);
      this.streams.add(stream);
      stream.on('close', () => this.streams.delete(stream));
      splice(socket, stream);
      if (this.closing.signal.aborted) stream.destroy();
    } catch (error) {
      if (!stop.signal.aborted) throw error;
      const message = `the guest was not ready within ${this.readyTimeout} ms`;
      throw new AgentError('TIMEOUT', message, { side: 'guest', cause: error });
    } finally {
      clearTimeout(timer);
      this.closing.signal.removeEventListener('abort', onClosing);
    }
  }
}

function listeningPort(server: Server): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

function checkNumber(name: string, value: number, [least, most]: readonly [number, number]): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw new RangeError(`${name}: ${value} is not a whole number from ${least} to ${most}`);
}
