// /guest/*: the guest's web server, over vsock, as a part of this one. Main thread.
//
// Bodies are streamed both ways, with back-pressure; nothing is gathered. The guest is not trusted: its pages come from the
// same origin as the page that controls its VM, so they are put in a sandbox, in which no script runs and which has an origin
// of its own, and of its header fields only harmless ones are passed on. It does not see the browser's cookies either.

import { request as askGuest, type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { HttpProblem } from './http-problem.js';
import type { Machine } from './machine.js';

const REQUEST_FIELDS = ['accept', 'accept-language', 'if-none-match', 'if-modified-since', 'range'];
const BODY_FIELDS = ['content-type', 'content-length', 'transfer-encoding'];
const RESPONSE_FIELDS = [
  'accept-ranges',
  'allow',
  'content-encoding',
  'content-language',
  'content-length',
  'content-range',
  'content-type',
  'date',
  'etag',
  'last-modified',
];
const SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'";

/** Answers `request` with what the guest has at `path`. Rejects with HttpProblem as long as nothing was answered. */
export async function proxyToGuest(
  machine: Machine,
  path: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { state } = machine.status;
  if (state === 'ended') throw new HttpProblem(502, 'the VM has ended');
  // A paused guest answers nobody, and whoever waits would not know why.
  if (state === 'paused') throw new HttpProblem(503, 'the VM is paused');
  const gone = new AbortController();
  // The browser has left: the guest need not go on.
  response.on('close', () => gone.abort());
  let answer: IncomingMessage;
  try {
    answer = await forward(machine, path, request, gone.signal);
  } catch (error) {
    throw new HttpProblem(502, `the guest does not answer: ${error instanceof Error ? error.message : String(error)}`);
  }
  response.writeHead(answer.statusCode ?? 502, {
    ...pick(answer, RESPONSE_FIELDS),
    'cache-control': 'no-store',
    'content-security-policy': SANDBOX,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
  });
  // When the guest breaks off, so does this: a shortened body must not look whole.
  await pipeline(answer, response).catch(() => response.destroy());
}

function forward(
  machine: Machine,
  path: string,
  request: IncomingMessage,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const { method } = request;
    const hasBody =
      request.headers['content-length'] !== undefined || request.headers['transfer-encoding'] !== undefined;
    const headers = pick(request, hasBody ? [...REQUEST_FIELDS, ...BODY_FIELDS] : REQUEST_FIELDS);
    const asked = askGuest({ agent: machine.agent, method, path, headers: { ...headers, host: 'guest' }, signal });
    asked.on('response', resolve);
    asked.on('error', reject);
    // A guest may answer before it has the whole body, and close: that is no failure of the answer.
    if (hasBody) pipeline(request, asked).catch(() => undefined);
    else asked.end();
  });
}

function pick({ headers }: IncomingMessage, names: readonly string[]): OutgoingHttpHeaders {
  const picked: OutgoingHttpHeaders = {};
  for (const name of names) if (headers[name] !== undefined) picked[name] = headers[name];
  return picked;
}
