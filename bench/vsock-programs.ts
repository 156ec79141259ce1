// The processes of the vsock benchmark: the monitor as a user starts it, the C reference servers, and the C client that
// loads either of them. Each has its own process, so that the bench's event loop is in nobody's way.

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep } from './harness.js';

const MONITOR = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const READY_TIMEOUT_MS = 10_000;
const STOP_TIMEOUT_MS = 10_000;
const CLIENT_TIMEOUT_MS = 60_000;
const CONTEXT_ID = 3;

/** Ports of the built-in guest, which the reference server serves, too. */
export const ECHO = 7;
export const DISCARD = 9;
export const CHARGEN = 19;
/** The reference server's echo through a second thread. */
export const WAKE_ECHO = 17;

/** A process with a socket that speaks the CONNECT handshake. */
export interface Server {
  readonly socket: string;
  readonly pid: number;
  stop(): Promise<void>;
}

/** Starts the command with the built-in guest. */
export function startMonitor(client: string, socket: string, cmdline?: string): Promise<Server> {
  const args = [MONITOR, '--vsock', `cid=${CONTEXT_ID},socket=${socket}`, '--serial', 'null'];
  if (cmdline !== undefined) args.push('--cmdline', cmdline);
  return startServer(client, socket, process.execPath, args);
}

export function startReference(client: string, socket: string, program: string, buffers: number): Promise<Server> {
  return startServer(client, socket, program, [socket, String(buffers)]);
}

async function startServer(client: string, socket: string, program: string, args: string[]): Promise<Server> {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let complaint = '';
  child.stderr.on('data', (text: Buffer) => (complaint += text.toString()));
  const ended = new Promise<void>((resolve) => {
    child.once('close', resolve);
    child.once('error', (error) => {
      complaint += error.message;
      resolve();
    });
  });
  const stop = (): Promise<void> => stopChild(child, ended);
  try {
    const deadline = performance.now() + READY_TIMEOUT_MS;
    while (!(await isReady(client, socket))) {
      if (performance.now() > deadline || child.exitCode !== null || child.pid === undefined) {
        throw new Error(`${program} ${args.join(' ')} does not answer: ${complaint}`);
      }
      await sleep(20);
    }
    return { socket, pid: child.pid ?? 0, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function isReady(client: string, socket: string): Promise<boolean> {
  return runClient(client, [socket, String(DISCARD), 'connect', '0.001', '1']).then(
    () => true,
    () => false,
  );
}

async function stopChild(child: ChildProcess, ended: Promise<void>): Promise<void> {
  child.kill('SIGTERM');
  const kill = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await ended;
  clearTimeout(kill);
}

/** Runs the client to its end and returns the numbers that it printed. */
function runClient(client: string, args: string[]): Promise<number[]> {
  return new Promise((resolve, reject) => {
    execFile(client, args, { timeout: CLIENT_TIMEOUT_MS, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      if (error !== null) reject(new Error(`vsock-client ${args.join(' ')}: ${stderr}`, { cause: error }));
      else resolve(stdout.trim().split(' ').map(Number));
    });
  });
}

export type Direction = 'write' | 'read' | 'echo';
export const PORT_OF: Readonly<Record<Direction, number>> = { write: DISCARD, read: CHARGEN, echo: ECHO };

export interface Transfer {
  readonly bytesPerSecond: number;
  /** Bytes in all, before the figure was taken included. */
  readonly bytes: number;
}

export async function transfer(
  client: string,
  { socket }: Server,
  direction: Direction,
  seconds: number,
  connections: number,
): Promise<Transfer> {
  const port = String(PORT_OF[direction]);
  const [bytesPerSecond, bytes] = await runClient(client, [
    socket,
    port,
    direction,
    String(seconds),
    String(connections),
  ]);
  return { bytesPerSecond, bytes };
}

/** Round trips of one byte, in microseconds. */
export interface RoundTrips {
  readonly median: number;
  readonly p99: number;
  readonly mean: number;
}

export async function pingPong(client: string, { socket }: Server, port: number, seconds: number): Promise<RoundTrips> {
  const [median, p99, mean] = await runClient(client, [socket, String(port), 'ping', String(seconds)]);
  return { median, p99, mean };
}

/** Connections set up and closed per second, `atOnce` at a time. */
export async function connectRate(
  client: string,
  { socket }: Server,
  seconds: number,
  atOnce: number,
): Promise<number> {
  const [rate] = await runClient(client, [socket, String(DISCARD), 'connect', String(seconds), String(atOnce)]);
  return rate;
}

/** Holds `connections` connections open while `look` runs. */
export async function whileConnected<T>(
  client: string,
  { socket }: Server,
  connections: number,
  look: () => Promise<T>,
): Promise<T> {
  const child = spawn(client, [socket, String(DISCARD), 'idle', String(connections)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = new Promise<number | null>((resolve) => {
    child.once('close', resolve);
  });
  try {
    const ready = await Promise.race([
      new Promise<boolean>((resolve) => child.stdout.once('data', () => resolve(true))),
      ended.then(() => false),
    ]);
    if (!ready) throw new Error(`the client could not open ${connections} connections`);
    return await look();
  } finally {
    child.stdin.end();
    await ended;
  }
}

/** CPU time of a process in seconds, by what its threads do. */
export interface CpuTimes {
  readonly main: number;
  readonly io: number;
  readonly vcpu: number;
  readonly other: number;
}

type Role = keyof CpuTimes;

const SYS_IOCTL = '16';
const SYS_EPOLL_WAIT = '232';

/** CPU times of a monitor's threads, which Node gives no names: told apart, while idle, by the call each one sleeps in. */
export class MonitorCpu {
  private readonly directory: string;
  private readonly pid: number;
  private readonly roles = new Map<string, Role>();

  /** The monitor is idle: its vCPU sleeps in KVM_RUN, the I/O worker in epoll_wait (libuv uses epoll_pwait). */
  constructor({ pid }: Server) {
    this.pid = pid;
    this.directory = `/proc/${pid}/task`;
    for (const thread of readdirSync(this.directory)) {
      const call = this.read(thread, 'syscall').split(' ')[0];
      // KVM's own threads may be listed here, too; they are not Node's.
      const ours = this.read(thread, 'comm').trim() === this.read(String(pid), 'comm').trim();
      if (ours && call === SYS_IOCTL) this.roles.set(thread, 'vcpu');
      else if (ours && call === SYS_EPOLL_WAIT) this.roles.set(thread, 'io');
    }
    this.roles.set(String(pid), 'main');
  }

  now(): CpuTimes {
    const times = { main: 0, io: 0, vcpu: 0, other: 0 };
    for (const thread of readdirSync(this.directory)) {
      times[this.roles.get(thread) ?? 'other'] += Number(this.read(thread, 'schedstat').split(' ')[0]) / 1e9;
    }
    return times;
  }

  private read(thread: string, file: string): string {
    try {
      return readFileSync(join(this.directory, thread, file), 'utf8');
    } catch (error) {
      // Threads come and go.
      if (thread !== String(this.pid)) return '';
      throw error;
    }
  }
}

/** CPU time of a whole process in seconds. */
export function cpuSeconds({ pid }: Server): number {
  return readdirSync(`/proc/${pid}/task`)
    .map((thread) => Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]) / 1e9)
    .reduce((sum, seconds) => sum + seconds, 0);
}

/** Resident memory in bytes: the process's own, and what it shares, which is the guest's. */
export function residentMemory({ pid }: Server): { own: number; shared: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+) kB`, 'm').exec(status)?.[1]) * 1024;
  return { own: field('RssAnon'), shared: field('RssShmem') };
}
