// Servers and clients of this machine for tests of what is carried to and from guests.

import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type ListenOptions, type Server, type Socket } from 'node:net';
import { finished } from 'node:stream/promises';
import type { Duplex } from 'node:stream';

/** A server at 127.0.0.1, or where `at` says, that gives each connection to `serve`. */
export class TestServer implements AsyncDisposable {
  readonly server: Server;
  private readonly sockets = new Set<Socket>();

  private constructor(serve: (socket: Socket) => void) {
    this.server = createServer({ allowHalfOpen: true }, (socket) => {
      this.sockets.add(socket);
      socket.on('close', () => this.sockets.delete(socket));
      socket.on('error', () => undefined);
      serve(socket);
    });
  }

  static async start(serve: (socket: Socket) => void, at: ListenOptions = {}): Promise<TestServer> {
    const server = new TestServer(serve);
    server.server.listen('path' in at ? at : { host: '127.0.0.1', port: 0, ...at });
    await once(server.server, 'listening');
    return server;
  }

  /** Echoes, and ends when the client has. */
  static echo(at: ListenOptions = {}): Promise<TestServer> {
    return TestServer.start((socket) => socket.pipe(socket), at);
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  /** The next connection. */
  async next(): Promise<Socket> {
    const [socket] = (await once(this.server, 'connection')) as [Socket];
    return socket;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    if (!this.server.listening) return;
    this.server.close();
    await once(this.server, 'close');
  }
}

/** A port where nobody listens at present. */
export async function freePort(): Promise<number> {
  await using server = await TestServer.echo();
  return server.port;
}

/** A connection that is not open yet; `error` events of it are for whoever waits for them. */
export function client(to: number | string, host = '127.0.0.1'): Socket {
  const socket =
    typeof to === 'string'
      ? connect({ path: to, allowHalfOpen: true })
      : connect({ port: to, host, allowHalfOpen: true });
  socket.on('error', () => undefined);
  return socket;
}

/** All up to its end; other than `buffer` of Node, leaves the other way open. */
export async function collect(stream: Duplex): Promise<Buffer> {
  const pieces: Buffer[] = [];
  stream.on('data', (piece: Buffer) => pieces.push(piece));
  stream.resume();
  await finished(stream, { writable: false });
  return Buffer.concat(pieces);
}

/** How it ends: the bytes up to its end, or the code of its error. */
export async function outcome(socket: Socket): Promise<Buffer | string> {
  try {
    return await collect(socket);
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}

/** Sends `bytes` and the end, and returns all that comes back. */
export async function exchange(to: number | string, bytes: Uint8Array): Promise<Buffer> {
  const socket = client(to);
  socket.end(bytes);
  return collect(socket);
}

/** Bytes that nothing repeats in, and their SHA-256. */
export function testBytes(count: number): { readonly bytes: Buffer; readonly sha256: string } {
  const bytes = randomBytes(count);
  return { bytes, sha256: sha256(bytes) };
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
