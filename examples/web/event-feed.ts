// Server-sent events for one page (https://html.spec.whatwg.org/multipage/server-sent-events.html). Main thread.
//
// The feed holds no queue: it knows how far the page is, and writes what is missing when the connection takes more. A page
// that reads slowly misses old console output and gets fewer, newer states; neither the guest nor this process notices. The
// id of each event says how far the page is, so that a connection that broke goes on where it was.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Machine } from './machine.js';
import type { ServerEvents } from './messages.js';

/** One piece of console output. */
const MAX_PIECE = 32 * 1024;
/** So that a dead connection is noticed, and no proxy in between thinks that this one is. */
const KEEP_ALIVE_MS = 15_000;
/** Output of many small pieces is told in fewer. */
const PACE_MS = 20;

/** Answers `request` with events until either side closes. */
export function serveEvents(machine: Machine, request: IncomingMessage, response: ServerResponse): void {
  const place = parseId(machine, request.headers['last-event-id']);
  let { position, sample } = place ?? { position: 0, sample: 0 };
  let version = -1;
  let planned: NodeJS.Timeout | undefined;

  const write = <Name extends keyof ServerEvents>(name: Name, data: ServerEvents[Name]): boolean => {
    const id = `${machine.id}/${position}/${sample}`;
    return response.write(`id: ${id}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
  };
  /** Writes one thing that the page does not have; undefined when there is none. */
  const writeNext = (): boolean | undefined => {
    if (version !== machine.version) {
      version = machine.version;
      return write('status', machine.status);
    }
    if (position < machine.console.printed) {
      const { from, bytes } = machine.console.read(position, MAX_PIECE);
      position = from + bytes.length;
      return write('console', { from, to: position, bytes: bytes.toString('base64') });
    }
    if (sample < machine.sampleCount) {
      const samples = machine.samplesFrom(sample);
      sample = machine.sampleCount;
      return write('samples', samples);
    }
    return undefined;
  };
  const pump = (): void => {
    planned = undefined;
    while (!response.destroyed && !response.writableNeedDrain && writeNext() !== undefined);
  };
  const pumpSoon = (): void => {
    planned ??= setTimeout(pump, PACE_MS);
  };

  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  response.write('retry: 1000\n\n');
  write('begin', { afresh: place === undefined });
  const unwatch = machine.watch(pumpSoon);
  const keepAlive = setInterval(() => {
    if (!response.writableNeedDrain) response.write(': still here\n\n');
  }, KEEP_ALIVE_MS);
  response.on('drain', pumpSoon);
  response.on('close', () => {
    unwatch();
    clearTimeout(planned);
    clearInterval(keepAlive);
  });
  pump();
}

/** Where a page was that has seen this VM before. */
function parseId(
  machine: Machine,
  id: string | string[] | undefined,
): { position: number; sample: number } | undefined {
  if (typeof id !== 'string') return undefined;
  const [machineId, position, sample] = id.split('/');
  if (machineId !== machine.id || !/^\d{1,15}$/.test(position) || !/^\d{1,15}$/.test(sample)) return undefined;
  return { position: Number(position), sample: Number(sample) };
}
