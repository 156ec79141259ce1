// Where consoles end on the host: files, sockets, pseudo-terminals, with a scripted guest at the other side of the rings.

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ReadStream } from 'node:tty';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { ConsoleConfig } from '../../../src/config/vm-config.js';
import { libc } from '../../../src/platform/libc.js';
import { GuestConsole } from '../../../src/vmm/consoles/guest-console.js';
import { openHostEnd } from '../../../src/vmm/consoles/open-end.js';
import { FakeConsoleGuest } from '../../support/fake-console-guest.js';
import { openDescriptors } from '../../support/process-state.js';

const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
const KIB = 1024;

/** Bytes that differ at every place nearby. */
function pattern(length: number): Buffer {
  return Buffer.from(Array.from({ length }, (_, index) => (index * 7 + (index >> 8) * 13) & 0xff));
}

let directory = '';
let descriptors = 0;
let console: Fixture | undefined;
const warnings: string[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tsvmm-console-'));
  descriptors = openDescriptors();
  warnings.length = 0;
});
afterEach(async () => {
  console?.close();
  console = undefined;
  rmSync(directory, { recursive: true });
  await new Promise(setImmediate);
  expect(openDescriptors()).toBe(descriptors);
});

class Fixture {
  readonly guest: FakeConsoleGuest;
  readonly console: GuestConsole;

  constructor(config: ConsoleConfig, sizes?: ConstructorParameters<typeof FakeConsoleGuest>[0]) {
    this.guest = new FakeConsoleGuest(sizes);
    const warn = (message: string): void => {
      warnings.push(message);
    };
    const { host, hostEvent } = this.guest;
    try {
      this.console = new GuestConsole(host, hostEvent, (input) => openHostEnd('--console', config, input, warn), warn);
    } catch (error) {
      this.guest[Symbol.dispose]();
      throw error;
    }
  }

  /** Resolves with what the guest gets to read, once that is `length` bytes. */
  async typed(length: number): Promise<Buffer> {
    let bytes = this.guest.read();
    while (bytes.length < length) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      bytes = Buffer.concat([bytes, this.guest.read()]);
    }
    return bytes;
  }

  close(): void {
    this.console.close();
    this.guest[Symbol.dispose]();
  }
}

function make(config: ConsoleConfig, sizes?: ConstructorParameters<typeof FakeConsoleGuest>[0]): Fixture {
  console = new Fixture(config, sizes);
  return console;
}

/** A client or an opener: what it has received so far. */
class Receiver {
  bytes = Buffer.alloc(0);
  private waiters: (() => void)[] = [];

  constructor(stream: Socket | ReadStream) {
    stream.on('data', (piece: Buffer) => {
      this.bytes = Buffer.concat([this.bytes, piece]);
      for (const wake of this.waiters.splice(0)) wake();
    });
  }

  async length(count: number): Promise<Buffer> {
    while (this.bytes.length < count) await new Promise<void>((resolve) => this.waiters.push(resolve));
    return this.bytes;
  }
}

describe('a console without an end', () => {
  test('takes everything, and listeners hear it', async () => {
    const { guest, console: end } = make({ mode: 'Null' });
    let heard = '';
    const stop = end.onOutput((bytes) => (heard += Buffer.from(bytes).toString()));
    guest.print('hello');
    await end.flush();
    stop();
    guest.print('nobody hears');
    await end.flush();
    expect([heard, guest.host.pending, end.path]).toEqual(['hello', 0, undefined]);
  });

  test('what is typed waits for room in the ring, and is let go when the VM ends', async () => {
    const { guest, console: end } = make({ mode: 'Null' }, { rxRingSize: 32 });
    await end.write(pattern(32));
    const more = end.write(pattern(33));
    let accepted = false;
    void more.then(() => (accepted = true));
    await new Promise(setImmediate);
    expect(accepted).toBe(false);
    expect(guest.read(32)).toEqual(pattern(32));
    while (!accepted) {
      await new Promise(setImmediate);
      guest.read();
    }
    const never = end.write(pattern(100));
    end.close();
    await never;
    await end.write(pattern(5));
    guest[Symbol.dispose]();
    console = undefined;
  });
});

