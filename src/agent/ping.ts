// A round trip to the agent. Main thread.

import { FRAME } from './protocol.js';
import { AgentSession } from './session.js';
import type { AgentTransport, ConnectLimits } from './transport.js';

/** Milliseconds between question and answer, on a connection made for it. Rejects with AgentError. */
export function ping(transport: AgentTransport, port: number, limits: ConnectLimits): Promise<number> {
  return AgentSession.request(transport, port, limits, async (session) => {
    const begin = performance.now();
    session.send(FRAME.PING);
    await session.expect(FRAME.PONG);
    return performance.now() - begin;
  });
}
