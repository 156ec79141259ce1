// The agent in the guest, as the library shows it: `vm.agent`. Main thread.
//
// Every VM has one, so this loads next to nothing: what a request needs comes with the first of its kind.

import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CopyOptions, CopyOutOptions } from './copy.js';
import { AgentError, type AgentErrorCode } from './errors.js';
import type { GuestMetrics } from './metrics.js';
import type { ExecOptions, GuestProcess, RunOptions, RunResult } from './program.js';
import { DEFAULT_AGENT_PORT, DEFAULT_READY_PORT, DEFAULT_SERVICE_PORT } from './ports.js';
import type { PublishedPort, PublishOptions } from './publish.js';
import type { ExposedService, ExposeOptions, HostServices } from './services.js';
import type { AgentTransport } from './transport.js';

export interface AgentPorts {
  /** Where the agent listens: its `--port`. */
  readonly port?: number;
  /** Where it calls the host: its `--ready-port`. */
  readonly readyPort?: number;
  /** Where the guest asks for services of the host: its `--service-port`. */
  readonly servicePort?: number;
}

/** How long to wait for the agent. */
export interface RequestOptions {
  /** Milliseconds until it fails with TIMEOUT. Absent: there is no such limit. */
  readonly timeout?: number;
  /** Makes it fail with ABORTED. */
  readonly signal?: AbortSignal;
}

/** Calls of agents that are kept: one is usual, and two meet when an agent is started anew. */
const MAX_CALLS = 4;

/** What asking gives that may yet become ready: it will call. */
const NOT_READY: ReadonlySet<AgentErrorCode> = new Set(['AGENT_MISSING', 'GUEST_GONE']);

/** Between two questions, for a transport that says at once that there is no answer. */
const ASK_AGAIN_MS = 100;

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/**
 * The agent in one guest: `vm.agent`. Each request is a connection of its own, so they do not wait for one another. All reject
 * with AgentError: AGENT_MISSING when nobody listens at the agent's port, AGENT_VERSION or PROTOCOL when it is no agent of this
 * version, GUEST_GONE when the guest or the agent goes away meanwhile, NO_PROCESS when the guest is out of processes.
 */
export class GuestAgent {
  private readonly transport: AgentTransport;
  private readonly port: number;
  private readonly servicePort: number;
  /** The agent's calls that have not ended: as long as there is one, it is up. */
  private readonly calls = new Set<Duplex>();
  private readonly waiters = new Set<Waiter>();
  private readonly published = new Set<PublishedPort>();
  private services: HostServices | undefined;
  private ended = false;

  /** @internal A VM makes its own. */
  constructor(transport: AgentTransport, ports: AgentPorts = {}) {
    this.transport = transport;
    this.port = ports.port ?? DEFAULT_AGENT_PORT;
    this.servicePort = ports.servicePort ?? DEFAULT_SERVICE_PORT;
    transport.listen(ports.readyPort ?? DEFAULT_READY_PORT, (call) => {
      this.takeCall(call);
    });
    void transport.ended.finally(() => {
      this.end();
    });
  }

  /**
   * Settles when the agent answers. It calls the host for that, so nothing is asked again and again. Rejects with AgentError
   * TIMEOUT, ABORTED, or GUEST_GONE when the VM ends first.
   *
   * @param options how long to wait: without a `timeout`, as long as the VM lives
   */
  async waitReady({ timeout, signal }: RequestOptions = {}): Promise<void> {
    const stops = [
      ...(signal === undefined ? [] : [signal]),
      ...(timeout === undefined ? [] : [AbortSignal.timeout(timeout)]),
    ];
    const stop = AbortSignal.any(stops);
    // An agent that called before anybody listened for it is found like this.
    const called = this.nextCall(stop);
    called.catch(() => undefined);
    if (this.calls.size === 0 && !this.ended && !stop.aborted) {
      const attempt = new AbortController();
      const answered = this.answer(AbortSignal.any([stop, attempt.signal])).catch(async (error: unknown) => {
        const missing = error instanceof AgentError && NOT_READY.has(error.code);
        if (missing || attempt.signal.aborted || stop.aborted) await called;
        else throw error;
      });
      try {
        await Promise.race([called, answered]);
        return;
      } catch (error) {
        if (!hasFired(stop)) throw error;
      } finally {
        attempt.abort();
      }
    }
    try {
      await called;
    } catch (error) {
      if (signal?.aborted === true) throw new AgentError('ABORTED', 'the wait was aborted', { cause: signal.reason });
      if (stop.aborted) throw new AgentError('TIMEOUT', `no agent has called from the guest within ${timeout ?? 0} ms`);
      throw error;
    }
  }

