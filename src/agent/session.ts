// One connection to the agent: opened, greeted, then frames both ways. Each request has one of its own. Main thread.

import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { VsockError } from '../vsock/in-process/errors.js';
import { AgentError, type AgentErrorCode } from './errors.js';
import { errorOf, FRAME, type Frame, FrameParser, frameHeader, MAGIC, VERSION, words } from './protocol.js';
import type { AgentTransport, ConnectLimits } from './transport.js';

/** How long an agent may take to answer, which has to fork for it; guests are slow at times. */
const GREETING_LIMIT_MS = 30_000;
/** How long a guest may take to take what was sent to it last. */
const CLOSE_LIMIT_MS = 10_000;
/** Below this a frame is one write. */
const SMALL = 4096;
/** What may be read before timers and other work of the process have their turn: a guest can send without end. */
const TURN_BYTES = 1024 * 1024;
const TURN_FRAMES = 512;

const GONE = 'the connection to the agent broke off: the guest has ended or reset, or the agent was killed';

const CODES: Readonly<Partial<Record<VsockError['code'], readonly [AgentErrorCode, string]>>> = {
  DRIVER_NOT_READY: ['AGENT_MISSING', 'the guest has no vsock driver running yet; await agent.waitReady() first'],
  REFUSED: ['AGENT_MISSING', 'no agent answers in the guest; start tsvmm-agent there, or await agent.waitReady()'],
  TIMED_OUT: ['TIMEOUT', 'the agent did not answer in time'],
  ABORTED: ['ABORTED', 'the request was aborted'],
  RESET: ['GUEST_GONE', GONE],
  CLOSED: ['GUEST_GONE', GONE],
};

/** A stream's failure in the agent's words. */
export function agentErrorOf(error: unknown): unknown {
  if (error instanceof AgentError) return error;
  const [code, message] = (error instanceof VsockError ? CODES[error.code] : undefined) ?? [];
  if (code !== undefined && message !== undefined) return new AgentError(code, message, { cause: error });
  // Unix sockets, in tests, and pipes of Node's own.
  const name = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
  if (name === 'ECONNRESET' || name === 'EPIPE' || name === 'ERR_STREAM_PREMATURE_CLOSE') {
    return new AgentError('GUEST_GONE', GONE, { cause: error });
  }
  return error;
}

export class AgentSession {
  readonly stream: Duplex;
  private readonly parser = new FrameParser();
  private readonly incoming: AsyncGenerator<Frame, undefined>;
  private failure: unknown;

  private constructor(stream: Duplex) {
    this.stream = stream;
    // Told by whoever reads or writes; without a listener Node would end the process.
    stream.on('error', (error) => {
      this.failure ??= error;
    });
    this.incoming = this.read();
  }

  /** A session for one question, all of which is to be done within the limits. Rejects with AgentError. */
  static async request<T>(
    transport: AgentTransport,
    port: number,
    limits: ConnectLimits,
    ask: (session: AgentSession) => Promise<T>,
  ): Promise<T> {
    const { timeout = GREETING_LIMIT_MS, signal } = limits;
    const deadline = AbortSignal.timeout(timeout);
    const stop = signal === undefined ? deadline : AbortSignal.any([signal, deadline]);
    const session = await AgentSession.open(transport, port, { timeout, signal });
    const onStop = (): void => {
      session.destroy();
    };
    stop.addEventListener('abort', onStop);
    if (stop.aborted) onStop();
    try {
      return await ask(session);
    } catch (error) {
      throw stopError(signal, deadline, timeout) ?? error;
    } finally {
      stop.removeEventListener('abort', onStop);
      session.destroy();
    }
  }

  /** Of a connection that the guest has made; not greeted yet. */
  static of(stream: Duplex): AgentSession {
    return new AgentSession(stream);
  }

  /** Connects and greets. Rejects with AgentError. */
  static async open(transport: AgentTransport, port: number, limits: ConnectLimits = {}): Promise<AgentSession> {
    const { timeout = GREETING_LIMIT_MS, signal } = limits;
    const deadline = AbortSignal.timeout(timeout);
    const stop = signal === undefined ? deadline : AbortSignal.any([signal, deadline]);
    let session: AgentSession | undefined;
    const onStop = (): void => {
      session?.destroy();
    };
    stop.addEventListener('abort', onStop);
    try {
      session = new AgentSession(await transport.connect(port, { timeout, signal }));
      if (stop.aborted) session.destroy();
      await session.greet();
      return session;
    } catch (error) {
      session?.destroy();
      throw stopError(signal, deadline, timeout) ?? agentErrorOf(error);
    } finally {
      stop.removeEventListener('abort', onStop);
    }
  }