describe('a console in a file', () => {
  test('the file is emptied, then has all output', async () => {
    const file = join(directory, 'log');
    writeFileSync(file, 'what was there before');
    const { guest, console: end } = make({ mode: 'File', file });
    guest.print(pattern(300 * KIB));
    await end.flush();
    expect(readFileSync(file)).toEqual(pattern(300 * KIB));
  });

  test('a file that cannot be written is named, as is a FIFO without a reader', () => {
    const missing = join(directory, 'no', 'log');
    expect(() => make({ mode: 'File', file: missing })).toThrow(
      expect.objectContaining({ code: 'HOST_PATH', message: expect.stringContaining(`--console file=${missing}`) }),
    );
    const fifo = join(directory, 'fifo');
    execFileSync('mkfifo', [fifo]);
    expect(() => make({ mode: 'File', file: fifo })).toThrow(/ENXIO/);
  });
});

describe('a console at a socket', () => {
  const connect = async (path: string): Promise<Socket> => {
    const client = createConnection(path);
    await once(client, 'connect');
    return client;
  };

  test('what was printed before anybody came is there for the first client, then both directions are live', async () => {
    const socket = join(directory, 's');
    const { guest, console: end } = make({ mode: 'Socket', socket });
    expect(end.path).toBe(socket);
    guest.print('early ');
    await end.flush();
    const client = await connect(socket);
    const received = new Receiver(client);
    expect((await received.length(6)).toString()).toBe('early ');
    guest.print(ALL_BYTES);
    expect((await received.length(6 + 256)).subarray(6)).toEqual(ALL_BYTES);
    client.write(ALL_BYTES);
    expect(await console?.typed(256)).toEqual(ALL_BYTES);
    client.destroy();
  });

  test('without a client the guest never waits; the last 64 KiB are kept', async () => {
    const socket = join(directory, 's');
    const { guest, console: end } = make({ mode: 'Socket', socket });
    const all = pattern(1000 * KIB);
    guest.print(all);
    await end.flush();
    expect([guest.printed, guest.host.pending]).toEqual([true, 0]);
    const client = await connect(socket);
    const received = new Receiver(client);
    expect(await received.length(64 * KIB)).toEqual(all.subarray(-64 * KIB));
    client.destroy();
  });

  test('a client that reads late makes the guest wait and loses nothing', async () => {
    const socket = join(directory, 's');
    const { guest } = make({ mode: 'Socket', socket });
    const client = await connect(socket);
    client.pause();
    const all = pattern(2000 * KIB);
    guest.print('x');
    guest.print(all);
    await new Promise(setImmediate);
    expect(guest.printed).toBe(false);
    const received = new Receiver(client);
    client.resume();
    expect((await received.length(1 + all.length)).subarray(1).equals(all)).toBe(true);
    expect(guest.printed).toBe(true);
    client.destroy();
  });

  test('a guest that reads late makes the client wait and loses nothing, even if the client leaves meanwhile', async () => {
    const socket = join(directory, 's');
    const fixture = make({ mode: 'Socket', socket }, { rxRingSize: 1024 });
    const client = await connect(socket);
    const all = pattern(100 * KIB);
    await new Promise((resolve) => client.write(all, resolve));
    client.destroy();
    expect(await fixture.typed(all.length)).toEqual(all);
  });

  test('a client that has said all it had to say still gets output', async () => {
    const socket = join(directory, 's');
    const fixture = make({ mode: 'Socket', socket });
    const client = createConnection({ path: socket, allowHalfOpen: true });
    const received = new Receiver(client);
    client.end('question');
    expect((await fixture.typed(8)).toString()).toBe('question');
    fixture.guest.print('answer');
    expect((await received.length(6)).toString()).toBe('answer');
    client.destroy();
    // Nothing is printed and nothing is read any more: that it left is noticed all the same.
    const next = await connect(socket);
    next.write('next');
    expect((await fixture.typed(4)).toString()).toBe('next');
    next.destroy();
  });

  test('a second client waits until the first has left', async () => {
    const socket = join(directory, 's');
    const fixture = make({ mode: 'Socket', socket });
    const first = await connect(socket);
    const firstReceived = new Receiver(first);
    fixture.guest.print('one');
    await firstReceived.length(3);
    const second = await connect(socket);
    const secondReceived = new Receiver(second);
    second.write('second');
    first.write('first');
    expect((await fixture.typed(5)).toString()).toBe('first');
    first.destroy();
    expect((await fixture.typed(6)).toString()).toBe('second');
    fixture.guest.print('two');
    expect((await secondReceived.length(3)).toString()).toBe('two');
    second.destroy();
  });

  test('output that a client did not take when it left is not sent twice, and what follows goes to the next', async () => {
    const socket = join(directory, 's');
    const fixture = make({ mode: 'Socket', socket });
    const first = await connect(socket);
    first.pause();
    fixture.guest.print(pattern(2000 * KIB));
    first.destroy();
    while (!fixture.guest.printed) await new Promise(setImmediate);
    await fixture.console.flush();
    const second = await connect(socket);
    const received = new Receiver(second);
    expect(await received.length(64 * KIB)).toEqual(pattern(2000 * KIB).subarray(-64 * KIB));
    second.destroy();
  });

  test('the socket file goes with the console; a path in use is refused by the name of the option', () => {
    const socket = join(directory, 's');
    const fixture = make({ mode: 'Socket', socket });
    expect(() => new Fixture({ mode: 'Socket', socket })).toThrow(
      expect.objectContaining({ code: 'SOCKET_IN_USE', message: expect.stringContaining('--console') }),
    );
    fixture.close();
    console = undefined;
    expect(existsSync(socket)).toBe(false);
  });
});

