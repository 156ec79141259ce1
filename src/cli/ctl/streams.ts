// Streams between this terminal and a guest: a vsock port by the VM's socket, and its console.

import { constants, openSync, readlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { resolve } from 'node:path';
import type { Duplex, Readable, Writable } from 'node:stream';
import { ReadStream } from 'node:tty';
import { type InputStream, Terminal } from '../terminal.js';
import { type ApiClient, CtlError, unreachable } from './client.js';

export interface Streams {
  readonly stdin: Readable & InputStream;
  readonly stdout: Writable;
  /** Writes a line to stderr. */
  readonly say: (line: string) => void;
}

type Fields = Readonly<Record<string, unknown>>;

/** What the handshake may be long; `OK <port>` is shorter. */
const MAX_HANDSHAKE = 64;

/** Joins standard input and output to port `port` of the guest until both directions have ended. Rejects with CtlError. */
export async function connectVsock(client: ApiClient, port: number, { stdin, stdout }: Streams): Promise<void> {
  const { config, monitor } = await vmInfo(client);
  const path = section(config, 'vsock')['socket'];
  if (typeof path !== 'string')
    throw new CtlError('refused', 'the VM has no vsock socket; create it with vsock.socket');
  const socket = await open(resolve(monitor, path));
  socket.write(`CONNECT ${port}\n`);
  const rest = await handshake(socket, port);
  stdout.write(rest);
  stdin.pipe(socket);
  await drain(socket, stdout);
  stdin.unpipe(socket);
  stdin.pause();
  // A read under way would hold the process.
  stdin.unref?.();
}

/** Joins the terminal to the VM's console until Ctrl-A x, or until the VM ends. Rejects with CtlError. */
export async function attachConsole(client: ApiClient, { stdin, stdout, say }: Streams): Promise<void> {
  const { config, monitor } = await vmInfo(client);
  const found = ['console', 'serial'].map((name) => section(config, name)).find(isReachable);
  if (found === undefined) {
    const advice = 'run it with --serial pty or --serial socket=PATH';
    throw new CtlError('refused', `the VM has no console that can be reached from here; ${advice}`);
  }
  const { mode } = found;
  const console =
    mode === 'Pty' ? openTerminal(String(found['file'])) : await open(resolve(monitor, String(found['socket'])));
  if (stdin.isTTY) say('Ctrl-A x leaves, Ctrl-A a types a Ctrl-A');
  const terminal = Terminal.attach(stdin, {
    interruptOnCtrlC: false,
    onEvent: (event) => {
      switch (event.kind) {
        case 'bytes':
          console.write(event.bytes);
          return;
        case 'help':
          say('Ctrl-A x leaves, Ctrl-A a types a Ctrl-A');
          return;
        case 'quit':
        case 'interrupt':
          console.destroy();
          return;
      }
    },
  });
  try {
    await drain(console, stdout);
  } finally {
    terminal.detach();
  }
}

function isReachable(console: Fields): boolean {
  return (console['mode'] === 'Pty' && 'file' in console) || (console['mode'] === 'Socket' && 'socket' in console);
}

interface VmPlace {
  readonly config: Fields;
  /** The folder that the monitor's relative paths are relative to. */
  readonly monitor: string;
}

async function vmInfo(client: ApiClient): Promise<VmPlace> {
  const [info, ping] = await Promise.all([client.get('vm.info'), client.get('vmm.ping')]);
  const { pid } = section({ ping }, 'ping');
  return { config: section(info, 'config'), monitor: workingFolder(pid) };
}

function workingFolder(pid: unknown): string {
  try {
    return readlinkSync(`/proc/${String(pid)}/cwd`);
  } catch {
    // Another user's, or in another container: relative paths can only be tried from here.
    return process.cwd();
  }
}

function section(value: unknown, name: string): Fields {
  const inner = typeof value === 'object' && value !== null ? (value as Fields)[name] : undefined;
  return typeof inner === 'object' && inner !== null ? (inner as Fields) : {};
}

function open(path: string): Promise<Duplex> {
  return new Promise((resolved, reject) => {
    const socket = connect({ path, allowHalfOpen: true });
    socket.once('error', (error) => {
      reject(unreachable(path, error));
    });
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      resolved(socket);
    });
  });
}

function openTerminal(path: string): Duplex {
  try {
    return new ReadStream(openSync(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK));
  } catch (error) {
    throw unreachable(path, error);
  }
}

/** Reads up to the line that says `OK`; returns what came behind it. */
function handshake(socket: Duplex, port: number): Promise<Buffer> {
  return new Promise((resolved, reject) => {
    let seen = Buffer.alloc(0);
    const settle = (action: () => void): void => {
      socket.off('data', onData).off('end', onEnd).off('error', onEnd);
      action();
    };
    const onEnd = (): void => {
      settle(() => {
        socket.destroy();
        reject(new CtlError('refused', `the guest has nobody who listens at port ${port}, or no driver yet`));
      });
    };
    const onData = (piece: Buffer): void => {
      seen = Buffer.concat([seen, piece]);
      const end = seen.indexOf('\n');
      if (end < 0 && seen.length < MAX_HANDSHAKE) return;
      if (end < 0 || !/^OK [0-9]+$/.test(seen.toString('latin1', 0, end))) {
        onEnd();
        return;
      }
      socket.pause();
      settle(() => {
        resolved(seen.subarray(end + 1));
      });
    };
    socket.on('data', onData).on('end', onEnd).on('error', onEnd);
  });
}

/** Writes what comes from `source` to `sink`, which stays open, until it ends; an end by a reset is one, too. */
function drain(source: Duplex, sink: Writable): Promise<void> {
  return new Promise((resolved) => {
    source.on('error', () => source.destroy());
    source.once('close', resolved);
    source.once('end', () => {
      // The other direction may go on; nobody would hear its answer.
      source.end();
    });
    // A reader that has gone (`| head`) ends it.
    sink.once('error', () => source.destroy());
    source.pipe(sink, { end: false });
  });
}
