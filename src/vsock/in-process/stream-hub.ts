// The I/O worker's end of all in-process streams of a VM: takes the main thread's messages, asks the guest for
// connections on its behalf, and is the backend of the ports that it listens at.
//
// Runs in the I/O worker, as a poller of its loop beside the device. The main thread's end is host.ts.

import { EPOLLET, EPOLLIN } from '../../platform/epoll.js';
import type { EventLoop, Poller, Timer, TimerTask } from '../../platform/event-loop.js';
import type { Fd } from '../../platform/units.js';
import type { ConnectionInfo } from '../connection-info.js';
import type { Backend, ConnectOutcome, PendingConnect, StreamEndpoint } from '../endpoint.js';
import type { ConnectionObserver } from '../muxer.js';
import { SiblingBackend, type PeerSocket } from '../sibling.js';
import { UnixEndpoint } from '../unix-endpoint.js';
import { BELL_SLOTS, BellAnswerer, BellRinger } from './bell.js';
import { ConnectionReporter } from './connection-reporter.js';
import {
  CONTROL_SLOT,
  KEPT_SLOTS,
  type HostMessage,
  type InProcessShared,
  type PeerAddress,
  type WorkerMessage,
} from './messages.js';
import { RingEndpoint, type EndpointHub } from './ring-endpoint.js';
import {
  GONE_DRIVER_NOT_READY,
  GONE_FINISHED,
  GONE_LIMIT,
  GONE_RESET,
  GONE_SHIFT,
  GUEST_GONE_MASK,
  HOST_BROKEN_MASK,
  StreamBlock,
  WORD,
  type GoneReason,
} from './stream-block.js';

type ConnectMessage = Extract<HostMessage, { op: 'connect' }>;

/** How long the main thread may take to accept: within the guest's own connect timeout of 2 s. */
const ACCEPT_TIMEOUT_MS = 1800;

/** What the hub uses of the device's multiplexer. */
export interface GuestConnector {
  /** Whether the driver is there. */
  readonly active: boolean;
  connectToGuest(guestPort: number, endpoint: StreamEndpoint, from?: PeerAddress): boolean;
}

/** What the main thread may ask of the device. */
export interface DeviceControl {
  setGuestCid(cid: number): void;
  connections(): ConnectionInfo[];
  watchConnections(observer: ConnectionObserver | undefined): void;
}

export interface StreamHubOptions {
  readonly loop: EventLoop;
  readonly shared: InProcessShared;
  /** Takes the next message of the main thread, if there is one. */
  readonly receive: () => HostMessage | undefined;
  readonly send: (message: WorkerMessage) => void;
  /** Guests that are reached through their monitors' sockets. */
  readonly peers?: readonly PeerSocket[] | undefined;
}

export class StreamHub implements Poller, Backend, EndpointHub {
  readonly loop: EventLoop;
  readonly bell: BellRinger;
  private readonly answerer: BellAnswerer;
  private readonly wakeEvent: Fd;
  private readonly receive: () => HostMessage | undefined;
  private readonly send: (message: WorkerMessage) => void;
  private readonly ports = new Set<number>();
  /** By slot. Memory outlives the endpoint in the slots that keep it. */
  private readonly blocks: (StreamBlock | undefined)[] = [];
  private readonly endpoints: (RingEndpoint | undefined)[] = [];
  /** By slot: connects that wait for the driver. */
  private readonly waiting = new Map<number, ConnectMessage>();
  private readonly incoming = new Map<number, IncomingConnect>();
  private nextToken = 0;
  /** By CID. */
  private readonly siblings = new Map<number, SiblingBackend>();
  private connector: GuestConnector | undefined;
  private control: DeviceControl | undefined;
  private reporter: ConnectionReporter | undefined;

  constructor(options: StreamHubOptions) {
    const { loop, shared } = options;
    this.loop = loop;
    this.bell = new BellRinger(shared.toMain, shared.mainEvent);
    this.answerer = new BellAnswerer(shared.toWorker);
    this.wakeEvent = shared.workerEvent;
    this.receive = options.receive;
    this.send = options.send;
    for (const { cid, socket } of options.peers ?? []) this.sibling(cid).socket = socket;
    loop.watch(this.wakeEvent, (EPOLLIN | EPOLLET) >>> 0, { ready: () => undefined });
    loop.addPoller(this);
  }

