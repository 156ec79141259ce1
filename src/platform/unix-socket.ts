// Non-blocking Unix sockets, stream and sequenced-packet, through libc.

import { check, close, libc, orErrno } from './libc.js';
import { ECONNREFUSED, ENOENT, SysError } from './errno.js';
import { NativeBuffer } from './native-buffer.js';
import type { Fd } from './units.js';

const AF_UNIX = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;

export const SOCK_STREAM = 1;
export const SOCK_SEQPACKET = 5;
export type SocketType = typeof SOCK_STREAM | typeof SOCK_SEQPACKET;

export const SHUT_RD = 0;
export const SHUT_WR = 1;

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;

/** struct sockaddr_un { sa_family_t sun_family; char sun_path[108]; } */
const SUN_PATH_OFFSET = 2;
export const SUN_PATH_SIZE = 108;

/** A sockaddr_un for a filesystem path, reusable for many calls. */
export class UnixAddress {
  readonly path: string;
  readonly length: number;
  private readonly memory: NativeBuffer;

  /** Throws RangeError when the path and its NUL do not fit sun_path (108 bytes); configuration checks that first. */
  constructor(path: string) {
    const bytes = new TextEncoder().encode(path);
    if (bytes.length >= SUN_PATH_SIZE) {
      throw new RangeError(
        `socket path of ${bytes.length} bytes does not fit the ${SUN_PATH_SIZE - 1} of a Unix socket`,
      );
    }
    this.path = path;
    this.memory = new NativeBuffer(SUN_PATH_OFFSET + SUN_PATH_SIZE);
    this.memory.view.setUint16(0, AF_UNIX, true);
    this.memory.bytes.set(bytes, SUN_PATH_OFFSET);
    this.length = SUN_PATH_OFFSET + bytes.length + 1;
  }

  get address(): number {
    return this.memory.address;
  }
}

/** A new non-blocking, close-on-exec socket; or the negative errno (EMFILE, ENFILE, ENOMEM...). */
export function trySocket(type: SocketType): Fd | number {
  return orErrno(libc.socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

/** Starts connecting: 0, or the negative errno. A Unix stream socket gives EAGAIN when the backlog is full. */
export function tryConnect(fd: Fd, to: UnixAddress): number {
  return orErrno(libc.connect(fd, to.address, to.length));
}

/** Takes a connection off a listener, non-blocking and close-on-exec; or the negative errno. */
export function tryAccept(listener: Fd): Fd | number {
  return orErrno(libc.accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

/** shutdown(2): 0, or the negative errno (ENOTCONN when the peer is gone already). */
export function tryShutdown(fd: Fd, how: number): number {
  return orErrno(libc.shutdown(fd, how));
}

/**
 * Binds and listens at `path`, which must not exist yet. The caller owns the descriptor and the file. Throws SysError:
 * EADDRINUSE when the path exists.
 */
export function listenUnix(path: string, type: SocketType, backlog: number): Fd {
  const address = new UnixAddress(path);
  const fd = openSocket(type);
  try {
    check(libc.bind(fd, address.address, address.length), 'bind', path);
    check(libc.listen(fd, backlog), 'listen', path);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

function openSocket(type: SocketType): Fd {
  const fd: number = trySocket(type);
  if (fd < 0) throw new SysError('socket', -fd);
  return fd as Fd;
}

/**
 * Whether somebody listens at `path`: 'live', 'stale' (nobody accepts there: a socket file left behind, or a file of
 * another kind) or 'absent'. Throws SysError when no socket can be made to ask with.
 */
export function probeUnixSocket(path: string, type: SocketType): 'live' | 'stale' | 'absent' {
  const fd = openSocket(type);
  try {
    const result = tryConnect(fd, new UnixAddress(path));
    if (result === -ENOENT) return 'absent';
    if (result === -ECONNREFUSED) return 'stale';
    return 'live'; // connected, or EAGAIN (full backlog), or EPROTOTYPE: a process holds it.
  } finally {
    close(fd);
  }
}

const optionValue = new NativeBuffer(8);

/** Sets SO_SNDBUF; the kernel doubles and caps the value. Throws SysError. */
export function setSendBuffer(fd: Fd, bytes: number): void {
  optionValue.setU32(0, bytes);
  check(libc.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, optionValue.address, 4), 'setsockopt SO_SNDBUF');
}

/** The SO_SNDBUF that a socket has after `bytes` were asked for. Throws SysError. */
export function sendBufferGranted(type: SocketType, bytes: number): number {
  const fd = openSocket(type);
  try {
    setSendBuffer(fd, bytes);
    optionValue.setU32(4, 4);
    check(libc.getsockopt(fd, SOL_SOCKET, SO_SNDBUF, optionValue.address, optionValue.address + 4), 'getsockopt');
    return optionValue.view.getInt32(0, true);
  } finally {
    close(fd);
  }
}

const FIONREAD = 0x541b;

/** Bytes that wait to be read. Throws SysError. */
export function bytesWaiting(fd: Fd): number {
  optionValue.setU32(0, 0);
  check(libc.ioctl(fd, FIONREAD, optionValue.address), 'ioctl FIONREAD');
  return optionValue.view.getInt32(0, true);
}

/** Two connected non-blocking sockets, or nothing when there are no descriptors left. The caller owns both. */
export function trySocketPair(type: SocketType): [Fd, Fd] | undefined {
  const pair = new NativeBuffer(8);
  if (libc.socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.address) < 0) return undefined;
  return [pair.view.getInt32(0, true) as Fd, pair.view.getInt32(4, true) as Fd];
}

/** Two connected non-blocking sockets. The caller owns both. Throws SysError. */
export function socketPair(type: SocketType): [Fd, Fd] {
  const pair = new NativeBuffer(8);
  check(libc.socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.address), 'socketpair');
  return [pair.view.getInt32(0, true) as Fd, pair.view.getInt32(4, true) as Fd];
}
