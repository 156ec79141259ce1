// Has the guest write to its disks what it holds in memory, so that the plug may be pulled. Main thread.

import { FRAME } from './protocol.js';
import { AgentSession } from './session.js';
import type { AgentTransport, ConnectLimits } from './transport.js';

/** Disks are slow: unless told, this long. */
const LIMIT_MS = 60_000;

/** Settles when all of it is written. Rejects with AgentError. */
export async function syncDisks(
  transport: AgentTransport,
  port: number,
  { timeout = LIMIT_MS, signal }: ConnectLimits,
): Promise<void> {
  await AgentSession.request(transport, port, { timeout, signal }, async (session) => {
    session.send(FRAME.SYNC);
    await session.expect(FRAME.SYNC);
  });
}