  /** Tells the hub whom to ask for connections to the guest; the device does, once. */
  bind(connector: GuestConnector, control?: DeviceControl): void {
    this.connector = connector;
    this.control = control;
  }

  /** Connects that waited for the driver go ahead. */
  driverReady(): void {
    const waiting = [...this.waiting.values()];
    this.waiting.clear();
    for (const message of waiting) this.request(message);
  }

  close(): void {
    this.loop.removePoller(this);
    this.loop.unwatch(this.wakeEvent);
  }

  // ---- Poller

  poll(): boolean {
    this.answerer.stayAwake();
    const count = this.answerer.take();
    for (let index = 0; index < count; index++) {
      const slot = this.answerer.slotAt(index);
      if (slot === CONTROL_SLOT) this.takeMessages();
      else this.look(slot);
    }
    return count > 0;
  }

  armBeforeSleep(): boolean {
    return !this.answerer.sleep();
  }

  // ---- Backend

  /** Whether the main thread listens at `port`. */
  listensAt(port: number): boolean {
    // A server that was opened before the guest was made to connect is known, even when its message was not read yet.
    if (this.answerer.rung) this.takeMessages();
    return this.ports.has(port);
  }

  /** Who answers for another guest, if anybody does. */
  siblingBackend(cid: number): Backend | undefined {
    if (this.answerer.rung) this.takeMessages();
    return this.siblings.get(cid);
  }

  connect(port: number, outcome: ConnectOutcome, guestPort: number): PendingConnect {
    const token = this.nextToken;
    this.nextToken = (this.nextToken + 1) | 0;
    const attempt = new IncomingConnect(this.loop, port, outcome, () => this.incoming.delete(token));
    this.incoming.set(token, attempt);
    this.send({ op: 'incoming', token, port, guestPort });
    return attempt;
  }

  // ---- EndpointHub

  released(slot: number): void {
    this.endpoints[slot] = undefined;
    if (slot >= KEPT_SLOTS) this.blocks[slot] = undefined;
  }

  // ----

  private look(slot: number): void {
    // Its message is in the port when the bell is rung for it, but its bit may be taken first.
    if (this.endpoints[slot] === undefined) this.takeMessages();
    const endpoint = this.endpoints[slot];
    if (endpoint !== undefined) endpoint.look();
    else if (this.waiting.has(slot)) this.withdrawIfBroken(slot);
  }

  private takeMessages(): void {
    for (let message = this.receive(); message !== undefined; message = this.receive()) this.take(message);
  }

  private take(message: HostMessage): void {
    switch (message.op) {
      case 'connect':
        this.block(message.slot, message.memory);
        if (this.connector?.active === true) this.request(message);
        else if (message.waitForDriver) {
          this.waiting.set(message.slot, message);
          this.withdrawIfBroken(message.slot);
        } else this.gone(message.slot, GONE_DRIVER_NOT_READY);
        return;
      case 'accept':
        this.accept(message.token, message.slot, this.block(message.slot, message.memory));
        return;
      case 'refuse':
        this.incoming.get(message.token)?.refuse();
        return;
      case 'listen':
        this.ports.add(message.port);
        return;
      case 'unlisten':
        this.ports.delete(message.port);
        return;
      case 'set-cid':
        this.control?.setGuestCid(message.cid);
        return;
      case 'list':
        this.send({ op: 'connections', token: message.token, connections: this.control?.connections() ?? [] });
        return;
      case 'watch':
        // One for good: what the main thread has not heard yet is still under way.
        if (message.on) this.reporter ??= new ConnectionReporter(this.send);
        this.control?.watchConnections(message.on ? this.reporter : undefined);
        return;
      case 'heard':
        this.reporter?.heard();
        return;
      case 'sibling':
        this.sibling(message.cid).direct = message.direct;
        return;
      case 'adopt':
        this.adopt(message.fd, message.port, message.from);
        return;
    }
  }

