// Agents that a test makes up: what they say is a list of bytes, and what they hear is up to the test. Without sockets, so that
// bytes can come without the event loop having its turn, as they do from a guest that writes all the time.

import { Duplex } from 'node:stream';
import { GuestAgent } from '../../src/agent/guest-agent.js';
import { FRAME, frameHeader, MAGIC, VERSION, words } from '../../src/agent/protocol.js';
import type { AgentTransport } from '../../src/agent/transport.js';

export function frame(type: number, payload: Uint8Array | string = ''): Buffer {
  const bytes = Buffer.from(payload as string);
  return Buffer.concat([frameHeader(type, bytes.length), bytes]);
}

export const HELLO = frame(FRAME.HELLO, words(MAGIC, VERSION));
/** Of process 1, with a window of `window` bytes. */
export function started(window = 262_144): Buffer {
  return frame(FRAME.STARTED, words(1, window));
}

export interface Script {
  /** What it says; then it is silent, or hangs up. */
  readonly says: Iterable<Buffer>;
  readonly hangsUp?: boolean;
  /** It takes nothing of what it is sent beyond that many bytes. */
  readonly takes?: number;
}

/** The host's end of a connection to such an agent. */
export class ScriptedStream extends Duplex {
  /** Bytes that it was sent and has taken. */
  taken = 0;
  private readonly pieces: Iterator<Buffer>;
  private readonly script: Script;

  constructor(script: Script) {
    super({ allowHalfOpen: true });
    this.script = script;
    this.pieces = script.says[Symbol.iterator]();
  }

  override _read(): void {
    const next = this.pieces.next();
    if (next.done !== true) this.push(next.value);
    else if (this.script.hangsUp === true) this.push(null);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    if (this.taken > (this.script.takes ?? Infinity)) return;
    this.taken += chunk.length;
    callback();
  }
}

/** A guest whose agent is one of those. */
export class ScriptedGuest {
  readonly streams: ScriptedStream[] = [];
  readonly agent: GuestAgent;
  /** An agent's call to the host. */
  call: (stream: Duplex) => void = () => undefined;

  /** Every connection gets the next script, the last one for good. */
  constructor(...scripts: readonly Script[]) {
    const transport: AgentTransport = {
      connect: () => {
        const script = scripts[Math.min(this.streams.length, scripts.length - 1)];
        const stream = new ScriptedStream(script);
        this.streams.push(stream);
        return Promise.resolve(stream);
      },
      listen: (_port, onConnection) => {
        this.call = onConnection;
      },
      ended: new Promise(() => undefined),
    };
    this.agent = new GuestAgent(transport);
  }

  /** Whether every connection is over. */
  get quiet(): boolean {
    return this.streams.every(({ destroyed }) => destroyed);
  }
}
