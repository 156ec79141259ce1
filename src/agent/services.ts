// Services of the host that programs in the guest reach by name, and nothing else of the host: `vm.agent.expose`. Main thread.
//
// For each service the agent is asked to listen in the guest (service-announcement.ts). For each connection there, a process
// of the guest calls the host and names the service. The guest is hostile: whoever calls must name one soon, and there are
// bounds on callers and connections.

import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { once } from 'node:events';
import { isServiceName, MAX_TCP_PORT, parseStreamAddress, type StreamAddress } from '../platform/net-address.js';
import { CarriedStream } from './carried-stream.js';
import { AgentError, messageOf } from './errors.js';
import { ERROR_NO_SERVICE, ERROR_REFUSED, FRAME, words } from './protocol.js';
import { ServiceAnnouncement } from './service-announcement.js';
import { AgentSession } from './session.js';
import { splice } from './splice.js';
import type { AgentTransport } from './transport.js';

/** What a service is called, and who may use how much of it. */
export interface ExposeBase {
  /** Letters, digits, and behind the first `-`, `_` and `.`; at most 63. */
  readonly name: string;
  /** The TCP port at 127.0.0.1 in the guest. Without it the service is at its Unix socket alone. */
  readonly guestPort?: number | undefined;
  /** Connections at once, of which further ones are reset: 256 unless given. */
  readonly maxConnections?: number | undefined;
  /** Hears of connections that could not be served, and of a guest that cannot listen for the service. */
  readonly onError?: ((error: unknown) => void) | undefined;
}

/** A service that listens on the host. */
export interface ExposeTarget extends ExposeBase {
  /** `127.0.0.1:5432`, `[::1]:5432`, or the path of a Unix socket, with a slash. */
  readonly to: string;
}

/** A service of this program. */
export interface ExposeHandler extends ExposeBase {
  /** Takes each connection. `end()` ends this side of it, `destroy()` resets it. */
  readonly handler: (stream: Duplex) => void;
}

/** What is exposed: a place on the host, or a function of this program. */
export type ExposeOptions = ExposeTarget | ExposeHandler;

/** A service that the guest may reach. */
export interface ExposedService {
  /** By which the guest asks for it. */
  readonly name: string;
  /** The TCP port at 127.0.0.1 in the guest; undefined where there is only the Unix socket. */
  readonly guestPort: number | undefined;
  /** Where it is in the guest, whose agent may have been told another folder (`--services`). */
  readonly socketPath: string;
  /** Connections at present. */
  readonly connections: number;
  /**
   * Settles when programs in the guest can connect. Rejects with AgentError: GUEST_PORT when the guest cannot listen there,
   * TIMEOUT, ABORTED, GUEST_GONE when the VM or the service ends first.
   */
  waitListening(options?: { readonly timeout?: number; readonly signal?: AbortSignal }): Promise<void>;
  /** The guest listens no more, and connections end. Does nothing the second time. */
  close(): void;
  /** The same as `close`, for `using`. */
  [Symbol.dispose](): void;
}

export const SERVICES_FOLDER = '/run/tsvmm';
const MAX_CONNECTIONS = 256;
/** Callers that have not named a service yet, and for how long they may. */
const MAX_ASKING = 64;
const ASK_LIMIT_MS = 10_000;
/** What a service of the host may take to accept. */
const CONNECT_LIMIT_MS = 10_000;

/** What the services need of the agent's half. */
export interface ServicesAgent {
  readonly transport: AgentTransport;
  /** The agent's. */
  readonly port: number;
  /** Where the guest asks for services. */
  readonly servicePort: number;
  /** Whether the agent's call is there. */
  readonly isUp: () => boolean;
}

/** The services of one VM. */
export class HostServices {
  private readonly agent: ServicesAgent;
  private readonly services = new Map<string, Service>();
  private asking = 0;

