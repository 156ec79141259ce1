// A client of the HTTP API on its Unix socket. What goes wrong is told in one sentence.

import { request } from 'node:http';
import { errorCode } from '../../config/error-code.js';

/** The largest answer is that of vm.counters: some KiB. */
const MAX_ANSWER_SIZE = 16 * 1024 * 1024;

export type CtlErrorKind =
  /** Nobody can be reached at the socket. */
  | 'unreachable'
  /** The monitor has answered, with an error. */
  | 'refused';

export class CtlError extends Error {
  override readonly name = 'CtlError';
  readonly kind: CtlErrorKind;

  constructor(kind: CtlErrorKind, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.kind = kind;
  }
}

export class ApiClient {
  private readonly socketPath: string;

  constructor(socketPath: string) {
    this.socketPath = socketPath;
  }

  /** The body of the answer; undefined when there is none. Rejects with CtlError. */
  get(name: string): Promise<unknown> {
    return this.send('GET', name, undefined);
  }

  put(name: string, body?: unknown): Promise<unknown> {
    return this.send('PUT', name, body);
  }

  private async send(method: string, name: string, body: unknown): Promise<unknown> {
    const { status, text } = await this.exchange(method, `/api/v1/${name}`, body);
    if (status === 204) return undefined;
    if (status !== 200) throw new CtlError('refused', plainMessage(status, text));
    return parse(text) ?? undefined;
  }

  private exchange(method: string, path: string, body: unknown): Promise<{ status: number; text: string }> {
    const { socketPath } = this;
    const content = body === undefined ? '' : JSON.stringify(body);
    const headers = {
      Host: 'localhost',
      'Content-Type': 'application/json',
      'Content-Length': Buffer.byteLength(content),
    };
    return new Promise((resolve, reject) => {
      const outgoing = request({ socketPath, method, path, headers, agent: false }, (incoming) => {
        const pieces: Buffer[] = [];
        let size = 0;
        incoming.on('data', (piece: Buffer) => {
          pieces.push(piece);
          size += piece.length;
          if (size > MAX_ANSWER_SIZE) incoming.destroy(new Error('the answer is too long'));
        });
        incoming.on('end', () => {
          resolve({ status: incoming.statusCode ?? 0, text: Buffer.concat(pieces).toString() });
        });
        incoming.on('error', (error) => {
          reject(unreachable(socketPath, error));
        });
      });
      outgoing.on('error', (error) => {
        reject(unreachable(socketPath, error));
      });
      outgoing.end(content);
    });
  }
}

/** The messages of an error's body as one line; the body as it is when it has another form. */
export function plainMessage(status: number, text: string): string {
  const body = parse(text);
  if (!Array.isArray(body) || body.length === 0)
    return `the API answers ${status}${text === '' ? '' : `: ${text.trim()}`}`;
  const messages = body.map(String);
  // The first says no more than the status, where others follow.
  return (messages.length > 1 ? messages.slice(1) : messages).join(': ');
}

/** What it means that a connection to `path` fails by `error`. */
export function unreachable(path: string, error: unknown): CtlError {
  const code = errorCode(error);
  const why: Partial<Record<string, string>> = {
    ENOENT: `there is no socket at ${path}; is the VM running, and with --api-socket?`,
    ECONNREFUSED: `nobody listens at ${path}: the process that did has ended`,
    ENOTSOCK: `${path} is not a socket`,
    EACCES: `no permission to connect to ${path}; run this as the user who started the VM`,
    ECONNRESET: `the monitor at ${path} closed the connection before it answered`,
  };
  const reason = error instanceof Error ? error.message : String(error);
  return new CtlError('unreachable', why[code ?? ''] ?? `${path} cannot be used (${code ?? reason})`, error);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