describe('a console at a pseudo-terminal', () => {
  interface Opener {
    readonly received: Receiver;
    write(bytes: Buffer): void;
    pause(): void;
    resume(): void;
    close(): Promise<void>;
  }

  /** Opens the other side as a terminal program does. */
  function open(path: string): Opener {
    const fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY);
    const stream = new ReadStream(fd);
    stream.on('error', () => undefined);
    return {
      received: new Receiver(stream),
      write: (bytes) => {
        writeSync(fd, bytes);
      },
      pause: () => stream.pause(),
      resume: () => stream.resume(),
      close: async () => {
        const closed = once(stream, 'close');
        stream.destroy();
        await closed;
        // The stream has opened the terminal once more for itself.
        closeSync(fd);
      },
    };
  }

  function pathOf(fixture: Fixture): string {
    const { path } = fixture.console;
    if (path === undefined) throw new Error('no path');
    expect(path).toMatch(/^\/dev\/pts\/\d+$/);
    return path;
  }

  test('passes every byte both ways as it is, and what was printed before anybody opened it', async () => {
    const fixture = make({ mode: 'Pty' });
    fixture.guest.print('early ');
    await fixture.console.flush();
    const terminal = open(pathOf(fixture));
    expect((await terminal.received.length(6)).toString()).toBe('early ');
    fixture.guest.print(ALL_BYTES);
    expect((await terminal.received.length(6 + 256)).subarray(6)).toEqual(ALL_BYTES);
    terminal.write(ALL_BYTES);
    expect(await fixture.typed(256)).toEqual(ALL_BYTES);
    await terminal.close();
  });

  test('may be closed and opened again, and meanwhile the master is left alone', async () => {
    const fixture = make({ mode: 'Pty' });
    for (const round of ['one', 'two', 'three']) {
      const terminal = open(pathOf(fixture));
      terminal.write(Buffer.from(round));
      expect((await fixture.typed(round.length)).toString()).toBe(round);
      fixture.guest.print(round);
      expect((await terminal.received.length(round.length)).toString()).toBe(round);
      await terminal.close();
      const calls = libc as { -readonly [K in 'read' | 'poll']: (typeof libc)[K] };
      const { read, poll } = calls;
      let reads = 0;
      let looks = 0;
      calls.read = (...args) => {
        reads++;
        return read(...args);
      };
      const looked = new Promise<void>((resolve) => {
        calls.poll = (...args) => {
          if (++looks === 3) resolve();
          return poll(...args);
        };
      });
      try {
        await looked;
      } finally {
        Object.assign(calls, { read, poll });
      }
      // One that finds out, and no more: a busy loop would make thousands.
      expect(reads).toBeLessThanOrEqual(2);
    }
  });

  test('keystrokes of somebody who is gone again before the next look are not lost', async () => {
    const fixture = make({ mode: 'Pty' });
    const fd = openSync(pathOf(fixture), constants.O_RDWR | constants.O_NOCTTY);
    writeSync(fd, 'brief');
    closeSync(fd);
    expect((await fixture.typed(5)).toString()).toBe('brief');
  });

  test('a terminal that reads late makes the guest wait and loses nothing, and the end of the VM waits for it', async () => {
    const fixture = make({ mode: 'Pty' }, { txRingSize: 4 * KIB });
    const terminal = open(pathOf(fixture));
    terminal.pause();
    terminal.write(Buffer.from('x'));
    await fixture.typed(1);
    const all = pattern(100 * KIB);
    fixture.guest.print(all);
    await new Promise(setImmediate);
    expect(fixture.guest.printed).toBe(false);
    terminal.resume();
    await terminal.received.length(90 * KIB);
    await fixture.console.flush();
    expect((await terminal.received.length(all.length)).equals(all)).toBe(true);
    await terminal.close();
  });
});
