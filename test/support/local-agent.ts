// The guest agent on this machine, reached over Unix sockets instead of vsock: everything but the transport is what runs in a
// guest.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, watch } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { GUEST_AGENT } from '../../src/agent/binary.js';
import { GuestAgent } from '../../src/agent/guest-agent.js';
import type { AgentTransport } from '../../src/agent/transport.js';
import { VsockError } from '../../src/vsock/in-process/errors.js';

/** Streams to Unix sockets, with the errors of vsock. */
export class UnixTransport implements AgentTransport {
  readonly ended: Promise<void>;
  private readonly agentPath: string;
  private readonly readyPath: string;
  private readonly streams = new Set<Duplex>();
  private server: Server | undefined;
  private end: (() => void) | undefined;

  constructor(agentPath: string, readyPath: string) {
    this.agentPath = agentPath;
    this.readyPath = readyPath;
    this.ended = new Promise((resolve) => {
      this.end = resolve;
    });
  }

  async connect(port: number): Promise<Socket> {
    const socket = connect({ path: this.agentPath, allowHalfOpen: true });
    try {
      await once(socket, 'connect');
    } catch (error) {
      throw new VsockError('REFUSED', port, { cause: error });
    }
    this.keep(socket);
    return socket;
  }

  listen(_port: number, onConnection: (stream: Duplex) => void): void {
    this.server = createServer((socket) => {
      this.keep(socket);
      onConnection(socket);
    });
    this.server.listen(this.readyPath);
  }

  /** Settles when the agent's calls are heard. */
  async listening(): Promise<void> {
    if (this.server?.listening === false) await once(this.server, 'listening');
  }

  /** Ends every connection. */
  hangUp(): void {
    for (const stream of this.streams) stream.destroy();
  }

  /** The next call of the agent. */
  nextCall(): Promise<unknown[]> {
    return this.server === undefined ? Promise.resolve([]) : once(this.server, 'connection');
  }

  /** As when the VM ends. */
  close(): void {
    this.hangUp();
    this.server?.close();
    this.end?.();
  }

  private keep(stream: Socket): void {
    this.streams.add(stream);
    stream.on('close', () => this.streams.delete(stream));
  }
}

/** An agent that runs, and the library's half of it. */
export class LocalAgent {
  /** For the test's files; removed with the agent. */
  readonly directory = mkdtempSync(join(tmpdir(), 'tsvmm-agent-'));
  readonly socketPath = join(this.directory, 'agent.sock');
  readonly readyPath = join(this.directory, 'ready.sock');
  readonly transport = new UnixTransport(this.socketPath, this.readyPath);
  readonly agent = new GuestAgent(this.transport);
  private child: ChildProcess | undefined;

  /** Starts the agent, as another user if one is given; returns when its socket is there. */
  static async start(uid?: number): Promise<LocalAgent> {
    const local = new LocalAgent();
    await local.transport.listening();
    if (uid !== undefined) {
      chownSync(local.directory, uid, uid);
      chownSync(local.readyPath, uid, uid);
    }
    await local.spawnAgent(uid);
    return local;
  }

  /** Without an agent as yet. */
  static async prepare(): Promise<LocalAgent> {
    const local = new LocalAgent();
    await local.transport.listening();
    return local;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** Processes of the agent: itself, who calls the host, and one for each session. */
  get processes(): number {
    const { child } = this;
    if (child?.pid === undefined) return 0;
    const parent = String(child.pid);
    const isOf = (pid: string): boolean => {
      try {
        // pid (name) state parent; no name of the agent's has a bracket in it.
        return readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ')[1] === parent;
      } catch {
        return false;
      }
    };
    return 1 + readdirSync('/proc').filter((name) => /^\d+$/.test(name) && isOf(name)).length;
  }

  async spawnAgent(uid?: number): Promise<void> {
    const watcher = watch(this.directory);
    const options = ['--unix', this.socketPath, '--ready-unix', this.readyPath];
    const user = uid === undefined ? {} : { uid, gid: uid };
    const child = spawn(GUEST_AGENT, options, { stdio: ['ignore', 'inherit', 'inherit'], cwd: '/', ...user });
    this.child = child;
    try {
      while (!existsSync(this.socketPath)) await Promise.race([once(watcher, 'change'), failed(child)]);
      await this.agent.waitReady({ timeout: 20_000 });
    } finally {
      watcher.close();
    }
  }

  /** The agent is gone, as by a guest's out-of-memory killer. */
  async killAgent(): Promise<void> {
    const { child } = this;
    if (child === undefined) return;
    this.child = undefined;
    const closed = once(child, 'close');
    child.kill('SIGKILL');
    await closed;
  }

  async stop(): Promise<void> {
    this.transport.close();
    await this.killAgent();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

async function failed(child: ChildProcess): Promise<never> {
  await once(child, 'close');
  throw new Error('the agent has ended');
}
