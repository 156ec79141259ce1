// The way to an agent through the vsock Unix socket of a running monitor: tsvmm's, Firecracker's or Cloud Hypervisor's,
// which all take `CONNECT <port>` (src/vsock/handshake.ts). Main thread.
//
// Left out: hearing the agent's call, which goes to whoever started the VM.

import { connect as connectSocket, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { ANSWER_LIMIT, HANDSHAKE_INVALID, HANDSHAKE_PARTIAL, parseAnswer } from '../vsock/handshake.js';
import { VsockError } from '../vsock/in-process/errors.js';
import { AgentError } from './errors.js';
import { GuestAgent } from './guest-agent.js';
import type { AgentTransport, ConnectLimits } from './transport.js';

/** What can be asked of an agent whose VM is not of this process: nothing tells here when it becomes ready. */
export type DistantAgent = Pick<
  GuestAgent,
  'ping' | 'exec' | 'run' | 'copyIn' | 'copyOut' | 'sync' | 'metrics' | 'publish'
>;

/**
 * The agent in the guest of another process, by the path of the monitor's vsock socket. Nothing is opened before something is
 * asked of it; AgentError HOST_SOCKET says then that nobody can be reached there.
 */
export function agentAt(socketPath: string, port?: number): DistantAgent {
  return new GuestAgent(unixTransport(socketPath), port === undefined ? {} : { port });
}

/** Streams to the guest's ports through the socket at `path`. */
export function unixTransport(path: string): AgentTransport {
  return {
    connect: (port, limits) => connect(path, port, limits),
    listen: () => undefined,
    ended: new Promise(() => undefined),
  };
}

function connect(path: string, port: number, { timeout, signal }: ConnectLimits): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const socket = connectSocket({ path, allowHalfOpen: true });
    let head = Buffer.alloc(0);
    const timer =
      timeout === undefined
        ? undefined
        : setTimeout(() => {
            fail(new VsockError('TIMED_OUT', port));
          }, timeout);
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      socket.off('error', onError);
      socket.off('readable', onReadable);
      socket.off('end', onEnd);
    };
    const fail = (error: Error): void => {
      done();
      socket.on('error', () => undefined);
      socket.destroy();
      reject(error);
    };
    const onAbort = (): void => {
      fail(new VsockError('ABORTED', port));
    };
    const onError = (error: Error): void => {
      fail(unreachable(path, error));
    };
    // Monitors close without a word: no driver yet, nobody at that port, or no answer in their time.
    const onEnd = (): void => {
      fail(new VsockError('REFUSED', port));
    };
    const onReadable = (): void => {
      const answer = readAnswer(socket, head);
      if (answer === HANDSHAKE_INVALID) {
        const mend = 'name the socket of --vsock, not of --api-socket or of a port';
        fail(new AgentError('HOST_SOCKET', `what listens at ${path} is no monitor's vsock socket; ${mend}`));
      } else if (answer === HANDSHAKE_CONNECTED) {
        done();
        resolve(socket);
      } else head = answer;
    };
    socket.on('error', onError);
    socket.on('readable', onReadable);
    socket.on('end', onEnd);
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted === true) onAbort();
    else socket.write(`CONNECT ${port}\n`);
  });
}

const HANDSHAKE_CONNECTED = 'connected';

/** Reads on behind `head`. What follows the answer is put back: it belongs to the connection. */
function readAnswer(
  socket: Socket,
  head: Buffer<ArrayBuffer>,
): Buffer<ArrayBuffer> | typeof HANDSHAKE_INVALID | typeof HANDSHAKE_CONNECTED {
  let bytes = head;
  for (;;) {
    const piece = socket.read() as Buffer | null;
    if (piece === null) return bytes;
    bytes = Buffer.concat([bytes, piece]);
    const length = parseAnswer(bytes, Math.min(bytes.length, ANSWER_LIMIT));
    if (length === HANDSHAKE_INVALID) return HANDSHAKE_INVALID;
    if (length === HANDSHAKE_PARTIAL) continue;
    if (bytes.length > length) socket.unshift(bytes.subarray(length));
    return HANDSHAKE_CONNECTED;
  }
}

function unreachable(path: string, error: Error): AgentError {
  const code = 'code' in error ? error.code : undefined;
  const why: Partial<Record<string, string>> = {
    ENOENT: `there is no socket at ${path}; is the VM running, and with --vsock cid=N,socket=${path}?`,
    ECONNREFUSED: `nobody listens at ${path}: the monitor that did has ended, or it is no socket`,
    ENOTSOCK: `${path} is no socket`,
    EACCES: `no permission to connect to ${path}; run this as the user who started the VM`,
  };
  const message = why[String(code)] ?? `${path} cannot be connected to: ${error.message}`;
  return new AgentError('HOST_SOCKET', message, { side: 'host', cause: error });
}