  /** Takes the port where the guest asks for services. Throws VsockError PORT_IN_USE. */
  constructor(agent: ServicesAgent) {
    this.agent = agent;
    agent.transport.listen(agent.servicePort, (stream) => {
      this.take(stream).catch((error: unknown) => {
        this.warn(messageOf(error));
      });
    });
  }

  /** Throws RangeError. */
  expose(options: ExposeOptions): ExposedService {
    const { name } = options;
    checkOptions(options);
    if (this.services.has(name)) throw new RangeError(`name: there is a service ${JSON.stringify(name)} already`);
    const service = new Service(options, this.agent, () => {
      this.services.delete(name);
    });
    this.services.set(name, service);
    return service;
  }

  /** The agent has called: it may be another, or have been elsewhere, and is told of every service that it does not serve. */
  agentCalled(): void {
    for (const service of this.services.values()) service.announce();
  }

  close(): void {
    for (const service of [...this.services.values()]) service.close();
  }

  /** A process of the guest that asks for a service. */
  private async take(stream: Duplex): Promise<void> {
    stream.on('error', () => undefined);
    if (this.asking >= MAX_ASKING) {
      stream.destroy();
      throw new Error(`a connection of the guest was hung up on: ${MAX_ASKING} others have not said what they want`);
    }
    const session = AgentSession.of(stream);
    let name: string;
    this.asking++;
    const timer = setTimeout(() => {
      session.destroy();
    }, ASK_LIMIT_MS);
    timer.unref();
    try {
      await session.greet();
      name = (await session.expect(FRAME.SERVICE, 1)).toString('latin1');
    } catch (error) {
      session.destroy();
      const why = messageOf(error);
      throw new Error(`a connection of the guest asked for no service: ${why}`, { cause: error });
    } finally {
      clearTimeout(timer);
      this.asking--;
    }
    const service = this.services.get(name);
    if (service !== undefined) {
      await service.serve(session);
      return;
    }
    refuse(session, ERROR_NO_SERVICE, 'there is no such service');
    // Other bytes are not for a log, which may be a terminal.
    const asked = isServiceName(name) ? JSON.stringify(name) : 'by a name that none can have';
    throw new Error(`the guest asked for a service ${asked}, which there is not`);
  }

  private warn(message: string): void {
    this.agent.transport.warn?.(message);
  }
}

class Service implements ExposedService {
  readonly name: string;
  readonly guestPort: number | undefined;
  readonly socketPath: string;
  private readonly options: ExposeOptions;
  private readonly target: StreamAddress | undefined;
  private readonly transport: AgentTransport;
  private readonly forget: () => void;
  private readonly announcement: ServiceAnnouncement;
  private readonly open = new Set<Duplex>();
  private taken = 0;
  private closed = false;

  constructor(options: ExposeOptions, agent: ServicesAgent, forget: () => void) {
    const { name, guestPort } = options;
    this.name = name;
    this.guestPort = guestPort;
    this.socketPath = `${SERVICES_FOLDER}/${name}.sock`;
    this.options = options;
    this.target = 'to' in options ? parseStreamAddress(options.to) : undefined;
    this.transport = agent.transport;
    this.forget = forget;
    this.announcement = new ServiceAnnouncement(agent, { name, guestPort }, (error) => {
      this.tell(`the guest cannot be given the service ${name}`, error);
    });
    this.announcement.start();
  }

  get connections(): number {
    return this.taken;
  }

  announce(): void {
    this.announcement.start();
  }

