// The C library, bound once per thread through koffi. Nothing else in the project calls koffi, except the file
// beside this one that watches a descriptor on Node's own event loop (fd-watcher.ts).
//
// Every pointer is passed as a Number: addresses have 47 bits on x86-64, so they are exact, and koffi turns a Number
// into a register without allocating. A call returns what the C function returns; `lastErrno()` must be read before
// anything else is called. Two forms are offered on top: `check` throws a SysError, for set-up paths, and the `try…`
// functions return a negative errno, for hot paths, where an exception per EAGAIN would cost more than the call.
//
// SIGPIPE: Node sets it to SIG_IGN for the whole process before any JavaScript runs, so a write to a closed socket
// gives EPIPE here and never a signal.

import koffi from 'koffi';
import { EBADF, SysError } from './errno.js';
import type { Fd, HostAddress, ThreadId } from './units.js';

const library = koffi.load(null);

// koffi types every function as `any`; the one cast to a concrete type is made here.
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- the caller names the function's type
function bind<F extends (...args: never[]) => unknown>(definition: string): F {
  return library.func(definition) as unknown as F;
}

type N = number;

/** Raw bindings, one per C function. Pointers and sizes are Numbers. */
export const libc = {
  open: bind<(path: string, flags: N, mode: N) => N>('int open(const char *, int, int)'),
  close: bind<(fd: N) => N>('int close(int)'),
  dup: bind<(fd: N) => N>('int dup(int)'),
  read: bind<(fd: N, buffer: N, count: N) => N>('long read(int, size_t, size_t)'),
  write: bind<(fd: N, buffer: N, count: N) => N>('long write(int, size_t, size_t)'),
  /** For bytes outside any JavaScript view, and for pieces where making a subarray would cost more than the copy. */
  memcpy: bind<(target: N, source: N, count: N) => void>('void memcpy(size_t, size_t, size_t)'),
  readv: bind<(fd: N, iov: N, count: N) => N>('long readv(int, size_t, int)'),
  writev: bind<(fd: N, iov: N, count: N) => N>('long writev(int, size_t, int)'),
  memset: bind<(target: N, byte: N, count: N) => void>('void memset(size_t, int, size_t)'),
  pread: bind<(fd: N, buffer: N, count: N, offset: N) => N>('long pread(int, size_t, size_t, long)'),
  pwrite: bind<(fd: N, buffer: N, count: N, offset: N) => N>('long pwrite(int, size_t, size_t, long)'),
  preadv: bind<(fd: N, iov: N, count: N, offset: N) => N>('long preadv(int, size_t, int, long)'),
  pwritev: bind<(fd: N, iov: N, count: N, offset: N) => N>('long pwritev(int, size_t, int, long)'),
  fdatasync: bind<(fd: N) => N>('int fdatasync(int)'),
  fcntl: bind<(fd: N, command: N, argument: N) => N>('int fcntl(int, int, size_t)'),
  lseek: bind<(fd: N, offset: N, whence: N) => N>('long lseek(int, long, int)'),
  flock: bind<(fd: N, operation: N) => N>('int flock(int, int)'),
  ftruncate: bind<(fd: N, length: N) => N>('int ftruncate(int, long)'),
  ioctl: bind<(fd: N, request: N, argument: N) => N>('int ioctl(int, unsigned long, size_t)'),
  // For KVM_RUN alone, which comes a hundred thousand times a second: 32-bit arguments convert a little faster.
  ioctlInt: bind<(fd: N, request: N, argument: N) => N>('int ioctl(int, int, int)'),
  mmap: bind<(address: N, length: N, protection: N, flags: N, fd: N, offset: N) => N>(
    'size_t mmap(size_t, size_t, int, int, int, long)',
  ),
  munmap: bind<(address: N, length: N) => N>('int munmap(size_t, size_t)'),
  madvise: bind<(address: N, length: N, advice: N) => N>('int madvise(size_t, size_t, int)'),
  fallocate: bind<(fd: N, mode: N, offset: N, length: N) => N>('int fallocate(int, int, long, long)'),
  memfd_create: bind<(name: string, flags: N) => N>('int memfd_create(const char *, unsigned int)'),
  eventfd: bind<(initial: N, flags: N) => N>('int eventfd(unsigned int, int)'),
  timerfd_create: bind<(clock: N, flags: N) => N>('int timerfd_create(int, int)'),
  timerfd_settime: bind<(fd: N, flags: N, value: N, old: N) => N>('int timerfd_settime(int, int, size_t, size_t)'),
  poll: bind<(fds: N, count: N, timeout: N) => N>('int poll(size_t, unsigned long, int)'),
  epoll_create1: bind<(flags: N) => N>('int epoll_create1(int)'),
  epoll_ctl: bind<(epoll: N, operation: N, fd: N, event: N) => N>('int epoll_ctl(int, int, int, size_t)'),
  epoll_wait: bind<(epoll: N, events: N, max: N, timeout: N) => N>('int epoll_wait(int, size_t, int, int)'),
  socket: bind<(domain: N, type: N, protocol: N) => N>('int socket(int, int, int)'),
  bind: bind<(fd: N, address: N, length: N) => N>('int bind(int, size_t, unsigned int)'),
  listen: bind<(fd: N, backlog: N) => N>('int listen(int, int)'),
  accept4: bind<(fd: N, address: N, length: N, flags: N) => N>('int accept4(int, size_t, size_t, int)'),
  connect: bind<(fd: N, address: N, length: N) => N>('int connect(int, size_t, unsigned int)'),
  shutdown: bind<(fd: N, how: N) => N>('int shutdown(int, int)'),
  socketpair: bind<(domain: N, type: N, protocol: N, pair: N) => N>('int socketpair(int, int, int, size_t)'),
  getsockopt: bind<(fd: N, level: N, option: N, value: N, length: N) => N>(
    'int getsockopt(int, int, int, size_t, size_t)',
  ),
  setsockopt: bind<(fd: N, level: N, option: N, value: N, length: N) => N>(
    'int setsockopt(int, int, int, size_t, unsigned int)',
  ),
  send: bind<(fd: N, buffer: N, count: N, flags: N) => N>('long send(int, size_t, size_t, int)'),
  recvmsg: bind<(fd: N, message: N, flags: N) => N>('long recvmsg(int, size_t, int)'),
  sigaction: bind<(signal: N, action: N, old: N) => N>('int sigaction(int, size_t, size_t)'),
  sched_getaffinity: bind<(thread: N, size: N, mask: N) => N>('int sched_getaffinity(int, size_t, size_t)'),
  sched_setaffinity: bind<(thread: N, size: N, mask: N) => N>('int sched_setaffinity(int, size_t, size_t)'),
  // glibc only wraps gettid and tgkill since 2.30, and musl never did: the raw call works everywhere.
  syscall: bind<(number: N, a: N, b: N, c: N) => N>('long syscall(long, long, long, long)'),
  syscall6: bind<(number: N, a: N, b: N, c: N, d: N, e: N, f: N) => N>(
    'long syscall(long, long, long, long, long, long, long)',
  ),
} as const;

