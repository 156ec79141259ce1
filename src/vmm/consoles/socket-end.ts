// A console at a listening Unix socket: one client at a time, the next ones wait in the socket's queue. Main thread.

import { EAGAIN, errnoName, SysError } from '../../platform/errno.js';
import { FdWatcher } from '../../platform/fd-watcher.js';
import { close } from '../../platform/libc.js';
import { tryAccept } from '../../platform/unix-socket.js';
import type { Fd } from '../../platform/units.js';
import { HostSocket } from '../host-socket.js';
import type { ConsoleInput, HostEnd } from './host-end.js';
import { PeerEnd } from './peer-end.js';

/** After a client could not be taken (no descriptors left), another try comes this much later. */
const ACCEPT_RETRY_MS = 1000;

export class SocketEnd implements HostEnd {
  readonly path: string;
  private readonly socket: HostSocket;
  private readonly peer: PeerEnd;
  private readonly warn: (message: string) => void;
  private listening: FdWatcher | undefined;
  private retry: NodeJS.Timeout | undefined;
  private client: Fd | undefined;

  /** Throws VmError SOCKET_IN_USE or HOST_PATH, which name `option`. */
  constructor(option: string, path: string, input: ConsoleInput, warn: (message: string) => void) {
    this.path = path;
    this.warn = warn;
    this.socket = new HostSocket(option, path);
    this.peer = new PeerEnd(input);
    this.listen();
  }

  write(bytes: Uint8Array): number {
    return this.peer.write(bytes);
  }

  whenWritable(callback: () => void): void {
    this.peer.whenWritable(callback);
  }

  close(): void {
    this.listening?.close();
    clearTimeout(this.retry);
    this.dropClient();
    this.socket.close();
  }

  private readonly listen = (): void => {
    this.listening = new FdWatcher(this.socket.fd, { readable: true }, this.accept);
  };

  private readonly accept = (): void => {
    const fd: number = tryAccept(this.socket.fd);
    if (fd === -EAGAIN) return;
    this.listening?.close();
    this.listening = undefined;
    if (fd < 0) {
      this.tryAgainLater(errnoName(-fd));
      return;
    }
    this.client = fd as Fd;
    try {
      this.peer.attach(this.client, () => {
        this.dropClient();
        this.listen();
      });
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      this.dropClient();
      this.tryAgainLater(error.code);
    }
  };

  private tryAgainLater(reason: string): void {
    this.warn(`no client can be taken at ${this.path} (${reason})`);
    this.retry = setTimeout(this.listen, ACCEPT_RETRY_MS);
    this.retry.unref();
  }

  private dropClient(): void {
    this.peer.detach();
    if (this.client !== undefined) close(this.client);
    this.client = undefined;
  }
}
