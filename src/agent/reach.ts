// How a connection of the host gets to its place in the guest: a TCP port by way of the agent, or a vsock port. One that comes
// before the guest is ready waits for it, so that a port works from the moment it is listened at. Main thread.

import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { VsockError } from '../vsock/in-process/errors.js';
import { CarriedStream } from './carried-stream.js';
import { AgentError } from './errors.js';
import { FRAME, words } from './protocol.js';
import { agentErrorOf, AgentSession } from './session.js';
import type { AgentTransport } from './transport.js';

/** Opens a stream to the guest. `signal` ends the wait for it. */
export type Reach = (signal: AbortSignal) => Promise<Duplex>;

/** What a guest's server has to start listening, as it is looked for: first soon, then less often. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2000;

/** What of the agent's half is used. */
export interface ReachableAgent {
  readonly transport: AgentTransport;
  /** The agent's. */
  readonly port: number;
  readonly waitReady: (signal: AbortSignal) => Promise<void>;
}

/** To a TCP port of the guest, at 127.0.0.1. */
export function reachTcp({ transport, port, waitReady }: ReachableAgent, guestPort: number): Reach {
  const attempt: Reach = async (signal) => {
    const session = await AgentSession.open(transport, port, { signal });
    const onAbort = (): void => {
      session.destroy();
    };
    signal.addEventListener('abort', onAbort);
    try {
      session.send(FRAME.FORWARD, words(guestPort));
      await session.expect(FRAME.CONNECTED);
      return new CarriedStream(session);
    } catch (error) {
      session.destroy();
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  };
  return patiently(attempt, async (signal) => {
    await waitReady(signal);
    return attempt(signal);
  });
}

/** To a vsock port of the guest. */
export function reachVsock(transport: AgentTransport, vsockPort: number): Reach {
  const attempt = async (signal: AbortSignal, waitForDriver = false): Promise<Duplex> => {
    try {
      return await transport.connect(vsockPort, { signal, waitForDriver });
    } catch (error) {
      throw vsockFailure(error, vsockPort);
    }
  };
  return patiently(attempt, (signal) => attempt(signal, true));
}

/**
 * A guest that is not ready yet is waited for, which the first attempt of `whenReady` does, and then for somebody to listen
 * at the port. One that was ready refuses at once.
 */
function patiently(attempt: Reach, whenReady: Reach): Reach {
  return async (signal) => {
    try {
      return await attempt(signal);
    } catch (error) {
      if (!isOneOf(error, NOT_READY)) throw error;
    }
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      try {
        return await whenReady(signal);
      } catch (error) {
        if (!isOneOf(error, NOT_READY) && !isOneOf(error, ['REFUSED'])) throw error;
      }
      await sleep(pause, undefined, { signal, ref: false });
    }
  };
}

/** A guest that reboots breaks connections off. */
const NOT_READY: readonly AgentError['code'][] = ['AGENT_MISSING', 'GUEST_GONE'];

function isOneOf(error: unknown, codes: readonly AgentError['code'][]): boolean {
  return error instanceof AgentError && codes.includes(error.code);
}

/** In the agent's words, as far as they do not speak of an agent. */
function vsockFailure(error: unknown, port: number): unknown {
  if (!(error instanceof VsockError)) return agentErrorOf(error);
  if (error.code === 'REFUSED') {
    const message = `nobody answers at vsock port ${port} of the guest`;
    return new AgentError('REFUSED', message, { side: 'guest', cause: error });
  }
  if (error.code === 'DRIVER_NOT_READY') {
    return new AgentError('AGENT_MISSING', 'the guest has no vsock driver running yet', { cause: error });
  }
  if (error.code === 'TIMED_OUT') {
    return new AgentError('TIMEOUT', 'the guest did not answer in time', { cause: error });
  }
  return agentErrorOf(error);
}
