// A program in the guest, as a Node program sees it: three streams and how it ended. Main thread.
//
// Output comes through one connection, so whoever reads one of the two streams has to read the other (or `resume` it):
// what nobody takes makes the program wait, and then nothing else is heard either.

import { once } from 'node:events';
import { constants } from 'node:os';
import { pipeline, Readable, Writable } from 'node:stream';
import { AgentError } from './errors.js';
import { EXEC_CLEAR_ENV, FRAME, type Frame, words } from './protocol.js';
import { agentErrorOf, AgentSession, unexpected } from './session.js';
import type { AgentTransport } from './transport.js';

const STDIN_PIECE = 65_536;
/** How long a killed program may take to be gone before the connection is dropped, which kills it too. */
const KILL_LIMIT_MS = 5000;
const DEFAULT_MAX_OUTPUT = 64 * 1024 * 1024;

/** The size of a terminal, in characters. */
export interface TerminalSize {
  /** Lines. */
  readonly rows: number;
  /** Characters in a line. */
  readonly columns: number;
}

/** How to run a program in the guest. */
export interface ExecOptions {
  /** Variables in addition to the agent's own; undefined takes one away. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Begin with no variables but PATH. */
  readonly clearEnv?: boolean;
  /** The agent's own, usually `/`, unless given. */
  readonly cwd?: string;
  /**
   * Who the program runs as: `user` or `user:group`, by name or number as the guest's /etc/passwd and /etc/group have them, with
   * that user's other groups and HOME. The agent's own user, usually root, unless given. NO_USER where there is none.
   */
  readonly user?: string;
  /** What the program reads: nothing, unless given. 'pipe': what is written to the `stdin` of the GuestProcess. */
  readonly stdin?: 'pipe' | Uint8Array | Readable;
  /** Milliseconds after which the program and its process group are killed, and the result is TIMEOUT. */
  readonly timeout?: number;
  /** Kills the program and its process group; the result is ABORTED. */
  readonly signal?: AbortSignal;
  /** A pseudo-terminal instead of pipes: stdout has everything then, and stderr nothing. */
  readonly tty?: TerminalSize;
  /** Gets stdout piece by piece, as it comes. */
  readonly onStdout?: (piece: Buffer) => void;
  /** Gets stderr piece by piece, as it comes. */
  readonly onStderr?: (piece: Buffer) => void;
}

/** How a program ended: by itself, with an exit code, or by a signal. */
export interface ExecExit {
  /** 0 to 255; null when a signal ended it. */
  readonly exitCode: number | null;
  /** The signal that ended it; null when it ended by itself. */
  readonly signal: NodeJS.Signals | null;
}

/** How a program ended, and what it wrote. */
export interface RunResult extends ExecExit {
  /** All of its stdout, as bytes. */
  readonly stdout: Buffer;
  /** All of its stderr; with a terminal nothing, for that has one output. */
  readonly stderr: Buffer;
}

/** How to run a program to its end. */
export interface RunOptions extends ExecOptions {
  /** Bytes of either output beyond which the program is killed: 64 MiB unless given. */
  readonly maxOutput?: number;
}

/**
 * A program that runs in the guest. Made by `agent.exec`. Read both outputs, or `resume()` the one that is of no interest: a
 * program whose output nobody takes waits.
 */
export class GuestProcess {
  /** The process id in the guest. */
  readonly pid: number;
  /** Takes nothing unless `stdin` was 'pipe'. */
  readonly stdin: Writable;
  /** What the program writes; with a terminal, all of it. */
  readonly stdout: Readable;
  /** What it writes to stderr; with a terminal, nothing. */
  readonly stderr: Readable;
  /**
   * Settles when the program has ended and all of its output is in the streams. An exit code other than 0 is a result, not a
   * failure. Rejects with AgentError TIMEOUT or ABORTED when it was killed for that, GUEST_GONE when the guest ended first,
   * IO when its input could not be read, or PROTOCOL.
   */
  readonly result: Promise<ExecExit>;

  private readonly session: AgentSession;
  private readonly input: GuestInput;
  private readonly outputs: readonly [GuestOutput, GuestOutput];
  private failure: AgentError | undefined;
  private killTimer: NodeJS.Timeout | undefined;

  private constructor(session: AgentSession, started: Buffer, options: ExecOptions, begin: number) {
    this.session = session;
    this.pid = started.readUInt32LE(0);
    this.input = new GuestInput(session, started.readUInt32LE(4));
    const [stdout, stderr] = (this.outputs = [new GuestOutput(), new GuestOutput()]);
    this.stdin = this.input;
    this.stdout = stdout;
    this.stderr = stderr;
    const { onStdout, onStderr, stdin } = options;
    if (onStdout !== undefined) stdout.on('data', onStdout);
    if (onStderr !== undefined) stderr.on('data', onStderr);
    if (stdin === undefined) this.input.end();
    else if (stdin instanceof Uint8Array) this.input.end(stdin);
    // A source that fails ends what it is the input of.
    else if (stdin instanceof Readable) {
      pipeline(stdin, this.input, () => {
        const error = stdin.errored;
        if (error !== null) {
          this.giveUp(
            new AgentError('IO', `stdin could not be read: ${error.message}`, { side: 'host', cause: error }),
          );
        }
      });
    }
    this.result = this.supervise(options, begin);
    // Whoever reads the streams first asks for the result later.
    this.result.catch(() => undefined);
  }

