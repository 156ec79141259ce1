// What the guest says of its load. Main thread. The guest may say anything: what is no number is left out.

import { FRAME } from './protocol.js';
import { AgentSession } from './session.js';
import type { AgentTransport, ConnectLimits } from './transport.js';

/** As far as the guest's kernel tells; `memoryAvailable` and `processes` want /proc to be mounted there. */
export interface GuestMetrics {
  readonly uptimeSeconds: number;
  /** Averages over 1, 5 and 15 minutes. */
  readonly load: readonly [number, number, number];
  readonly cpus: number;
  /** Bytes, as the others. */
  readonly memoryTotal: number;
  readonly memoryFree: number;
  readonly memoryAvailable: number | undefined;
  readonly swapTotal: number;
  readonly swapFree: number;
  readonly processes: number | undefined;
}

/** Asks once. Rejects with AgentError. */
export async function readMetrics(
  transport: AgentTransport,
  port: number,
  limits: ConnectLimits,
): Promise<GuestMetrics> {
  const session = await AgentSession.open(transport, port, limits);
  try {
    session.send(FRAME.METRICS);
    return parseMetrics((await session.expect(FRAME.METRICS)).toString('latin1'));
  } finally {
    session.destroy();
  }
}

function parseMetrics(text: string): GuestMetrics {
  const values = new Map<string, number>();
  for (const line of text.split('\n')) {
    const match = /^([a-z0-9_]+) (\d{1,20})$/.exec(line);
    if (match !== null) values.set(match[1], Number(match[2]));
  }
  const value = (name: string): number => values.get(name) ?? 0;
  return {
    uptimeSeconds: value('uptime_seconds'),
    load: [value('load1_thousandths') / 1000, value('load5_thousandths') / 1000, value('load15_thousandths') / 1000],
    cpus: value('cpus'),
    memoryTotal: value('memory_total'),
    memoryFree: value('memory_free'),
    memoryAvailable: values.get('memory_available'),
    swapTotal: value('swap_total'),
    swapFree: value('swap_free'),
    processes: values.get('processes'),
  };
}
