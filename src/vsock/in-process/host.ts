// Streams between this process and one guest: the main thread's end. The worker's end is stream-hub.ts.
//
// Runs in the main thread, which allocates: a slot and a block of shared memory per stream, given back when both sides
// are done with it. Streams are found by slot when the bell rings.

import { MessageChannel, receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import { createEventFd, drainEventFd } from '../../platform/eventfd.js';
import { FdWatcher } from '../../platform/fd-watcher.js';
import { close } from '../../platform/libc.js';
import type { ConnectionInfo } from '../connection-info.js';
import type { EndReason } from '../endpoint.js';
import type { Fd } from '../../platform/units.js';
import { BELL_SLOTS, BellAnswerer, BellRinger, createBellMemory } from './bell.js';
import { VsockError, type VsockErrorCode } from './errors.js';
import {
  CONTROL_SLOT,
  KEPT_SLOTS,
  type ConnectionChange,
  type HostMessage,
  type InProcessShared,
  type PeerAddress,
  type WorkerMessage,
} from './messages.js';
import { VsockServer } from './server.js';
import {
  GONE_DRIVER_NOT_READY,
  GONE_LIMIT,
  GONE_REFUSED,
  GONE_SHIFT,
  GONE_TIMED_OUT,
  GUEST_ACCEPTED_MASK,
  GUEST_GONE_MASK,
  HOST_BROKEN_MASK,
  StreamBlock,
  WORD,
} from './stream-block.js';
import { VsockStream, type SlotUser, type StreamOwner } from './stream.js';

const MAX_PORT = 0xffff_ffff;
/** What setTimeout takes. */
const MAX_TIMEOUT_MS = 0x7fff_ffff;

/** How long to try to connect. */
export interface ConnectOptions {
  /** Milliseconds until the attempt fails with TIMED_OUT. Without it: `connect_timeout_ms` of the configuration, two seconds. */
  readonly timeout?: number | undefined;
  /** Aborts the attempt with ABORTED; an open stream is not touched by it. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Wait until the guest's driver is up, which takes as long as the guest's boot, instead of failing at once with
   * DRIVER_NOT_READY. `timeout` covers that wait too.
   */
  readonly waitForDriver?: boolean | undefined;
}

/** What the worker needs to know: goes with the message that starts it; `port` is to be transferred. */
export interface InProcessHandles extends InProcessShared {
  readonly port: MessagePort;
}

const VM_ENDED = 'the VM has ended';

/** What happens to the guest's connections. */
export type ConnectionEvent =
  | { readonly type: 'vsock-connected'; readonly connection: ConnectionInfo }
  | { readonly type: 'vsock-disconnected'; readonly connection: ConnectionInfo; readonly reason: EndReason }
  | { readonly type: 'vsock-missed'; readonly count: number };

interface PendingList {
  readonly resolve: (connections: readonly ConnectionInfo[]) => void;
  readonly reject: (error: Error) => void;
}

export class VsockHost implements StreamOwner {
  readonly cid: number;
  readonly handles: InProcessHandles;
  readonly bell: BellRinger;
  private readonly answerer: BellAnswerer;
  private readonly watcher: FdWatcher;
  private readonly port: MessagePort;
  /** By slot. */
  private readonly users: (SlotUser | undefined)[] = [];
  private readonly blocks: (StreamBlock | undefined)[] = [];
  private readonly freeSlots: number[] = [];
  private nextSlot = CONTROL_SLOT + 1;
  private readonly servers = new Map<number, VsockServer>();
  /** Other guests in this process, by CID. */
  private readonly siblings = new Map<number, VsockHost>();
  /** Who asked for the connections, by token. */
  private readonly lists = new Map<number, PendingList>();
  private nextToken = 0;
  private connectionListener: ((event: ConnectionEvent) => void) | undefined;
  /** Descriptors on their way to the worker. */
  private readonly handedOver = new Set<Fd>();
  private state: 'created' | 'running' | 'ending' | 'closed' = 'created';

  /** For the guest with `cid`. Throws SysError. */
  constructor(cid: number) {
    this.cid = cid;
    const { port1, port2 } = new MessageChannel();
    const shared = {
      toWorker: createBellMemory(),
      toMain: createBellMemory(),
      workerEvent: createEventFd(),
      mainEvent: createEventFd(),
    };
    this.handles = { ...shared, port: port2 };
    this.port = port1;
    this.bell = new BellRinger(shared.toWorker, shared.workerEvent);
    this.answerer = new BellAnswerer(shared.toMain);
    port1.on('message', (message: WorkerMessage) => this.take(message));
    // The VM's workers keep the process alive, as long as there is a VM.
    port1.unref();
    this.watcher = new FdWatcher(shared.mainEvent, { readable: true }, () => {
      drainEventFd(shared.mainEvent);
      this.answer();
    });
    this.watcher.unref();
    this.answerer.sleep();
  }

  /** Streams at present, those that are being opened or closed included. */
  get streamCount(): number {
    return this.nextSlot - 1 - this.freeSlots.length;
  }

  get vmIsEnding(): boolean {
    return this.state === 'ending' || this.state === 'closed';
  }

  /** Opens a stream to port `port` of the guest. Rejects with VsockError, or RangeError for a port that cannot be. */
  connect(port: number, options: ConnectOptions = {}): Promise<VsockStream> {
    const { signal, timeout, waitForDriver = false } = options;
    try {
      checkPort(port);
      if (timeout !== undefined && !(timeout >= 0 && timeout <= MAX_TIMEOUT_MS)) {
        throw new RangeError(`timeout: ${timeout} is not a number of milliseconds from 0 to ${MAX_TIMEOUT_MS}`);
      }
      if (signal?.aborted === true) throw new VsockError('ABORTED', port, { cause: signal.reason });
      this.checkOpen(port);
      if (this.state === 'created' && !waitForDriver) throw new VsockError('DRIVER_NOT_READY', port);
      const { slot, block, memory } = this.takeSlot(port);
      return new Promise((resolve, reject) => {
        this.users[slot] = new OpeningStream(this, { slot, block, port, signal, timeout, resolve, reject });
        this.tell({ op: 'connect', slot, port, memory, waitForDriver, timeout });
      });
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /**
   * Serves connections of the guest to (CID 2, `port`) in this process, before any Unix socket for that port. Throws
   * VsockError PORT_IN_USE or CLOSED, or RangeError.
   */
  listen(port: number, onConnection?: (stream: VsockStream) => void): VsockServer {
    checkPort(port);
    this.checkOpen(port);
    if (this.servers.has(port)) throw new VsockError('PORT_IN_USE', port);
    const server = new VsockServer(port, () => {
      this.servers.delete(port);
      if (this.state !== 'closed') this.tell({ op: 'unlisten', port });
    });
    if (onConnection !== undefined) server.on('connection', onConnection);
    this.servers.set(port, server);
    this.tell({ op: 'listen', port });
    return server;
  }

  // ---- The device

  /** The guest's connections, as the worker finds them. None before the guest runs; rejects with VsockError CLOSED. */
  connections(): Promise<readonly ConnectionInfo[]> {
    if (this.state === 'created') return Promise.resolve([]);
    if (this.state !== 'running') return Promise.reject(new VsockError('CLOSED', undefined, { detail: VM_ENDED }));
    const token = this.nextToken++;
    return new Promise((resolve, reject) => {
      this.lists.set(token, { resolve, reject });
      this.tell({ op: 'list', token });
    });
  }

  /** From now on `listener` hears of connections that come and go; undefined: nobody does. */
  watchConnections(listener: ((event: ConnectionEvent) => void) | undefined): void {
    const before = this.connectionListener;
    this.connectionListener = listener;
    const on = listener !== undefined;
    if (on !== (before !== undefined) && !this.vmIsEnding) this.tell({ op: 'watch', on });
  }

  /** Tells the worker the guest's new CID. */
  setGuestCid(cid: number): void {
    if (this.state === 'created' || this.state === 'running') this.tell({ op: 'set-cid', cid });
  }

  // ---- Other guests in this process

  /** From now on connections of this guest to `other`'s CID go straight to it. */
  addSibling(other: VsockHost): void {
    if (this.state === 'closed' || this.siblings.get(other.cid) === other) return;
    this.siblings.set(other.cid, other);
    this.tell({ op: 'sibling', cid: other.cid, direct: true });
  }

  removeSibling(other: VsockHost): void {
    if (this.siblings.get(other.cid) !== other) return;
    this.siblings.delete(other.cid);
    if (this.state !== 'closed') this.tell({ op: 'sibling', cid: other.cid, direct: false });
  }

  // ---- For the VM

  /** The guest is about to run. */
  started(): void {
    if (this.state === 'created') this.state = 'running';
  }

  /** The VM is about to end: what the worker says while it takes things down is not passed on. */
  ending(): void {
    if (this.state !== 'closed') this.state = 'ending';
  }

  /** The worker is gone. Destroys every stream, fails every attempt, closes every server, and releases everything. */
  close(): void {
    if (this.state === 'closed') return;
    this.state = 'closed';
    this.watcher.close();
    this.takeLastMessages();
    this.port.close();
    for (const fd of this.handedOver) close(fd);
    for (const user of [...this.users]) user?.vmEnded();
    for (const { reject } of this.lists.values()) reject(new VsockError('CLOSED', undefined, { detail: VM_ENDED }));
    this.lists.clear();
    for (const server of [...this.servers.values()]) server.close();
    this.bell.silence();
    close(this.handles.workerEvent);
    close(this.handles.mainEvent);
  }

  // ---- For streams

  /** Gives a slot back that neither side uses any more. */
  release(slot: number): void {
    this.users[slot] = undefined;
    if (slot >= KEPT_SLOTS) this.blocks[slot] = undefined;
    this.freeSlots.push(slot);
  }

  /** Hands slot `slot` from an attempt to its stream. */
  open(slot: number, block: StreamBlock, ports: { guestPort: number; hostPort: number }): VsockStream {
    const stream = new VsockStream(this, slot, block, ports);
    this.users[slot] = stream;
    // What the bell told the attempt may concern the stream; but first its owner is to see it.
    setImmediate(() => stream.look());
    return stream;
  }

  // ----

  private checkOpen(port: number): void {
    if (this.vmIsEnding) {
      throw new VsockError('CLOSED', port, { detail: VM_ENDED });
    }
  }

  private tell(message: HostMessage): void {
    this.port.postMessage(message);
    this.bell.ring(CONTROL_SLOT);
  }

  private takeSlot(port: number): { slot: number; block: StreamBlock; memory: SharedArrayBuffer | undefined } {
    const slot = this.freeSlots.pop() ?? this.nextSlot++;
    if (slot >= BELL_SLOTS) {
      this.nextSlot--;
      throw new VsockError('LIMIT', port);
    }
    const known = this.blocks[slot];
    const block = known ?? new StreamBlock();
    block.reset();
    this.blocks[slot] = block;
    return { slot, block, memory: known === undefined ? block.memory : undefined };
  }

  private take(message: WorkerMessage): void {
    switch (message.op) {
      case 'incoming':
        this.takeIncoming(message.token, message.port, message.guestPort);
        return;
      case 'join':
        this.join(message.cid, message.fd, message.port, message.guestPort);
        return;
      case 'adopted':
        this.handedOver.delete(message.fd);
        return;
      case 'changes':
        this.takeChanges(message.changes, message.missed);
        return;
      case 'connections':
        this.lists.get(message.token)?.resolve(message.connections);
        this.lists.delete(message.token);
        return;
    }
  }

  private takeChanges(changes: readonly ConnectionChange[], missed: number): void {
    const tell = this.connectionListener;
    for (const { connection, reason } of changes) {
      if (reason === undefined) tell?.({ type: 'vsock-connected', connection });
      else tell?.({ type: 'vsock-disconnected', connection, reason });
    }
    if (missed > 0) tell?.({ type: 'vsock-missed', count: missed });
    if (!this.vmIsEnding) this.tell({ op: 'heard' });
  }

  /** The worker is gone, but descriptors may be in what it said last. */
  private takeLastMessages(): void {
    for (;;) {
      const last = receiveMessageOnPort(this.port) as { message: WorkerMessage } | undefined;
      if (last === undefined) return;
      if (last.message.op === 'join') close(last.message.fd);
      if (last.message.op === 'adopted') this.handedOver.delete(last.message.fd);
    }
  }

  /** The guest calls a sibling: hands the sibling's end on. Closing it is a refusal. */
  private join(cid: number, fd: Fd, port: number, guestPort: number): void {
    const sibling = this.siblings.get(cid);
    if (sibling?.state === 'running') sibling.adopt(fd, port, { cid: this.cid, port: guestPort });
    else close(fd);
  }

  private adopt(fd: Fd, port: number, from: PeerAddress): void {
    this.handedOver.add(fd);
    this.tell({ op: 'adopt', fd, port, from });
  }

  private takeIncoming(token: number, port: number, guestPort: number): void {
    const server = this.servers.get(port);
    if (this.state !== 'running' || server === undefined || server.listenerCount('connection') === 0) {
      this.tell({ op: 'refuse', token });
      return;
    }
    let place;
    try {
      place = this.takeSlot(port);
    } catch (error) {
      this.tell({ op: 'refuse', token });
      // An 'error' that nobody listens to would end the process.
      if (server.listenerCount('error') > 0) server.emit('error', error as Error);
      return;
    }
    const { slot, block, memory } = place;
    this.users[slot] = new AcceptedStream(this, { slot, block, server, guestPort });
    this.tell({ op: 'accept', token, slot, memory });
  }

  private readonly answer = (): void => {
    if (this.vmIsEnding) return;
    this.answerer.stayAwake();
    const count = this.answerer.take();
    const slots: number[] = [];
    for (let index = 0; index < count; index++) slots.push(this.answerer.slotAt(index));
    try {
      for (let slot = slots.shift(); slot !== undefined; slot = slots.shift()) this.users[slot]?.look();
    } finally {
      // A listener that throws must not keep the others from hearing.
      if (slots.length > 0) setImmediate(() => slots.forEach((slot) => this.users[slot]?.look()));
      if (!this.answerer.sleep()) setImmediate(this.answer);
    }
  };
}

function checkPort(port: number): void {
  if (!Number.isInteger(port) || port < 0 || port > MAX_PORT) {
    throw new RangeError(`port: ${port} is not a vsock port; those are 0 to ${MAX_PORT}`);
  }
}

interface Opening {
  readonly slot: number;
  readonly block: StreamBlock;
  readonly port: number;
  readonly signal: AbortSignal | undefined;
  readonly timeout: number | undefined;
  readonly resolve: (stream: VsockStream) => void;
  readonly reject: (error: Error) => void;
}

const ERROR_BY_GONE: Readonly<Record<number, VsockErrorCode | undefined>> = {
  [GONE_REFUSED]: 'REFUSED',
  [GONE_TIMED_OUT]: 'TIMED_OUT',
  [GONE_DRIVER_NOT_READY]: 'DRIVER_NOT_READY',
  [GONE_LIMIT]: 'LIMIT',
};

/** A `connect` that is under way. It keeps its slot until the worker lets go of it, though the caller may be told before. */
class OpeningStream implements SlotUser {
  private readonly host: VsockHost;
  private readonly opening: Opening;
  private readonly timer: NodeJS.Timeout | undefined;
  private settled = false;

  constructor(host: VsockHost, opening: Opening) {
    this.host = host;
    this.opening = opening;
    opening.signal?.addEventListener('abort', this.abort);
    if (opening.timeout !== undefined) this.timer = setTimeout(() => this.giveUp('TIMED_OUT'), opening.timeout);
  }

  look(): void {
    const { slot, block, port } = this.opening;
    const flags = Atomics.load(block.words, WORD.GUEST_FLAGS);
    if ((flags & GUEST_ACCEPTED_MASK) !== 0 && !this.settled) {
      this.settle();
      const hostPort = Atomics.load(block.words, WORD.HOST_PORT) >>> 0;
      this.opening.resolve(this.host.open(slot, block, { guestPort: port, hostPort }));
    } else if ((flags & GUEST_GONE_MASK) !== 0) {
      this.fail(ERROR_BY_GONE[flags >>> GONE_SHIFT] ?? 'RESET');
      this.host.release(slot);
    }
  }

  vmEnded(): void {
    this.fail('CLOSED', { detail: 'the VM has ended' });
  }

  private readonly abort = (): void => {
    this.giveUp('ABORTED', { cause: this.opening.signal?.reason });
  };

  private giveUp(code: VsockErrorCode, options?: ErrorOptions): void {
    const { slot, block } = this.opening;
    Atomics.or(block.words, WORD.HOST_FLAGS, HOST_BROKEN_MASK);
    this.host.bell.ring(slot);
    this.fail(code, options);
  }

  private fail(code: VsockErrorCode, options?: ErrorOptions & { readonly detail?: string }): void {
    if (this.settled) return;
    this.settle();
    this.opening.reject(new VsockError(code, this.opening.port, options));
  }

  private settle(): void {
    this.settled = true;
    clearTimeout(this.timer);
    this.opening.signal?.removeEventListener('abort', this.abort);
  }
}

/** A connection of the guest that was accepted here; the server hears of it when the worker has confirmed. */
class AcceptedStream implements SlotUser {
  private readonly host: VsockHost;
  private readonly slot: number;
  private readonly block: StreamBlock;
  private readonly server: VsockServer;
  private readonly guestPort: number;

  constructor(host: VsockHost, accepted: { slot: number; block: StreamBlock; server: VsockServer; guestPort: number }) {
    this.host = host;
    this.slot = accepted.slot;
    this.block = accepted.block;
    this.server = accepted.server;
    this.guestPort = accepted.guestPort;
  }

  look(): void {
    const flags = Atomics.load(this.block.words, WORD.GUEST_FLAGS);
    if ((flags & GUEST_ACCEPTED_MASK) !== 0) {
      const ports = { guestPort: this.guestPort, hostPort: this.server.port };
      const stream = this.host.open(this.slot, this.block, ports);
      if (!this.server.listening || !this.server.emit('connection', stream)) stream.destroy();
    } else if ((flags & GUEST_GONE_MASK) !== 0) this.host.release(this.slot);
  }

  vmEnded(): void {
    this.host.release(this.slot);
  }
}
