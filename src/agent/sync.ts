// Has the guest write to its disks what it holds in memory, so that the plug may be pulled. Main thread.

import { AgentError } from './errors.js';
import { FRAME } from './protocol.js';
import { AgentSession } from './session.js';
import type { AgentTransport, ConnectLimits } from './transport.js';

/** Settles when all of it is written. Rejects with AgentError. */
export async function syncDisks(
  transport: AgentTransport,
  port: number,
  { timeout, signal }: ConnectLimits,
): Promise<void> {
  const stops = [
    ...(signal === undefined ? [] : [signal]),
    ...(timeout === undefined ? [] : [AbortSignal.timeout(timeout)]),
  ];
  const stop = AbortSignal.any(stops);
  const session = await AgentSession.open(transport, port, { timeout, signal });
  const onStop = (): void => {
    session.destroy();
  };
  stop.addEventListener('abort', onStop);
  try {
    if (stop.aborted) onStop();
    session.send(FRAME.SYNC);
    await session.expect(FRAME.SYNC);
  } catch (error) {
    if (signal?.aborted === true) throw new AgentError('ABORTED', 'the wait was aborted', { cause: signal.reason });
    if (stop.aborted) throw new AgentError('TIMEOUT', `the guest has not written its disks within ${timeout ?? 0} ms`);
    throw error;
  } finally {
    stop.removeEventListener('abort', onStop);
    session.destroy();
  }
}
