// The virtio-vsock device: virtio 1.2, section 5.10. The face of src/vsock towards an I/O worker and its transport.
//
// Runs in the I/O worker that owns it. The event loop calls it as a poller: before the loop sleeps, and for a while
// before that if it busy-polls, the device looks at its queues by itself, and only then asks for notifications. So a
// busy driver never notifies, and handlers of descriptors only note what became ready.
//
// A snapshot keeps no connection: a restored guest is told so by TRANSPORT_RESET, and nothing is delivered before it has
// heard.

import {
  hasFeature,
  type Activation,
  type DeviceInterrupt,
  type DeviceState,
  type VirtioDevice,
} from '../devices/virtio/device.js';
import type { EventLoop, Poller } from '../platform/event-loop.js';
import { SOCK_SEQPACKET, SOCK_STREAM } from '../platform/unix-socket.js';
import { KIB, type Fd } from '../platform/units.js';
import { RingPool } from './byte-ring.js';
import { REQUEST_TIMEOUT_MS } from './connection.js';
import { INTERRUPTS, VsockCounters } from './counters.js';
import { connectionLine, type ConnectionInfo } from './connection-info.js';
import type { Backend } from './endpoint.js';
import { EVENT_BROKEN, EVENT_IDLE, EventQueue } from './event-queue.js';
import { GuestFaultLog } from './fault-log.js';
import { HostListener } from './host-listener.js';
import type { DeviceControl, StreamHub } from './in-process/stream-hub.js';
import { Muxer, MUXER_BROKEN, MUXER_IDLE, type ConnectionObserver } from './muxer.js';
import { VIRTIO_VSOCK_TYPE_STREAM, VMADDR_CID_HOST } from './packet.js';
import { longestMessage, SeqpacketEndpoint } from './seqpacket-endpoint.js';
import { VIRTIO_VSOCK_F_SEQPACKET_BIT, vsockConfigSpace } from './settings.js';
import { UnixBackend, UnixEndpoint, type EndpointFactory } from './unix-endpoint.js';

export type VsockLogLevel = 'error' | 'warn' | 'info' | 'debug';

export interface VsockDeviceOptions {
  readonly guestCid: number;
  /** A listening, non-blocking Unix stream socket for host-initiated connections; it stays the caller's. */
  readonly listener?: Fd | undefined;
  /** The same for SEQPACKET. */
  readonly seqpacketListener?: Fd | undefined;
  /** The path prefix of guest-initiated connections: port P goes to `<socketPath>_P`. Without it they are refused. */
  readonly socketPath?: string | undefined;
  /** Streams of this process, which take precedence over sockets, and the way to other guests. */
  readonly inProcess?: StreamHub | undefined;
  readonly loop: EventLoop;
  /** Past this many connections the guest gets RST and host clients are closed. */
  readonly maxConnections?: number | undefined;
  /** Bytes that a guest may have under way to one host peer that does not read. */
  readonly bufAlloc?: number | undefined;
  /** How long the guest may take to answer a connection of the host. */
  readonly connectTimeoutMs?: number | undefined;
  /** Where to count; see VsockCounters. */
  readonly counters?: SharedArrayBuffer | undefined;
  /** Whether `log` wants a line about every connection that ends. */
  readonly logConnections?: boolean | undefined;
  /** Replaces the device's configuration space. */
  readonly writeConfig?: ((config: Uint8Array) => void) | undefined;
  readonly log: (level: VsockLogLevel, message: string) => void;
}

/** All the ports that a guest could use to one service; the memory behind an idle connection is well below 1 KiB. */
const DEFAULT_MAX_CONNECTIONS = 65_536;
/**
 * Four times what Linux gives its own sockets: a guest that has this much under way is woken for more a quarter as
 * often, which doubles what one stream carries where waking is dear (docs/performance.md). A Linux guest never has more
 * under way than its own buffer is large, whatever is offered.
 */
const DEFAULT_BUF_ALLOC = 1024 * KIB;

const RX_QUEUE = 0;
const TX_QUEUE = 1;
const EVENT_QUEUE = 2;

export class VsockDevice implements VirtioDevice, Poller, DeviceControl {
  readonly counters: VsockCounters;
  private readonly loop: EventLoop;
  private readonly muxer: Muxer;
  private readonly events = new EventQueue();
  private readonly writeConfig: ((config: Uint8Array) => void) | undefined;
  private readonly listeners: readonly HostListener[];
  private readonly inProcess: StreamHub | undefined;
  private readonly log: (level: VsockLogLevel, message: string) => void;
  private readonly logConnections: boolean;
  private observer: ConnectionObserver | undefined;
  /** Only while a driver is there. */
  private interrupt: DeviceInterrupt | undefined;
  /** Whether the driver was asked to notify. */
  private armed = true;

  constructor(options: VsockDeviceOptions) {
    const { loop, log, guestCid } = options;
    const maxConnections = options.maxConnections ?? DEFAULT_MAX_CONNECTIONS;
    const warn = (message: string): void => {
      log('warn', message);
    };
    this.loop = loop;
    this.log = log;
    this.logConnections = options.logConnections === true;
    this.writeConfig = options.writeConfig;
    this.counters = new VsockCounters(options.counters);
    this.inProcess = options.inProcess;
    const bufAlloc = options.bufAlloc ?? DEFAULT_BUF_ALLOC;
    const open = endpointFactory(loop, new RingPool(bufAlloc));
    const backend = hostBackend(options, open);
    this.muxer = new Muxer({
      guestCid,
      loop,
      maxConnections,
      requestTimeoutMs: options.connectTimeoutMs ?? REQUEST_TIMEOUT_MS,
      bufAlloc,
      messageBufAlloc: longestMessage(bufAlloc),
      counters: this.counters,
      faults: new GuestFaultLog(warn, () => loop.now(), this.counters),
      route: (cid) => (cid === VMADDR_CID_HOST ? backend : options.inProcess?.siblingBackend(cid)),
    });
    const accepting = { open, loop, muxer: this.muxer, maxClients: maxConnections, warn };
    const sockets = [
      { fd: options.listener, type: SOCK_STREAM },
      { fd: options.seqpacketListener, type: SOCK_SEQPACKET },
    ] as const;
    this.listeners = sockets.flatMap(({ fd, type }) =>
      fd === undefined ? [] : [new HostListener({ ...accepting, fd, type })],
    );
    this.watchConnections(undefined);
    this.inProcess?.bind(this.muxer, this);
    // A restored guest may be given another: it reads this anew when it hears of its restore.
    this.writeConfig?.(vsockConfigSpace(guestCid));
    loop.addPoller(this);
  }

