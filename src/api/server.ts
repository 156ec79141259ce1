// The HTTP server of the API, on a Unix socket. Main thread; loaded only when an API socket is asked for.
//
// Answers are as Cloud Hypervisor's: 200 with JSON, 204 without a body, errors as an array of messages; a method that an
// endpoint does not have is a bad request (400). Requests and connections are bounded in number, size and time, so that a
// client that dawdles costs little, and the end of the server waits for none for long.

import { createServer, type Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { getRequestListener } from '@hono/node-server';
import { Hono, type Context } from 'hono';
import { ApiError, badRequest, toApiError } from './errors.js';
import { API_ROOT, ENDPOINTS, type Endpoint } from './endpoints.js';
import { parseJson } from './bodies.js';
import type { Monitor } from './monitor.js';

/** The largest configuration that one can think of is a few KiB. */
const MAX_BODY_SIZE = 1024 * 1024;
const MAX_CONNECTIONS = 256;
/** Limits for the arrival of a request's headers, and of all of it. */
const HEADERS_LIMIT_MS = 10_000;
const REQUEST_LIMIT_MS = 30_000;
const TIMEOUT_CHECK_MS = 2_000;
const KEEP_ALIVE_MS = 60_000;
/** How long the end of the server waits for answers that are under way. */
const CLOSE_LIMIT_MS = 1_000;

/** Something else that is to be had by GET: metrics, say. */
export interface ExtraRoute {
  /** From the root: `/metrics`. */
  readonly path: string;
  readonly contentType: string;
  readonly body: () => Promise<string> | string;
}

export interface ApiServerOptions {
  readonly monitor: Monitor;
  readonly extraRoutes?: readonly ExtraRoute[];
  readonly log?: (level: 'warn' | 'info' | 'debug', message: string) => void;
}

/** Where to listen: a listening descriptor, which the server takes over. */
export interface Listener {
  readonly fd: number;
}

export class ApiServer {
  private readonly server: Server;

  private constructor(server: Server) {
    this.server = server;
  }

  /** Answers from now on. Rejects with what listen(2) says of the descriptor. */
  static async start(listener: Listener, options: ApiServerOptions): Promise<ApiServer> {
    const answer = getRequestListener(createApp(options).fetch, {
      // Clients of a Unix socket say what they like.
      hostname: 'localhost',
      overrideGlobalObjects: false,
      errorHandler: (error) => errorResponse(toApiError(error, 'Bad Request')),
    });
    const server = createServer(
      {
        requireHostHeader: false,
        headersTimeout: HEADERS_LIMIT_MS,
        requestTimeout: REQUEST_LIMIT_MS,
        connectionsCheckingInterval: TIMEOUT_CHECK_MS,
        keepAliveTimeout: KEEP_ALIVE_MS,
      },
      (request, response) => {
        // One host is as good as another here, and one that is no name must not make the URL invalid.
        request.headers.host = 'localhost';
        answer(request, response).catch(() => response.destroy());
      },
    );
    server.maxConnections = MAX_CONNECTIONS;
    // Out of descriptors, say: the VM must not end for it.
    server.on('error', (error) => options.log?.('warn', `a connection cannot be taken: ${error.message}`));
    server.on('clientError', (_error, socket) => {
      refuseConnection(socket);
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ fd: listener.fd }, () => {
        server.off('error', reject);
        resolve();
      });
    });
    return new ApiServer(server);
  }

  /** Takes no more requests; returns when those under way are answered, or cut off after a second. */
  async close(): Promise<void> {
    const { server } = this;
    const closed = new Promise<void>((resolve) => {
      server.close(() => {
        resolve();
      });
    });
    server.closeIdleConnections();
    const limit = setTimeout(() => {
      server.closeAllConnections();
    }, CLOSE_LIMIT_MS);
    await closed;
    clearTimeout(limit);
  }
}

export function createApp({ monitor, extraRoutes = [], log = () => undefined }: ApiServerOptions): Hono {
  const app = new Hono();
  app.use(async (context, next) => {
    await next();
    context.header('Server', 'tsvmm API');
  });
  for (const endpoint of ENDPOINTS) {
    const path = API_ROOT + endpoint.name;
    app.on(endpoint.method, path, (context) => answerTo(endpoint, context, monitor));
    app.all(path, ({ req }) => {
      throw badRequest(`${endpoint.name} takes ${endpoint.method}, not ${req.method}`);
    });
  }
  for (const { path, contentType, body } of extraRoutes) {
    app.get(path, async (context) => context.body(await body(), 200, { 'Content-Type': contentType }));
  }
  app.notFound(({ req }) => errorResponse(new ApiError(404, ['Not Found', `there is no ${req.path}`])));
  app.onError((error, { req }) => {
    const answer = toApiError(error, 'Internal Server Error');
    log('info', `${req.method} ${req.path}: ${answer.status}: ${answer.message}`);
    return errorResponse(answer);
  });
  return app;
}

async function answerTo(endpoint: Endpoint, context: Context, monitor: Monitor): Promise<Response> {
  try {
    const body = endpoint.method === 'GET' ? undefined : parseJson(await readBody(context.req.raw));
    const answer = await endpoint.run(monitor, body);
    return answer === undefined ? context.body(null, 204) : context.json(answer);
  } catch (error) {
    throw toApiError(error, endpoint.problem);
  }
}

/** Throws ApiError 413 as soon as it is too long. */
async function readBody({ headers, body }: Request): Promise<string> {
  const tooLong = new ApiError(413, ['Payload Too Large', `a body has at most ${MAX_BODY_SIZE} bytes`]);
  if (Number(headers.get('content-length')) > MAX_BODY_SIZE) throw tooLong;
  if (body === null) return '';
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of body as unknown as AsyncIterable<Uint8Array>) {
    size += piece.length;
    if (size > MAX_BODY_SIZE) throw tooLong;
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

function errorResponse({ status, messages }: ApiError): Response {
  return Response.json(messages, { status });
}

/** For what is not even HTTP. */
function refuseConnection(socket: Duplex): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const body = JSON.stringify(['Bad Request', 'this is not HTTP, or too slow, or its headers are too long']);
  const head = ['HTTP/1.1 400 Bad Request', 'Content-Type: application/json', `Content-Length: ${body.length}`];
  socket.end([...head, 'Connection: close', '', body].join('\r\n'));
}
