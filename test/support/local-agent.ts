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
import { DEFAULT_READY_PORT, DEFAULT_SERVICE_PORT } from '../../src/agent/ports.js';
import type { AgentTransport } from '../../src/agent/transport.js';
import { VsockError } from '../../src/vsock/in-process/errors.js';

/** Streams to Unix sockets, with the errors of vsock. */
export class UnixTransport implements AgentTransport {
  readonly ended: Promise<void>;
  /** What was warned of. */
  readonly warnings: string[] = [];
  private readonly agentPath: string;
  private readonly hostPaths: Readonly<Record<number, string>>;
  private readonly streams = new Set<Duplex>();
  private readonly servers: Server[] = [];
  private end: (() => void) | undefined;

  /** `hostPaths`: where the ports of the host are. */
  constructor(agentPath: string, hostPaths: Readonly<Record<number, string>>) {
    this.agentPath = agentPath;
    this.hostPaths = hostPaths;
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

  listen(port: number, onConnection: (stream: Duplex) => void): void {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      this.keep(socket);
      onConnection(socket);
    });
    this.servers.push(server);
    server.listen(this.hostPaths[port]);
  }

  readonly warn = (message: string): void => {
    this.warnings.push(message);
  };

  /** Settles when the agent's calls are heard. */
  async listening(): Promise<void> {
    for (const server of this.servers) if (!server.listening) await once(server, 'listening');
  }

  /** Ends every connection. */
  hangUp(): void {
    for (const stream of this.streams) stream.destroy();
  }

  /** Settles when all connections that were ended are gone. */
  async hungUp(): Promise<void> {
    await Promise.all([...this.streams].map((stream) => once(stream, 'close')));
    // Those who hear of it have their turn.
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** The next call of the agent. */
  nextCall(): Promise<unknown[]> {
    return once(this.servers[0], 'connection');
  }

  /** As when the VM ends. */
  close(): void {
    this.hangUp();
    for (const server of this.servers) server.close();
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
  readonly servicePath = join(this.directory, 'service.sock');
  /** Where services of the host appear. */
  readonly servicesFolder = join(this.directory, 'services');
  readonly transport = new UnixTransport(this.socketPath, {
    [DEFAULT_READY_PORT]: this.readyPath,
    [DEFAULT_SERVICE_PORT]: this.servicePath,
  });
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
    const services = ['--service-unix', this.servicePath, '--services', this.servicesFolder];
    const options = ['--unix', this.socketPath, '--ready-unix', this.readyPath, ...services];
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

  /** Another in the place of one that was killed. */
  async respawnAgent(): Promise<void> {
    rmSync(this.socketPath, { force: true });
    await this.spawnAgent();
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
