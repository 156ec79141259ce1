import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { ECONNREFUSED, ENOENT, errnoName, SysError } from '../../src/platform/errno.js';
import { Epoll, EPOLLET, EPOLLIN } from '../../src/platform/epoll.js';
import { createEventFd, drainEventFd, signalEventFd } from '../../src/platform/eventfd.js';
import { FdWatcher } from '../../src/platform/fd-watcher.js';
import { IovecArray } from '../../src/platform/iovec.js';
import { close, libc, O_RDWR, open } from '../../src/platform/libc.js';
import { NativeBuffer } from '../../src/platform/native-buffer.js';
import { NonBlockingOutput } from '../../src/platform/output.js';
import { TimerFd } from '../../src/platform/timerfd.js';
import {
  listenUnix,
  probeUnixSocket,
  socketPair,
  SOCK_STREAM,
  tryAccept,
  tryConnect,
  trySocket,
  UnixAddress,
} from '../../src/platform/unix-socket.js';
import type { Fd } from '../../src/platform/units.js';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-platform-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

describe('errors', () => {
  test('a failed call names itself, the errno and the path', () => {
    const attempt = (): Fd => open(join(directory, 'absent'), O_RDWR);
    expect(attempt).toThrow(SysError);
    expect(attempt).toThrow(expect.objectContaining({ call: 'open', errno: ENOENT, code: 'ENOENT' }));
    expect(attempt).toThrow(/open .*absent: ENOENT/);
  });

  test('an errno without a name is still printed', () => {
    expect(errnoName(9999)).toBe('errno 9999');
  });

  test('closing a descriptor twice is not passed over', () => {
    const fd = createEventFd();
    close(fd);
    expect(() => {
      close(fd);
    }).toThrow(/EBADF/);
  });
});

describe('eventfd, timerfd and epoll', () => {
  test('an eventfd wakes epoll, and is quiet again after it was drained', () => {
    const event = createEventFd();
    const epoll = new Epoll();
    epoll.add(event, EPOLLIN, 0xffff_fffe);
    expect(epoll.wait(0)).toBe(0);
    signalEventFd(event);
    expect(epoll.wait(-1)).toBe(1);
    expect(epoll.tokenAt(0)).toBe(0xffff_fffe);
    expect(epoll.eventsAt(0)).toBe(EPOLLIN);
    expect(drainEventFd(event)).toBe(true);
    expect(drainEventFd(event)).toBe(false);
    expect(epoll.wait(0)).toBe(0);
    epoll.close();
    close(event);
  });

  test('an edge-triggered eventfd reports each signal once although nobody reads it', () => {
    const event = createEventFd();
    const epoll = new Epoll();
    epoll.add(event, EPOLLIN | EPOLLET, 1);
    signalEventFd(event);
    expect(epoll.wait(0)).toBe(1);
    expect(epoll.wait(0)).toBe(0);
    signalEventFd(event);
    expect(epoll.wait(0)).toBe(1);
    epoll.close();
    close(event);
  });

  test('a timer fires once, and not after it was disarmed', () => {
    const timer = new TimerFd();
    const epoll = new Epoll();
    epoll.add(timer.fd, EPOLLIN, 7);
    timer.arm(0.5);
    expect(epoll.wait(-1)).toBe(1);
    expect(timer.drain()).toBe(true);
    expect(timer.drain()).toBe(false);
    timer.arm(60_000);
    timer.arm(0);
    expect(epoll.wait(0)).toBe(0);
    epoll.close();
    timer.close();
  });

  test("a watcher on Node's own loop calls back", async () => {
    const event = createEventFd();
    await new Promise<void>((resolve) => {
      const watcher = new FdWatcher(event, { readable: true }, () => {
        watcher.close();
        resolve();
      });
      signalEventFd(event);
    });
    close(event);
  });
});

describe('scattered input and output', () => {
  test('readv fills the pieces in order', () => {
    const [a, b] = socketPair(SOCK_STREAM);
    writeSync(a, 'hello, world');
    const memory = new NativeBuffer(64);
    const iov = new IovecArray(4);
    iov.add(memory.address, 5);
    iov.add(memory.address + 32, 20);
    expect(iov.totalBytes).toBe(25);
    expect(libc.readv(b, iov.address, iov.count)).toBe(12);
    expect(Buffer.from(memory.bytes.subarray(0, 5)).toString()).toBe('hello');
    expect(Buffer.from(memory.bytes.subarray(32, 39)).toString()).toBe(', world');
    close(a);
    close(b);
  });
});

describe('Unix sockets', () => {
  test('a path is live, stale or absent', () => {
    const path = join(directory, 'socket');
    expect(probeUnixSocket(path, SOCK_STREAM)).toBe('absent');
    const listener = listenUnix(path, SOCK_STREAM, 8);
    expect(probeUnixSocket(path, SOCK_STREAM)).toBe('live');
    close(listener);
    expect(probeUnixSocket(path, SOCK_STREAM)).toBe('stale');
    expect(() => listenUnix(path, SOCK_STREAM, 8)).toThrow(/EADDRINUSE/);
  });

  test('connections are accepted, and refused where nobody listens', () => {
    const path = join(directory, 'socket');
    const listener = listenUnix(path, SOCK_STREAM, 8);
    const client = trySocket(SOCK_STREAM) as Fd;
    expect(tryConnect(client, new UnixAddress(path))).toBe(0);
    const server = tryAccept(listener) as Fd;
    expect(server).toBeGreaterThan(0);
    for (const fd of [client, server, listener]) close(fd);
    const late = trySocket(SOCK_STREAM) as Fd;
    expect(tryConnect(late, new UnixAddress(path))).toBe(-ECONNREFUSED);
    close(late);
  });

  test('a path that does not fit sun_path is refused', () => {
    expect(() => new UnixAddress(`/${'x'.repeat(107)}`)).toThrow(RangeError);
    expect(new UnixAddress(`/${'x'.repeat(106)}`).length).toBe(110);
  });
});

describe('non-blocking output', () => {
  test('a full pipe takes nothing and says when it takes bytes again', async () => {
    const fifo = join(directory, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const end = openSync(fifo, 'r+');
    const output = new NonBlockingOutput(end as Fd);
    const piece = new Uint8Array(new ArrayBuffer(65536));
    let written = 0;
    for (let taken = output.write(piece); taken > 0; taken = output.write(piece)) written += taken;
    expect(written).toBeGreaterThan(0);
    const writable = new Promise<void>((resolve) => {
      output.whenWritable(resolve);
    });
    const drained = Buffer.alloc(written);
    readSync(end, drained);
    await writable;
    expect(output.write(piece)).toBeGreaterThan(0);
    output.close();
    closeSync(end);
  });

  test('a file gets everything, where the original descriptor stands', () => {
    const path = join(directory, 'file');
    writeFileSync(path, '');
    const fd = openSync(path, 'w');
    writeSync(fd, 'before ');
    const output = new NonBlockingOutput(fd as Fd);
    expect(output.write(new Uint8Array(Buffer.from('after')))).toBe(5);
    output.close();
    closeSync(fd);
    expect(readFileSync(path, 'utf8')).toBe('before after');
  });

  test('a socket whose other end is gone gives EPIPE and no signal', () => {
    const [a, b] = socketPair(SOCK_STREAM);
    const output = new NonBlockingOutput(a);
    close(b);
    expect(errnoName(-output.write(new Uint8Array(new ArrayBuffer(8))))).toBe('EPIPE');
    output.close();
    close(a);
  });
});