  private sibling(cid: number): SiblingBackend {
    let backend = this.siblings.get(cid);
    if (backend === undefined) {
      backend = new SiblingBackend(this.loop, (fd, port, guestPort) =>
        this.send({ op: 'join', cid, port, guestPort, fd }),
      );
      this.siblings.set(cid, backend);
    }
    return backend;
  }

  private adopt(fd: Fd, port: number, from: PeerAddress): void {
    this.send({ op: 'adopted', fd });
    const endpoint = new UnixEndpoint(fd, this.loop);
    // The sibling hears `OK`, or finds its end closed: the same answers as from a monitor's socket.
    if (this.connector?.connectToGuest(port, endpoint, from) !== true) endpoint.close();
  }

  private request({ slot, port, timeout }: ConnectMessage): void {
    const block = this.blocks[slot];
    if (block === undefined) return;
    if ((Atomics.load(block.words, WORD.HOST_FLAGS) & HOST_BROKEN_MASK) !== 0) {
      this.gone(slot, GONE_FINISHED);
      return;
    }
    const endpoint = new RingEndpoint(this, slot, block, timeout);
    this.endpoints[slot] = endpoint;
    if (this.connector?.connectToGuest(port, endpoint) === true) return;
    this.endpoints[slot] = undefined;
    this.gone(slot, GONE_LIMIT);
  }

  private accept(token: number, slot: number, block: StreamBlock): void {
    const attempt = this.incoming.get(token);
    if (attempt === undefined) {
      // The guest has given up, or time was up.
      this.gone(slot, GONE_RESET);
      return;
    }
    const endpoint = new RingEndpoint(this, slot, block);
    this.endpoints[slot] = endpoint;
    endpoint.accepted(attempt.hostPort);
    attempt.accept(endpoint);
  }

  /** The caller has given up waiting for the driver. */
  private withdrawIfBroken(slot: number): void {
    const block = this.blocks[slot];
    if (block === undefined || (Atomics.load(block.words, WORD.HOST_FLAGS) & HOST_BROKEN_MASK) === 0) return;
    this.waiting.delete(slot);
    this.gone(slot, GONE_FINISHED);
  }

  private gone(slot: number, reason: GoneReason): void {
    const block = this.blocks[slot];
    this.released(slot);
    if (block === undefined) return;
    Atomics.or(block.words, WORD.GUEST_FLAGS, GUEST_GONE_MASK | (reason << GONE_SHIFT));
    this.bell.ring(slot);
  }

  private block(slot: number, memory: SharedArrayBuffer | undefined): StreamBlock {
    if (slot <= CONTROL_SLOT || slot >= BELL_SLOTS) throw new RangeError(`there is no stream slot ${slot}`);
    if (memory !== undefined) this.blocks[slot] = new StreamBlock(memory);
    const block = this.blocks[slot];
    if (block === undefined) throw new Error(`stream slot ${slot} has no memory`);
    return block;
  }
}

/** The guest asks for a connection, and the main thread has not said yet whether it takes it. */
class IncomingConnect implements PendingConnect, TimerTask {
  readonly hostPort: number;
  private readonly loop: EventLoop;
  private readonly outcome: ConnectOutcome;
  private readonly forget: () => void;
  private readonly timer: Timer;

  constructor(loop: EventLoop, hostPort: number, outcome: ConnectOutcome, forget: () => void) {
    this.hostPort = hostPort;
    this.loop = loop;
    this.outcome = outcome;
    this.forget = forget;
    this.timer = loop.setTimer(ACCEPT_TIMEOUT_MS, this);
  }

  accept(endpoint: StreamEndpoint): void {
    this.cancel();
    this.outcome.connected(endpoint);
  }

  refuse(): void {
    this.cancel();
    this.outcome.refused();
  }

  timerExpired(): void {
    this.refuse();
  }

  cancel(): void {
    this.forget();
    this.loop.cancelTimer(this.timer);
  }
}