  /** @internal Starts a program. Rejects with AgentError when it does not start. */
  static async start(
    transport: AgentTransport,
    port: number,
    argv: readonly string[],
    options: ExecOptions,
  ): Promise<GuestProcess> {
    const { timeout, signal } = options;
    const begin = performance.now();
    const limits = { signal, ...(timeout === undefined ? {} : { timeout }) };
    const session = await AgentSession.open(transport, port, limits);
    const over = new AbortController();
    const abort = (): void => {
      over.abort();
    };
    const stops = [over.signal, ...(signal === undefined ? [] : [signal])];
    const timer = timeout === undefined ? undefined : setTimeout(abort, left(timeout, begin));
    const stop = AbortSignal.any(stops);
    const onStop = (): void => {
      session.destroy();
    };
    stop.addEventListener('abort', onStop);
    if (stop.aborted) onStop();
    try {
      sendRequest(session, argv, options);
      const started = await session.expect(FRAME.STARTED, 8);
      return new GuestProcess(session, started, options, begin);
    } catch (error) {
      session.destroy();
      if (signal?.aborted === true) throw aborted(signal);
      if (over.signal.aborted) throw timedOut(timeout);
      throw error;
    } finally {
      clearTimeout(timer);
      stop.removeEventListener('abort', onStop);
    }
  }

  /** Sends a signal (SIGTERM unless told) to the program's process group. Does nothing when it has ended. Throws RangeError. */
  kill(signal: NodeJS.Signals | number = 'SIGTERM'): void {
    const number = typeof signal === 'number' ? signal : constants.signals[signal];
    if (!Number.isInteger(number) || number < 0 || number > 64) throw new RangeError(`${signal} is not a signal`);
    this.session.send(FRAME.SIGNAL, words(number));
  }

  /** Tells a program with a terminal (`tty`) that its window has another size. */
  resize({ rows, columns }: TerminalSize): void {
    this.session.send(FRAME.TTY, words(rows, columns));
  }

  /** Kills the program; the result is `error`. */
  private giveUp(error: AgentError): void {
    if (this.failure !== undefined) return;
    this.failure = error;
    for (const output of this.outputs) output.discard();
    this.kill('SIGKILL');
    this.killTimer = setTimeout(() => {
      this.session.destroy();
    }, KILL_LIMIT_MS);
  }

  private async supervise({ timeout, signal }: ExecOptions, begin: number): Promise<ExecExit> {
    const onAbort = (): void => {
      if (signal !== undefined) this.giveUp(aborted(signal));
    };
    const timer =
      timeout === undefined
        ? undefined
        : setTimeout(
            () => {
              this.giveUp(timedOut(timeout));
            },
            left(timeout, begin),
          );
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted === true) onAbort();
    try {
      const exit = await this.listen();
      if (this.failure !== undefined) throw this.failure;
      for (const output of this.outputs) output.finish();
      this.session.close();
      return exit;
    } catch (error) {
      this.session.destroy();
      for (const output of this.outputs) output.destroy();
      throw this.failure ?? agentErrorOf(error);
    } finally {
      clearTimeout(timer);
      clearTimeout(this.killTimer);
      signal?.removeEventListener('abort', onAbort);
      this.input.programEnded();
    }
  }

  private async listen(): Promise<ExecExit> {
    for (;;) {
      const frame = await this.session.receive();
      const { type, payload } = frame;
      if (type === FRAME.STDOUT) await this.outputs[0].deliver(payload);
      else if (type === FRAME.STDERR) await this.outputs[1].deliver(payload);
      else if (type === FRAME.STDIN_WINDOW && payload.length === 4) this.input.grant(payload.readUInt32LE(0));
      else if (type === FRAME.STDIN_CLOSED) this.input.programEnded();
      else if (type === FRAME.EXIT && payload.length === 8) return exitOf(frame);
      else throw unexpected(frame);
    }
  }
}

/** Runs a program to its end and collects what it says. Rejects with AgentError. */
export async function runProgram(
  transport: AgentTransport,
  port: number,
  argv: readonly string[],
  { maxOutput = DEFAULT_MAX_OUTPUT, ...options }: RunOptions,
): Promise<RunResult> {
  const tooMuch = new AbortController();
  const { signal = tooMuch.signal } = options;
  const process = await GuestProcess.start(transport, port, argv, {
    ...options,
    signal: AbortSignal.any([signal, tooMuch.signal]),
  });
  const collect = (stream: Readable): Buffer[] => {
    const pieces: Buffer[] = [];
    let size = 0;
    stream.on('data', (piece: Buffer) => {
      size += piece.length;
      if (size <= maxOutput) pieces.push(piece);
      else tooMuch.abort();
    });
    return pieces;
  };
  const stdout = collect(process.stdout);
  const stderr = collect(process.stderr);
  try {
    const exit = await process.result;
    await Promise.all([process.stdout, process.stderr].map(ended));
    return { ...exit, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) };
  } catch (error) {
    if (!tooMuch.signal.aborted) throw error;
    const mend = 'read its streams (agent.exec) or raise maxOutput';
    throw new AgentError('TOO_LARGE', `the program wrote more than ${maxOutput} bytes and was killed; ${mend}`);
  }
}

