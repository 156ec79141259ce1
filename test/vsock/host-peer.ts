// The host's end of vsock connections in tests: real Unix sockets, non-blocking and without Node's event loop, so that
// a test decides when what happens.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EAGAIN } from '../../src/platform/errno.js';
import { check, close, libc, orErrno } from '../../src/platform/libc.js';
import { NativeBuffer } from '../../src/platform/native-buffer.js';
import {
  listenUnix,
  SHUT_RD,
  SHUT_WR,
  SOCK_STREAM,
  tryAccept,
  tryConnect,
  tryShutdown,
  trySocket,
  UnixAddress,
  type SocketType,
} from '../../src/platform/unix-socket.js';
import type { Fd } from '../../src/platform/units.js';

const scratch = new NativeBuffer(256 * 1024);

/** A connected Unix socket. */
export class HostPeer implements Disposable {
  readonly fd: Fd;
  private open = true;

  constructor(fd: Fd) {
    this.fd = fd;
  }

  static connect(path: string, type: SocketType = SOCK_STREAM): HostPeer {
    const fd = check(trySocket(type), 'socket') as Fd;
    const result = tryConnect(fd, new UnixAddress(path));
    if (result < 0) {
      close(fd);
      throw new Error(`connect ${path}: errno ${-result}`);
    }
    return new HostPeer(fd);
  }

  /** Writes as much as goes; returns how much that was, or a negative errno. */
  write(data: Uint8Array | string): number {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    let done = 0;
    while (done < bytes.length) {
      const length = Math.min(bytes.length - done, scratch.byteLength);
      scratch.bytes.set(bytes.subarray(done, done + length));
      const result = orErrno(libc.write(this.fd, scratch.address, length));
      if (result < 0) return done > 0 ? done : result;
      done += result;
      if (result < length) break;
    }
    return done;
  }

  /** Sends `text` as one message, which may be empty. */
  writeMessage(text: string): number {
    scratch.bytes.set(Buffer.from(text));
    return orErrno(libc.send(this.fd, scratch.address, text.length, 0));
  }

  /** What is there, up to `limit` bytes: data, 'eof', or undefined for nothing yet. Throws on any error but EAGAIN. */
  readOnce(limit = scratch.byteLength): Buffer | 'eof' | undefined {
    const result = orErrno(libc.read(this.fd, scratch.address, Math.min(limit, scratch.byteLength)));
    if (result === -EAGAIN) return undefined;
    if (result < 0) throw new Error(`read: errno ${-result}`);
    return result === 0 ? 'eof' : Buffer.from(scratch.bytes.subarray(0, result));
  }

  /** All the data that is there now. */
  read(): Buffer {
    const parts: Buffer[] = [];
    for (let part = this.readOnce(); part instanceof Buffer; part = this.readOnce()) parts.push(part);
    return Buffer.concat(parts);
  }

  /** Data as text, and whether the end came. */
  readAll(): { text: string; ended: boolean } {
    const parts: Buffer[] = [];
    let part = this.readOnce();
    for (; part instanceof Buffer; part = this.readOnce()) parts.push(part);
    return { text: Buffer.concat(parts).toString(), ended: part === 'eof' };
  }

  get ended(): boolean {
    try {
      return this.readOnce() === 'eof';
    } catch {
      return true; // ECONNRESET: the device closed with something of ours unread.
    }
  }

  shutdownWrite(): void {
    tryShutdown(this.fd, SHUT_WR);
  }

  shutdownRead(): void {
    tryShutdown(this.fd, SHUT_RD);
  }

  close(): void {
    if (this.open) close(this.fd);
    this.open = false;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A listening Unix socket. */
export class HostServer implements Disposable {
  readonly fd: Fd;

  constructor(path: string, backlog = 16, type: SocketType = SOCK_STREAM) {
    this.fd = listenUnix(path, type, backlog);
  }

  accept(): HostPeer | undefined {
    const fd = tryAccept(this.fd);
    return fd < 0 ? undefined : new HostPeer(fd as Fd);
  }

  close(): void {
    close(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A directory for sockets, removed at the end. */
export class SocketDirectory implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'tsvmm-vsock-'));

  /** A path in it. */
  at(name: string): string {
    return join(this.path, name);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}
