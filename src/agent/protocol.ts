// The agent's protocol: numbers, and frames to and from bytes. docs/agent.md describes it, firmware/agent/protocol.h has
// the same numbers. Main thread.

import { AgentError, type AgentErrorCode } from './errors.js';

/** "tsvA" */
export const MAGIC = 0x41767374;
export const VERSION = 2;

/** le32 length of the payload, le32 type. */
export const FRAME_HEADER = 8;
export const FRAME_MAX = 131_072;

export const FRAME = {
  HELLO: 1,
  ERROR: 2,
  PING: 3,
  PONG: 4,
  SYNC: 5,
  ARG: 16,
  ENV: 17,
  CWD: 18,
  TTY: 19,
  EXEC: 20,
  STARTED: 21,
  STDIN: 22,
  STDIN_WINDOW: 23,
  STDIN_CLOSED: 24,
  STDOUT: 25,
  STDERR: 26,
  SIGNAL: 27,
  EXIT: 28,
  USER: 29,
  PUT: 32,
  GET: 33,
  DIR: 34,
  UP: 35,
  FILE: 36,
  DATA: 37,
  FILE_END: 38,
  LINK: 39,
  TREE_END: 40,
  DONE: 41,
  METRICS: 48,
  FORWARD: 49,
  CONNECTED: 50,
  BYTES: 51,
  BYTES_END: 52,
  SERVE: 53,
  SERVING: 54,
  SERVICE: 55,
} as const;

export const EXEC_CLEAR_ENV = 1;

/** Of the text of an ERROR, as long as a path. */
const ERROR_TEXT_MAX = 4096;

export interface Frame {
  readonly type: number;
  readonly payload: Buffer;
}

/** Errors that this side tells the agent's. */
export const ERROR_REFUSED = 14;
export const ERROR_NO_SERVICE = 17;

/** enum error_code, and what to say of each; `what` is the path, program or reason that the agent names. */
const ERRORS: Readonly<Record<number, readonly [AgentErrorCode, (what: string) => string]>> = {
  1: ['PROTOCOL', (what) => `the agent was sent something it does not understand: ${what}`],
  2: ['AGENT_VERSION', (what) => `${what}; use the agent of this version of tsvmm`],
  3: ['PROGRAM_NOT_FOUND', (what) => `the guest has no program ${what}; name its path, or set PATH in env`],
  4: ['NOT_EXECUTABLE', (what) => `the guest cannot execute ${what}`],
  5: ['BAD_CWD', (what) => `the guest cannot work in ${what}`],
  6: ['TOO_LARGE', (what) => what],
  7: ['NO_TTY', (what) => `the guest gives no terminal: ${what}; mount devpts, or do without tty`],
  8: ['IO', (what) => `the guest cannot read or write ${what}`],
  9: ['DISK_FULL', (what) => `the guest has no room for ${what}`],
  10: ['EXISTS', (what) => `the guest has something at ${what} that the copy does not replace; remove it first`],
  11: ['PATH_NOT_FOUND', (what) => `the guest has nothing at ${what}`],
  12: [
    'UNSUPPORTED_FILE',
    (what) => `${what} in the guest is no file, folder or symbolic link, or is nested too deeply`,
  ],
  13: ['CHECKSUM', (what) => `${what} arrived in the guest other than it was sent`],
  14: ['REFUSED', (what) => what],
  15: ['NO_PROCESS', (what) => `the guest is out of processes or memory: ${what}`],
  16: ['GUEST_PORT', (what) => `the guest cannot listen at ${what}; something else may use it there`],
  18: ['NO_USER', (what) => `the guest cannot run a program as ${what}: no such user or group, or not for its agent`],
};

/** The failure that an ERROR frame tells of. */
export function errorOf(payload: Buffer): AgentError {
  const [code, describe] = ERRORS[payload.length < 8 ? 0 : payload.readUInt32LE(0)] ?? [
    'PROTOCOL' as const,
    (what: string) => `the agent failed: ${what}`,
  ];
  const errno = payload.length < 8 ? 0 : payload.readUInt32LE(4);
  const what = payload.subarray(8, 8 + ERROR_TEXT_MAX).toString();
  const text = describe(JSON.stringify(what).slice(1, -1));
  const message = errno === 0 ? text : `${text} (errno ${errno})`;
  return new AgentError(code, message, { side: 'guest', ...(errno === 0 ? {} : { errno }) });
}

export function words(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => bytes.writeUInt32LE(value, 4 * index));
  return bytes;
}

export function frameHeader(type: number, length: number): Buffer {
  if (length > FRAME_MAX) {
    throw new AgentError('TOO_LARGE', `${length} bytes are more than the ${FRAME_MAX} that the agent takes at once`);
  }
  return words(length, type);
}

/** Puts frames together from the pieces of a stream. */
export class FrameParser {
  private pieces: Buffer[] = [];
  private have = 0;

  /** Takes a piece and gives the frames that it completes. Throws AgentError PROTOCOL. */
  *push(piece: Buffer): Generator<Frame> {
    this.pieces.push(piece);
    this.have += piece.length;
    for (;;) {
      if (this.have < FRAME_HEADER) return;
      const header = this.look(FRAME_HEADER);
      const length = header.readUInt32LE(0);
      if (length > FRAME_MAX) throw new AgentError('PROTOCOL', 'what listens at that port is no agent of tsvmm');
      if (this.have < FRAME_HEADER + length) return;
      const whole = this.look(FRAME_HEADER + length);
      this.drop(whole.length);
      yield { type: whole.readUInt32LE(4), payload: whole.subarray(FRAME_HEADER) };
    }
  }

  /** The next `count` bytes as one piece; that many are there. */
  private look(count: number): Buffer {
    if (this.pieces.length > 0 && (this.pieces[0]?.length ?? 0) >= count) return this.pieces[0].subarray(0, count);
    const whole = Buffer.concat(this.pieces);
    this.pieces = [whole];
    return whole.subarray(0, count);
  }

  private drop(count: number): void {
    this.have -= count;
    const [first, ...others] = this.pieces;
    this.pieces = first.length === count ? others : [first.subarray(count), ...others];
  }
}