/** Settles when a stream that will end has handed everything out. */
async function ended(stream: Readable): Promise<void> {
  if (!stream.readableEnded) await once(stream, 'end');
}

function sendRequest(session: AgentSession, argv: readonly string[], options: ExecOptions): void {
  const { env = {}, clearEnv = false, cwd, user, tty } = options;
  if (argv.length === 0 || argv[0] === '') throw new TypeError('argv names no program');
  for (const argument of argv) session.send(FRAME.ARG, text(argument, 'an argument'));
  for (const [name, value] of Object.entries(env)) {
    if (name === '' || name.includes('=')) throw new TypeError(`env: ${JSON.stringify(name)} cannot be a name`);
    session.send(FRAME.ENV, text(value === undefined ? name : `${name}=${value}`, `env: ${name}`));
  }
  if (cwd !== undefined) session.send(FRAME.CWD, text(cwd, 'cwd'));
  if (user !== undefined) session.send(FRAME.USER, text(user, 'user'));
  if (tty !== undefined) session.send(FRAME.TTY, words(tty.rows, tty.columns));
  session.send(FRAME.EXEC, words(clearEnv ? EXEC_CLEAR_ENV : 0));
}

function text(value: string, what: string): Buffer {
  if (value.includes('\0')) throw new TypeError(`${what} has a NUL in it`);
  return Buffer.from(value);
}

/** Throws AgentError PROTOCOL for what no program of Linux ends with: 256 would be 0 as an exit status here. */
function exitOf(frame: Frame): ExecExit {
  const [exitCode, number] = [frame.payload.readUInt32LE(0), frame.payload.readUInt32LE(4)];
  if (exitCode > 255 || number > 64) throw unexpected(frame);
  if (number === 0) return { exitCode, signal: null };
  const known = Object.entries(constants.signals).find(([, value]) => value === number);
  // Real-time signals have no names of their own.
  return { exitCode: null, signal: (known?.[0] ?? `SIG${number}`) as NodeJS.Signals };
}

function left(timeout: number, begin: number): number {
  return Math.max(1, timeout - (performance.now() - begin));
}

function aborted(signal: AbortSignal): AgentError {
  return new AgentError('ABORTED', 'the program was aborted and killed', { cause: signal.reason });
}

function timedOut(timeout: number | undefined): AgentError {
  return new AgentError('TIMEOUT', `the program did not end within its ${timeout ?? 0} ms and was killed`);
}

/** What the program wrote. */
class GuestOutput extends Readable {
  private wanted: (() => void) | undefined;
  private discarding = false;

  override _read(): void {
    this.wanted?.();
    this.wanted = undefined;
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    // A reader that has gone is not to hold the other stream up.
    this.discard();
    callback(error);
  }

  /** Settles when more may come. */
  async deliver(piece: Buffer): Promise<void> {
    if (this.discarding || this.push(piece)) return;
    await new Promise<void>((resolve) => {
      this.wanted = resolve;
    });
  }

  finish(): void {
    if (!this.destroyed) this.push(null);
  }

  discard(): void {
    this.discarding = true;
    this._read();
  }
}

/** What the program is to read. When it reads no more, the rest is dropped as if it had been read. */
class GuestInput extends Writable {
  private readonly session: AgentSession;
  private window: number;
  private pending: Uint8Array = Buffer.alloc(0);
  private callback: (() => void) | undefined;
  private deaf = false;
  /** Whether the session has taken as much as it should: the window alone is the guest's word. */
  private full = false;

  constructor(session: AgentSession, window: number) {
    super();
    this.session = session;
    this.window = window;
  }

  override _write(piece: Uint8Array, _encoding: BufferEncoding, callback: () => void): void {
    this.pending = piece;
    this.callback = callback;
    this.pump();
  }

  override _final(callback: () => void): void {
    if (!this.deaf) this.session.send(FRAME.STDIN);
    callback();
  }

  grant(bytes: number): void {
    this.window += bytes;
    this.pump();
  }

  programEnded(): void {
    this.deaf = true;
    this.pump();
  }

  private awaitRoom(): void {
    this.full = true;
    this.session.stream.once('drain', () => {
      this.full = false;
      this.pump();
    });
  }

  private pump(): void {
    if (this.deaf) this.pending = this.pending.subarray(this.pending.length);
    while (this.pending.length > 0 && this.window > 0 && !this.full) {
      const length = Math.min(this.pending.length, this.window, STDIN_PIECE);
      if (!this.session.send(FRAME.STDIN, this.pending.subarray(0, length))) this.awaitRoom();
      this.pending = this.pending.subarray(length);
      this.window -= length;
    }
    const { callback } = this;
    if (this.pending.length > 0 || callback === undefined) return;
    this.callback = undefined;
    callback();
  }
}
