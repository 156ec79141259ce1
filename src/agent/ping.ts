// A round trip to the agent. Main thread.

import { FRAME } from './protocol.js';
import { AgentSession } from './session.js';
import type { AgentTransport, ConnectLimits } from './transport.js';

/** Milliseconds between question and answer, on a connection made for it. Rejects with AgentError. */
export async function ping(transport: AgentTransport, port: number, limits: ConnectLimits): Promise<number> {
  const session = await AgentSession.open(transport, port, limits);
  try {
    const begin = performance.now();
    session.send(FRAME.PING);
    await session.expect(FRAME.PONG);
    return performance.now() - begin;
  } finally {
    session.destroy();
  }
}