  /** A round trip to the agent, in milliseconds. Rejects with AgentError. */
  async ping(options: RequestOptions = {}): Promise<number> {
    const { ping } = await import('./ping.js');
    return ping(this.transport, this.port, options);
  }

  /**
   * Starts a program, without a shell. `result` of what is returned says how it ended. Rejects with AgentError when it does
   * not start: PROGRAM_NOT_FOUND, NOT_EXECUTABLE, BAD_CWD, NO_TTY, TOO_LARGE, TIMEOUT or ABORTED; with TypeError for arguments
   * that no program can have.
   *
   * @param argv the program, looked for in PATH if it has no slash, and its arguments
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * declare const vm: Vm;
   *
   * const build = await vm.agent.exec(['make', '-C', '/src'], { env: { CI: '1' }, timeout: 600_000 });
   * build.stdout.pipe(process.stdout);
   * build.stderr.pipe(process.stderr);
   * const { exitCode, signal } = await build.result;
   * ```
   */
  async exec(argv: readonly string[], options: ExecOptions = {}): Promise<GuestProcess> {
    const { GuestProcess } = await import('./program.js');
    return GuestProcess.start(this.transport, this.port, argv, options);
  }

  /**
   * Runs a program to its end and returns what it wrote. An exit code other than 0 is a result, not a failure. Rejects as
   * `exec` and its `result` do, and with AgentError TOO_LARGE beyond `maxOutput`, which kills the program.
   *
   * @param argv the program, looked for in PATH if it has no slash, and its arguments
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * declare const vm: Vm;
   *
   * const { exitCode, stdout } = await vm.agent.run(['python3', '-'], {
   *   stdin: Buffer.from('print(6 * 7)'),
   *   timeout: 5_000,
   * });
   * console.log(exitCode, stdout.toString()); // 0 42
   * ```
   */
  async run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const { runProgram } = await import('./program.js');
    return runProgram(this.transport, this.port, argv, options);
  }

  /**
   * Copies a file, folder or symbolic link of the host to the final name `guestPath`. A file replaces a file; a folder only
   * an empty folder. Nothing appears under that name before all of it is there, and nothing stays of a copy that fails. Modes
   * and links are kept; owners and times are not. Rejects with AgentError PATH_NOT_FOUND, EXISTS, DISK_FULL, UNSUPPORTED_FILE,
   * CHECKSUM, ABORTED or IO; its `side` says whose file it is about.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * declare const vm: Vm;
   *
   * await vm.agent.copyIn('./data', '/srv/data', { onProgress: ({ bytes }) => console.log(bytes) });
   * ```
   */
  async copyIn(hostPath: string, guestPath: string, options: CopyOptions = {}): Promise<void> {
    const { copyIn } = await import('./copy-in.js');
    await copyIn(this.transport, this.port, [hostPath, guestPath], options);
  }

  /**
   * Copies a file, folder or symbolic link of the guest to the final name `hostPath`, by the rules of `copyIn`. Whatever the
   * guest says, nothing is written outside of that name. Rejects as `copyIn` does, and with TOO_LARGE beyond `maxBytes`.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * declare const vm: Vm;
   *
   * await vm.agent.copyOut('/var/log/app.log', './app.log', { maxBytes: 64 * 1024 ** 2 });
   * ```
   */
  async copyOut(guestPath: string, hostPath: string, options: CopyOutOptions = {}): Promise<void> {
    const { copyOut } = await import('./copy-out.js');
    await copyOut(this.transport, this.port, [guestPath, hostPath], options);
  }

  /**
   * Has the guest write to its disks what it holds in memory: before the plug is pulled. Rejects with AgentError; with TIMEOUT
   * after a minute, unless told otherwise.
   */
  async sync(options: RequestOptions = {}): Promise<void> {
    const { syncDisks } = await import('./sync.js');
    await syncDisks(this.transport, this.port, options);
  }

  /** The guest's load. Rejects with AgentError. */
  async metrics(options: RequestOptions = {}): Promise<GuestMetrics> {
    const { readMetrics } = await import('./metrics.js');
    return readMetrics(this.transport, this.port, options);
  }

  /**
   * Leads a TCP port of the host to one of the guest, until it is closed or the VM ends. Rejects with AgentError HOST_PORT when
   * the host's port cannot be had, and with RangeError.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * declare const vm: Vm;
   *
   * const port = await vm.agent.publish({ hostPort: 0, guestPort: 80 });
   * const response = await fetch(`http://127.0.0.1:${port.hostPort}/`);
   * ```
   */
  async publish(options: PublishOptions): Promise<PublishedPort> {
    const { publishPort } = await import('./publish.js');
    const { reachTcp } = await import('./reach.js');
    const { transport, port } = this;
    const waitReady = (signal: AbortSignal): Promise<void> => this.waitReady({ signal });
    const reach = reachTcp({ transport, port, waitReady }, options.guestPort);
    const published = await publishPort(options, reach, transport.warn);
    if (this.hasEnded()) {
      await published.close();
      throw gone();
    }
    this.published.add(published);
    return published;
  }

  /**
   * Lets programs in the guest reach a service of the host, or of this program, by its name: at the Unix socket
   * `/run/tsvmm/NAME.sock` there, and at a TCP port of 127.0.0.1 if `guestPort` says so. The agent listens for it from its
   * next call on, or at once if it is there; `waitListening` of what is returned waits for that. Rejects with RangeError for
   * what cannot be, AgentError GUEST_GONE after the VM's end, or VsockError PORT_IN_USE when the program listens at the
   * host's vsock port 7352 itself.
   */
  async expose(options: ExposeOptions): Promise<ExposedService> {
    const { HostServices } = await import('./services.js');
    if (this.hasEnded()) throw gone();
    const { transport, port, servicePort } = this;
    this.services ??= new HostServices({ transport, port, servicePort, isUp: () => this.calls.size > 0 });
    return this.services.expose(options);
  }

  /**
   * Settles when the agent answers. One whose guest is busy, or held, is asked again when the time for an answer is over.
   * Rejects when `signal` says so.
   */
  private async answer(signal: AbortSignal): Promise<void> {
    for (;;) {
      try {
        await this.ping({ signal });
        return;
      } catch (error) {
        if (!(error instanceof AgentError) || error.code !== 'TIMEOUT' || signal.aborted) throw error;
        await sleep(ASK_AGAIN_MS, undefined, { signal });
      }
    }
  }

  /** Settles at once when the agent's call is there, or with its next one. */
  private nextCall(stop: AbortSignal): Promise<void> {
    if (this.ended) return Promise.reject(gone());
    if (this.calls.size > 0) return Promise.resolve();
    return new Promise<void>((resolve, reject) => {
      const onStop = (): void => {
        waiter.reject(new AgentError('ABORTED', 'the wait was aborted'));
      };
      const leave = (): void => {
        this.waiters.delete(waiter);
        stop.removeEventListener('abort', onStop);
      };
      const waiter: Waiter = {
        resolve: () => {
          leave();
          resolve();
        },
        reject: (error) => {
          leave();
          reject(error);
        },
      };
      this.waiters.add(waiter);
      if (stop.aborted) onStop();
      else stop.addEventListener('abort', onStop);
    });
  }

  /** What the call says is not looked at: whoever is asked for something greets first. */
  private takeCall(call: Duplex): void {
    this.calls.add(call);
    // An agent makes one at a time; a guest that makes many keeps the latest.
    for (const old of this.calls) {
      if (this.calls.size <= MAX_CALLS) break;
      this.calls.delete(old);
      old.destroy();
    }
    call.on('error', () => undefined);
    call.on('close', () => this.calls.delete(call));
    call.on('end', () => call.destroy());
    call.resume();
    for (const waiter of [...this.waiters]) waiter.resolve();
    this.services?.agentCalled();
  }

  /** A method, since it changes while one waits. */
  private hasEnded(): boolean {
    return this.ended;
  }

  private end(): void {
    this.ended = true;
    for (const waiter of [...this.waiters]) waiter.reject(gone());
    for (const call of this.calls) call.destroy();
    for (const published of this.published) void published.close();
    this.published.clear();
    this.services?.close();
  }
}

/** A function, since it changes while one waits. */
function hasFired(signal: AbortSignal): boolean {
  return signal.aborted;
}

function gone(): AgentError {
  return new AgentError('GUEST_GONE', 'the VM has ended');
}
