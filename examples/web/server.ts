// The web server on loopback: the live page, its events, what it asks for, and the guest's own page. Main thread.
//
// Whoever reaches this port controls the VM, and a browser lets any web page send requests to it. So the Host field has to
// name this server (a name that an attacker points at 127.0.0.1 does not), and what changes something has to come from the
// page itself: by its Origin, where there is one, and with a body of JSON, which other origins cannot send unasked.

import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { readAsset } from './assets.js';
import { serveEvents } from './event-feed.js';
import { proxyToGuest } from './guest-proxy.js';
import { HttpProblem } from './http-problem.js';
import type { Machine } from './machine.js';
import { BusyError, MAX_TRANSFER_BYTES } from './transfers.js';
import type { TransferKind } from './messages.js';

const HOST = '127.0.0.1';
const MAX_BODY = 16 * 1024;
const GUEST_PREFIX = '/guest';
const TRANSFER_KINDS: readonly TransferKind[] = ['from-guest', 'to-guest', 'echo'];

const PAGE_HEADERS = {
  'cache-control': 'no-cache',
  'content-security-policy':
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
};

type Action = (machine: Machine, body: Record<string, unknown>) => unknown;

/** POST requests, by path. What they return is answered as JSON. */
const ACTIONS: Readonly<Record<string, Action>> = {
  '/api/console': async ({ vm }, { text }) => {
    if (typeof text !== 'string') throw new HttpProblem(400, 'text: a string is needed');
    await vm.console.write(text);
  },
  '/api/pause': ({ vm }) => vm.pause(),
  '/api/resume': ({ vm }) => vm.resume(),
  '/api/stop': ({ vm }) => vm.stop(),
  '/api/transfers': ({ transfers, status }, { kind, bytes }) => {
    const known = TRANSFER_KINDS.find((each) => each === kind);
    if (known === undefined) throw new HttpProblem(400, `kind: one of ${TRANSFER_KINDS.join(', ')} is needed`);
    if (typeof bytes !== 'number' || !Number.isInteger(bytes) || bytes < 1 || bytes > MAX_TRANSFER_BYTES) {
      throw new HttpProblem(400, `bytes: a whole number from 1 to ${MAX_TRANSFER_BYTES} is needed`);
    }
    if (status.state === 'ended') throw new HttpProblem(409, 'the VM has ended');
    return { id: transfers.begin({ kind: known, bytes }) };
  },
  '/api/transfers/stop': ({ transfers }, { id }) => ({ stopped: typeof id === 'number' && transfers.stop(id) }),
};

/** A server that listens. `close` ends it with all connections. */
export interface PageServer {
  readonly url: string;
  close(): Promise<void>;
}

/** Serves `machine` on a TCP port of loopback; 0: any that is free. Rejects when the port cannot be had. */
export async function serve(machine: Machine, port: number): Promise<PageServer> {
  const server = createServer((request, response) => {
    answer(machine, server, request, response).catch((error: unknown) => refuse(response, error));
  });
  server.listen(port, HOST);
  await once(server, 'listening');
  return {
    url: `http://${HOST}:${portOf(server)}/`,
    close: async () => {
      server.close();
      // Event streams end only so.
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

async function answer(
  machine: Machine,
  server: Server,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const origins = [HOST, 'localhost'].map((name) => `http://${name}:${portOf(server)}`);
  if (!origins.includes(`http://${request.headers.host}`))
    throw new HttpProblem(403, 'the Host field names another server');
  const { method = 'GET' } = request;
  const reads = method === 'GET' || method === 'HEAD';
  const { origin } = request.headers;
  if (!reads && origin !== undefined && !origins.includes(origin)) {
    throw new HttpProblem(403, 'this may be asked for by its own page only');
  }
  const target = request.url ?? '/';
  const [path] = target.split('?', 1);
  if (path === GUEST_PREFIX) {
    response.writeHead(308, { location: `${GUEST_PREFIX}/` }).end();
  } else if (path.startsWith(`${GUEST_PREFIX}/`)) {
    await proxyToGuest(machine, target.slice(GUEST_PREFIX.length), request, response);
  } else if (Object.hasOwn(ACTIONS, path)) {
    if (method !== 'POST') throw new HttpProblem(405, 'POST is the method for this');
    const result = await ACTIONS[path](machine, await readJson(request));
    sendJson(response, result ?? {});
  } else if (!reads) {
    throw new HttpProblem(405, 'GET is the method for this');
  } else if (path === '/events') {
    serveEvents(machine, request, response);
  } else if (path === '/api/status') {
    sendJson(response, { ...machine.status, counters: machine.vm.vsock.counters() });
  } else {
    const asset = await readAsset(path);
    if (asset === undefined) throw new HttpProblem(404, 'there is nothing here');
    response.writeHead(200, { ...PAGE_HEADERS, 'content-type': asset.type, 'content-length': asset.bytes.length });
    response.end(method === 'HEAD' ? undefined : asset.bytes);
  }
}

async function readJson(request: IncomingMessage): Promise<Record<string, unknown>> {
  const type = request.headers['content-type']?.split(';', 1)[0].trim();
  if (type !== 'application/json') throw new HttpProblem(415, 'the body has to be application/json');
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of request) {
    length += (piece as Buffer).length;
    if (length > MAX_BODY) throw new HttpProblem(413, `the body may have ${MAX_BODY} bytes`);
    pieces.push(piece as Buffer);
  }
  let body: unknown;
  try {
    body = JSON.parse(Buffer.concat(pieces).toString());
  } catch {
    throw new HttpProblem(400, 'the body is not JSON');
  }
  if (typeof body !== 'object' || body === null) throw new HttpProblem(400, 'the body has to be an object');
  return body as Record<string, unknown>;
}

function sendJson(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'no-store' });
  response.end(`${JSON.stringify(value)}\n`);
}

function refuse(response: ServerResponse, error: unknown): void {
  // The answer has begun: the browser must not take the rest of it for the whole.
  if (response.headersSent) {
    response.destroy();
    return;
  }
  // What the library refuses, such as pausing a VM that has ended, is a conflict with its state.
  const status = error instanceof HttpProblem ? error.status : error instanceof BusyError ? 429 : 409;
  const message = error instanceof Error ? error.message : String(error);
  // The rest of a body that nobody reads would be taken for the next request.
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', connection: 'close', ...NO_STORE });
  response.end(`${message}\n`);
}

const NO_STORE = { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' };

function portOf(server: Server): number {
  return (server.address() as AddressInfo | null)?.port ?? 0;
}
