// A port of the host that the guest can connect to, served by this process. Main thread.

import { EventEmitter } from 'node:events';
import type { VsockStream } from './stream.js';

/** The events of a VsockServer, with what their listeners get. */
export interface VsockServerEvents {
  /** The guest has connected. With nobody to hear this the guest is refused. */
  connection: [stream: VsockStream];
  /** No more connections will come: `close` was called, or the VM has ended. */
  close: [];
  /** A connection could not be taken. Others can. */
  error: [error: Error];
}

/**
 * A port of the host that the guest connects to. Made by `vm.vsock.listen`. Also an async iterable of its connections, which
 * ends when the server closes.
 */
export class VsockServer extends EventEmitter<VsockServerEvents> implements AsyncIterable<VsockStream> {
  /** The port of CID 2 that it serves. */
  readonly port: number;
  private readonly unlisten: () => void;
  private open = true;

  /** @internal */
  constructor(port: number, unlisten: () => void) {
    super();
    this.port = port;
    this.unlisten = unlisten;
  }

  /** Whether more connections may come: not after `close` or the end of the VM. */
  get listening(): boolean {
    return this.open;
  }

  /** Takes no more connections; those there are go on. Does nothing the second time. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    this.unlisten();
    queueMicrotask(() => this.emit('close'));
  }

  /** Connections from now on. Leaving the loop closes the server, and destroys those that were not taken. */
  [Symbol.asyncIterator](): AsyncIterableIterator<VsockStream> {
    return new ConnectionIterator(this);
  }

  /** `using server = vm.vsock.listen(...)`: it is closed at the end of the block. */
  [Symbol.dispose](): void {
    this.close();
  }
}

type Next = IteratorResult<VsockStream, undefined>;

class ConnectionIterator implements AsyncIterableIterator<VsockStream> {
  private readonly server: VsockServer;
  private readonly queue: VsockStream[] = [];
  private readonly takers: ((next: Next) => void)[] = [];

  constructor(server: VsockServer) {
    this.server = server;
    server.on('connection', this.add);
    server.once('close', this.finish);
  }

  next(): Promise<Next> {
    const stream = this.queue.shift();
    if (stream !== undefined) return Promise.resolve({ done: false, value: stream });
    if (!this.server.listening) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve) => this.takers.push(resolve));
  }

  return(): Promise<Next> {
    this.server.close();
    this.finish();
    for (const stream of this.queue.splice(0)) stream.destroy();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  private readonly add = (stream: VsockStream): void => {
    const taker = this.takers.shift();
    if (taker === undefined) this.queue.push(stream);
    else taker({ done: false, value: stream });
  };

  private readonly finish = (): void => {
    this.server.off('connection', this.add);
    for (const taker of this.takers.splice(0)) taker({ done: true, value: undefined });
  };
}