  waitListening(options: { readonly timeout?: number; readonly signal?: AbortSignal } = {}): Promise<void> {
    return this.announcement.waitListening(options);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.forget();
    this.announcement.close();
    for (const stream of this.open) stream.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Carries one connection, whose session has named this service. */
  async serve(session: AgentSession): Promise<void> {
    const most = this.options.maxConnections ?? MAX_CONNECTIONS;
    if (this.taken >= most) {
      refuse(session, ERROR_REFUSED, 'the service has as many connections as it may');
      this.tell(`a connection to the service ${this.name} was refused`, new Error(`there are ${most}`));
      return;
    }
    // It may have gone before.
    if (session.stream.destroyed) return;
    this.taken++;
    session.stream.once('close', () => {
      this.taken--;
      this.open.delete(session.stream);
    });
    this.open.add(session.stream);
    try {
      await this.connect(session);
    } catch (error) {
      refuse(session, ERROR_REFUSED, 'the service does not answer');
      if (!this.closed) this.tell(`a connection to the service ${this.name} was reset`, error);
    }
  }

  private async connect(session: AgentSession): Promise<void> {
    const { options, target } = this;
    const socket = target === undefined ? undefined : await this.connectTo(target, session);
    if (session.stream.destroyed) {
      socket?.destroy();
      return;
    }
    session.send(FRAME.CONNECTED);
    const stream = new CarriedStream(session);
    if (socket !== undefined) splice(socket, stream);
    else if ('handler' in options) this.hand(stream, options.handler);
  }

  /** A handler that throws costs the connection, no more. */
  private hand(stream: Duplex, handler: (stream: Duplex) => void): void {
    try {
      handler(stream);
    } catch (error) {
      stream.destroy();
      this.tell(`the handler of the service ${this.name} failed`, error);
    }
  }

  private async connectTo(target: StreamAddress, session: AgentSession): Promise<Socket> {
    const socket =
      'path' in target
        ? connect({ path: target.path, allowHalfOpen: true })
        : connect({ ...target, allowHalfOpen: true, noDelay: true });
    const stop = new AbortController();
    const timer = setTimeout(() => {
      stop.abort();
    }, CONNECT_LIMIT_MS);
    const onGone = (): void => {
      stop.abort();
    };
    session.stream.once('close', onGone);
    try {
      await once(socket, 'connect', { signal: stop.signal });
    } catch (error) {
      socket.on('error', () => undefined);
      socket.destroy();
      const why = stop.signal.aborted ? 'it did not answer in time' : messageOf(error);
      throw new AgentError('REFUSED', why, { side: 'host', cause: error });
    } finally {
      clearTimeout(timer);
      session.stream.off('close', onGone);
    }
    this.open.add(socket);
    socket.once('close', () => this.open.delete(socket));
    return socket;
  }

  private tell(what: string, error: unknown): void {
    this.transport.warn?.(`${what}: ${messageOf(error)}`);
    this.options.onError?.(error);
  }
}

/** Says why not, and hangs up. */
function refuse(session: AgentSession, code: number, text: string): void {
  session.send(FRAME.ERROR, Buffer.concat([words(code, 0), Buffer.from(text)]));
  session.close();
}

function checkOptions(options: ExposeOptions): void {
  const { name, guestPort, maxConnections } = options;
  if (!isServiceName(name)) {
    const mend = 'use letters, digits, and behind the first -, _ and ., at most 63';
    throw new RangeError(`name: ${JSON.stringify(name)} cannot be the name of a service; ${mend}`);
  }
  if (guestPort !== undefined && !(Number.isInteger(guestPort) && guestPort >= 1 && guestPort <= MAX_TCP_PORT)) {
    throw new RangeError(`guestPort: ${guestPort} is not a whole number from 1 to ${MAX_TCP_PORT}`);
  }
  if (maxConnections !== undefined && !(Number.isInteger(maxConnections) && maxConnections >= 1)) {
    throw new RangeError(`maxConnections: ${maxConnections} is not a whole number from 1 on`);
  }
  const [to, handler] = ['to' in options, 'handler' in options];
  if (to === handler) throw new RangeError('a service has either to or handler');
  if ('to' in options && parseStreamAddress(options.to) === undefined) {
    const mend = 'write it like 127.0.0.1:5432, or the path of a Unix socket';
    throw new RangeError(`to: ${JSON.stringify(options.to)} is no place on the host; ${mend}`);
  }
}
