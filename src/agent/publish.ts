// A TCP port of the host that leads to one inside the guest: the agent connects to 127.0.0.1 there. Main thread. No tap, no
// root, no network in the guest but its loopback.

import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { AgentError } from './errors.js';
import { FRAME, words } from './protocol.js';
import { AgentSession } from './session.js';
import type { AgentTransport } from './transport.js';

/** Which port of the host leads where. */
export interface PublishOptions {
  /** The address of the host to listen at: 127.0.0.1 unless given. */
  readonly host?: string;
  /** The TCP port of the host, 0 to 65535; 0 for one that is free. */
  readonly hostPort: number;
  /** The TCP port of 127.0.0.1 in the guest, 1 to 65535. Nobody has to listen there yet. */
  readonly guestPort: number;
  /** Hears of connections that could not be carried to the guest; their clients see a reset. */
  readonly onError?: (error: unknown) => void;
}

/** A port that is published. Made by `agent.publish`. Does not keep the process alive. */
export class PublishedPort {
  /** The address of the host that it listens at. */
  readonly host: string;
  /** The port of the host, chosen if 0 was asked for. */
  readonly hostPort: number;
  /** The port in the guest. */
  readonly guestPort: number;
  private readonly server: Server;
  private readonly sockets: ReadonlySet<Socket>;

  /** @internal */
  constructor(server: Server, sockets: ReadonlySet<Socket>, { host = '127.0.0.1', guestPort }: PublishOptions) {
    const address = server.address();
    this.server = server;
    this.sockets = sockets;
    this.host = host;
    this.hostPort = typeof address === 'object' && address !== null ? address.port : 0;
    this.guestPort = guestPort;
  }

  /** Takes no more connections and ends those there are. Does nothing the second time. */
  async close(): Promise<void> {
    const closed = this.server.listening ? once(this.server, 'close') : undefined;
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }

  /** `await using port = await vm.agent.publish(...)`: it is closed at the end of the block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Listens on the host. Rejects with AgentError HOST_PORT. The server does not keep the process alive. */
export async function publishPort(
  transport: AgentTransport,
  port: number,
  options: PublishOptions,
): Promise<PublishedPort> {
  const { host = '127.0.0.1', hostPort, guestPort, onError = () => undefined } = options;
  checkPort('hostPort', hostPort, 0);
  checkPort('guestPort', guestPort, 1);
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    carry(transport, port, { socket, guestPort }).catch((error: unknown) => {
      socket.resetAndDestroy();
      onError(error);
    });
  });
  server.unref();
  try {
    server.listen({ host, port: hostPort });
    await once(server, 'listening');
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const mend = 'choose another hostPort, or 0 for a free one';
    throw new AgentError('HOST_PORT', `port ${hostPort} of ${host} cannot be listened at: ${why}; ${mend}`, {
      side: 'host',
      cause: error,
    });
  }
  return new PublishedPort(server, sockets, options);
}

async function carry(
  transport: AgentTransport,
  port: number,
  { socket, guestPort }: { readonly socket: Socket; readonly guestPort: number },
): Promise<void> {
  const session = await AgentSession.open(transport, port);
  try {
    session.send(FRAME.FORWARD, words(guestPort));
    await session.expect(FRAME.CONNECTED);
  } catch (error) {
    session.destroy();
    throw error;
  }
  join(socket, session.release());
}

/** Each carries the other's bytes and its end; when one breaks, so does the other. */
function join(socket: Socket, stream: Duplex): void {
  if (socket.destroyed) {
    stream.destroy();
    return;
  }
  socket.on('close', () => {
    if (!stream.writableFinished || !stream.readableEnded) stream.destroy();
  });
  stream.on('close', () => {
    if (!socket.writableFinished || !socket.readableEnded) socket.resetAndDestroy();
  });
  socket.pipe(stream);
  stream.pipe(socket);
}

function checkPort(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least && value <= 65_535) return;
  throw new RangeError(`${name}: ${value} is not a TCP port from ${least} to 65535`);
}