  /** Connections at present, those that only drain included. */
  get connectionCount(): number {
    return this.muxer.connectionCount;
  }

  connections(): ConnectionInfo[] {
    return this.muxer.connections();
  }

  watchConnections(observer: ConnectionObserver | undefined): void {
    this.observer = observer;
    this.muxer.observer = this.logConnections || observer !== undefined ? this.connectionObserver : undefined;
  }

  setGuestCid(cid: number): void {
    // Not in the middle of a batch, whose packets were sent under the old one.
    this.loop.defer({
      run: () => {
        this.writeConfig?.(vsockConfigSpace(cid));
        this.muxer.setGuestCid(cid);
        this.events.transportReset();
        this.log('debug', `the guest's context id is ${cid} from now on`);
      },
    });
  }

  activate(activation: Activation): void {
    const rx = activation.queues[RX_QUEUE];
    const tx = activation.queues[TX_QUEUE];
    if (rx === undefined || tx === undefined) {
      this.log('warn', 'the guest driver left out the rx or the tx queue');
      activation.interrupt.needsReset();
      return;
    }
    this.interrupt = activation.interrupt;
    this.armed = true;
    const seqpacket = hasFeature(activation.features, VIRTIO_VSOCK_F_SEQPACKET_BIT);
    this.muxer.activate(activation.memory, rx, tx, seqpacket);
    this.events.activate(activation.memory, activation.queues[EVENT_QUEUE]);
    this.inProcess?.driverReady();
  }

  reset(): void {
    this.interrupt = undefined;
    for (const listener of this.listeners) listener.dropHandshakes();
    this.muxer.deactivate();
    this.events.deactivate();
  }

  queueNotified(_index: number): void {
    // The notification has woken the loop, which polls before it sleeps again.
  }

  poll(): boolean {
    if (this.interrupt === undefined) return false;
    const event = this.events.pump();
    const result = event === EVENT_BROKEN ? MUXER_BROKEN : this.muxer.poll(!this.events.gated);
    if (result === MUXER_IDLE && event === EVENT_IDLE) return false;
    if (this.armed) {
      this.armed = false;
      this.muxer.suppressNotifications();
    }
    const told = this.events.publish();
    if (this.muxer.publish() || told) {
      this.interrupt.usedBuffers();
      this.counters.add(INTERRUPTS, 1);
    }
    if (result === MUXER_BROKEN) this.giveUp();
    return true;
  }

  armBeforeSleep(): boolean {
    if (this.interrupt === undefined) return false;
    this.armed = true;
    const event = this.events.arm();
    return this.muxer.arm() || event;
  }

  quiesce(): void {
    this.muxer.putBuffersBack();
  }

  save(): DeviceState {
    return { ephemeralPortsUsed: this.muxer.ephemeralPortsUsed };
  }

  restore({ ephemeralPortsUsed }: DeviceState): void {
    if (typeof ephemeralPortsUsed === 'number') this.muxer.skipEphemeralPorts(ephemeralPortsUsed);
    this.events.transportResetAfterRestore();
  }

  close(): void {
    this.log('debug', `counted: ${this.counters.describe()}`);
    this.reset();
    this.loop.removePoller(this);
    for (const listener of this.listeners) listener.close();
  }

  private readonly connectionObserver: ConnectionObserver = {
    opened: (info) => this.observer?.opened(info),
    ended: (info, reason) => {
      if (this.logConnections) this.log('debug', `${reason}: ${connectionLine(info)}`);
      this.observer?.ended(info, reason);
    },
  };

  /** The driver has broken a ring: nothing can be said to it any more. */
  private giveUp(): void {
    const { interrupt } = this;
    this.log('warn', 'the guest driver broke a virtqueue; the device needs a reset');
    this.reset();
    interrupt?.needsReset();
  }
}

/** Connections to the host: to whoever listens in this process, else to the Unix socket for the port. */
function hostBackend({ inProcess, socketPath, loop }: VsockDeviceOptions, open: EndpointFactory): Backend {
  const sockets = socketPath === undefined ? undefined : new UnixBackend(socketPath, loop, open);
  return {
    carriesMessages: true,
    connect: (port, outcome, guestPort, type) => {
      // Those in this process are Node streams, which have no message boundaries.
      const here = type === VIRTIO_VSOCK_TYPE_STREAM && inProcess?.listensAt(port) === true;
      const backend: Backend | undefined = here ? inProcess : sockets;
      if (backend !== undefined) return backend.connect(port, outcome, guestPort, type);
      outcome.refused();
      return undefined;
    },
  };
}

/** Sockets of either type; messages that find too little room among the guest's buffers wait in `rings`. */
function endpointFactory(loop: EventLoop, rings: RingPool): EndpointFactory {
  return (fd, type) => (type === SOCK_SEQPACKET ? new SeqpacketEndpoint(fd, loop, rings) : new UnixEndpoint(fd, loop));
}