const closeAsync = (
  libc.close as unknown as { readonly async: (fd: N, done: (error: unknown, result: N) => void) => void }
).async;

/** errno of the last failed call of this thread. */
export function lastErrno(): number {
  return koffi.errno();
}

/** Returns `result`, or throws the SysError of `call` when it is negative. */
export function check(result: number, call: string, path?: string): number {
  if (result < 0) throw new SysError(call, koffi.errno(), path);
  return result;
}

/** Returns `result`, or the negative errno of the call that just failed. */
export function orErrno(result: number): number {
  return result < 0 ? -koffi.errno() : result;
}

export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_NONBLOCK = 0o4000;
export const O_CLOEXEC = 0o2000000;
export const O_NOCTTY = 0o400;

/** open(2), with O_CLOEXEC always added. Throws SysError. */
export function open(path: string, flags: number): Fd {
  return check(libc.open(path, flags | O_CLOEXEC, 0), 'open', path) as Fd;
}

/** close(2). Throws SysError: a failed close means that a descriptor was closed twice, which must not pass. */
export function close(fd: Fd): void {
  check(libc.close(fd), `close ${fd}`);
}

/**
 * close(2) on a thread of Node's pool, for a descriptor whose last close takes the kernel long, as a VM's does. Rejects with
 * SysError.
 */
export function closeElsewhere(fd: Fd): Promise<void> {
  return new Promise((resolve, reject) => {
    closeAsync(fd, (error: unknown, result: number) => {
      if (error === null && result === 0) resolve();
      else reject(error instanceof Error ? error : new SysError(`close ${fd}`, EBADF));
    });
  });
}

const SYS_GETTID = 186;
const SYS_TGKILL = 234;

/** The kernel id of the calling thread. */
export function currentThreadId(): ThreadId {
  return libc.syscall(SYS_GETTID, 0, 0, 0) as ThreadId;
}

/** Sends `signal` to one thread of this process. Throws SysError (ESRCH: no such thread). */
export function signalThread(thread: ThreadId, signal: number): void {
  check(libc.syscall(SYS_TGKILL, process.pid, thread, signal), 'tgkill');
}

/**
 * The address of the first byte of a view. The memory behind it must not move: never pass a small typed array made
 * by length alone (V8 keeps those on its moving heap), only views over an explicit (Shared)ArrayBuffer.
 */
export function addressOf(view: ArrayBufferView): HostAddress {
  return Number(koffi.address(view)) as HostAddress;
}

/** The address of a C library function, to be given to the C library. */
export function addressOfFunction(name: string): bigint {
  return koffi.address(library.symbol(name));
}

/** An ArrayBuffer over `length` bytes of memory at `address`, which must stay mapped as long as the view is used. */
export function viewMemory(address: HostAddress, length: number): ArrayBuffer {
  return koffi.view(BigInt(address), length);
}
