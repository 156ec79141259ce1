// What the guest says of its load. Main thread. The guest may say anything: what is no number is left out.

import { FRAME } from './protocol.js';
import { AgentSession } from './session.js';
import type { AgentTransport, ConnectLimits } from './transport.js';

/** The load of a guest, as its kernel tells it. What the agent did not say is 0, or undefined where that is possible. */
export interface GuestMetrics {
  /** Since the kernel's start. */
  readonly uptimeSeconds: number;
  /** Load averages over 1, 5 and 15 minutes. */
  readonly load: readonly [number, number, number];
  /** Processors that are online. */
  readonly cpus: number;
  /** Bytes of memory that the kernel manages. */
  readonly memoryTotal: number;
  /** Bytes that nothing uses. */
  readonly memoryFree: number;
  /** Bytes that programs could have, caches given up. Undefined where /proc is not mounted. */
  readonly memoryAvailable: number | undefined;
  /** Bytes of swap space. */
  readonly swapTotal: number;
  /** Bytes of it that nothing uses. */
  readonly swapFree: number;
  /** Processes at present. Undefined where /proc is not mounted. */
  readonly processes: number | undefined;
}

/** Asks once. Rejects with AgentError. */
export function readMetrics(transport: AgentTransport, port: number, limits: ConnectLimits): Promise<GuestMetrics> {
  return AgentSession.request(transport, port, limits, async (session) => {
    session.send(FRAME.METRICS);
    return parseMetrics((await session.expect(FRAME.METRICS)).toString('latin1'));
  });
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