  /** Says HELLO and hears it. Rejects with AgentError. */
  async greet(): Promise<void> {
    this.send(FRAME.HELLO, words(MAGIC, VERSION));
    checkGreeting(await this.expect(FRAME.HELLO));
  }

  /** Returns whether more may follow at once. */
  send(type: number, payload: Uint8Array = Buffer.alloc(0)): boolean {
    const { stream } = this;
    const header = frameHeader(type, payload.length);
    if (stream.destroyed || stream.writableEnded) return false;
    if (payload.length <= SMALL) return stream.write(Buffer.concat([header, payload]));
    stream.cork();
    stream.write(header);
    const goesOn = stream.write(payload);
    stream.uncork();
    return goesOn;
  }

  /** Sends, and waits until more may follow. Rejects with AgentError GUEST_GONE. */
  async sendAll(type: number, payload?: Uint8Array): Promise<void> {
    if (this.send(type, payload)) return;
    const { stream } = this;
    if (!stream.destroyed) {
      const over = new AbortController();
      const { signal } = over;
      try {
        await Promise.race([once(stream, 'drain', { signal }), once(stream, 'close', { signal })]);
      } catch (error) {
        throw agentErrorOf(error);
      } finally {
        over.abort();
      }
    }
    if (stream.destroyed) throw agentErrorOf(this.failure ?? new VsockError('RESET'));
  }

  /** The next frame; an ERROR is thrown. Rejects with AgentError GUEST_GONE when there is none. */
  async receive(): Promise<Frame> {
    let next: IteratorResult<Frame, undefined>;
    try {
      next = await this.incoming.next();
    } catch (error) {
      throw agentErrorOf(this.failure ?? error);
    }
    if (next.done === true) throw agentErrorOf(this.failure ?? new VsockError('RESET'));
    if (next.value.type === FRAME.ERROR) throw errorOf(next.value.payload);
    return next.value;
  }

  /** The payload of the next frame, which is of that type and has `size` bytes at least. */
  async expect(type: number, size = 0): Promise<Buffer> {
    const frame = await this.receive();
    if (frame.type !== type || frame.payload.length < size) throw unexpected(frame);
    return frame.payload;
  }

  /** Ends the session in order: the agent hangs up when it has seen that. */
  close(): void {
    this.stream.end();
    this.stream.resume();
    // A guest that does not hang up is not waited for, and one that takes nothing more not for long.
    const limit = setTimeout(() => this.stream.destroy(), CLOSE_LIMIT_MS).unref();
    this.stream.once('finish', () => this.stream.destroy());
    this.stream.once('close', () => {
      clearTimeout(limit);
    });
  }

  /** Ends it at once, which also ends what runs in it. */
  destroy(): void {
    this.stream.destroy();
  }

  private async *read(): AsyncGenerator<Frame, undefined> {
    const { stream, parser } = this;
    let bytes = 0;
    let frames = 0;
    for (;;) {
      const piece = stream.read() as Buffer | null;
      if (piece === null) {
        if (stream.readableEnded || stream.destroyed) return undefined;
        await readable(stream);
        bytes = frames = 0;
        continue;
      }
      bytes += piece.length;
      for (const frame of parser.push(piece)) {
        yield frame;
        frames += 1;
        if (bytes < TURN_BYTES && frames < TURN_FRAMES) continue;
        bytes = frames = 0;
        await nextTurn();
      }
    }
  }
}

/** Why a request was given up, if it was. */
function stopError(signal: AbortSignal | undefined, deadline: AbortSignal, timeout: number): AgentError | undefined {
  if (signal?.aborted === true) return new AgentError('ABORTED', 'the request was aborted', { cause: signal.reason });
  return deadline.aborted ? new AgentError('TIMEOUT', `the agent did not answer within ${timeout} ms`) : undefined;
}

/** Settles when there is something to read, or never will be. */
async function readable(stream: Duplex): Promise<void> {
  const over = new AbortController();
  const { signal } = over;
  try {
    await Promise.race([
      once(stream, 'readable', { signal }),
      once(stream, 'end', { signal }),
      once(stream, 'close', { signal }),
    ]);
  } finally {
    over.abort();
  }
}

export function unexpected({ type, payload }: Frame): AgentError {
  return new AgentError('PROTOCOL', `the agent sent a frame of type ${type} and ${payload.length} bytes out of place`);
}

function checkGreeting(payload: Buffer): void {
  if (payload.length < 8 || payload.readUInt32LE(0) !== MAGIC) {
    throw new AgentError('PROTOCOL', 'what listens at that port is no agent of tsvmm');
  }
  const version = payload.readUInt32LE(4);
  if (version === VERSION) return;
  const mend = 'put the agent of this version of tsvmm into the guest';
  throw new AgentError('AGENT_VERSION', `the guest's agent speaks version ${version}, this is ${VERSION}; ${mend}`);
}
