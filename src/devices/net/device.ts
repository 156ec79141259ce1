// The virtio-net device over the queues of a tap: virtio 1.2, section 5.1.
//
// Runs in the I/O worker that owns it. The event loop calls it as a poller: before the loop sleeps the device looks at
// its queues by itself, and only then asks for notifications, so a busy driver never notifies. Handlers of descriptors only note
// what became ready.
//
// Queues: receive and transmit queue of each pair by turns, then the control queue. Each pair has a queue of the tap,
// which is detached while the pair is not in use, so that the host sends nothing there.
//
// Left out: receive filters (the guest gets what the host sends to the tap), RSS, announcements, coalescing of
// interrupts, the legacy interface.

import { EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT } from '../../platform/epoll.js';
import { EINVAL, errnoName, SysError } from '../../platform/errno.js';
import type { EventLoop, FdHandler, Poller } from '../../platform/event-loop.js';
import { trySetOffload, trySetQueueAttached, TUN_F_CSUM } from '../../platform/tap.js';
import type { Fd } from '../../platform/units.js';
import { FaultLog } from '../fault-log.js';
import { RateLimiter } from '../rate-limiter.js';
import {
  hasFeature,
  type Activation,
  type DeviceContext,
  type DeviceInterrupt,
  type DeviceState,
  type VirtioDevice,
} from '../virtio/device.js';
import { ControlQueue, type ControlCommands } from './control-queue.js';
import { receiveOffloads, requestedOffloads, sendOffloads } from './offloads.js';
import { BROKEN, IDLE, type PathContext, type PathResult } from './path.js';
import { RxPath } from './rx-path.js';
import {
  CONFIG_STATUS,
  RX_RATE_LIMIT_STALLS,
  TX_RATE_LIMIT_STALLS,
  VIRTIO_NET_F_CTRL_GUEST_OFFLOADS_BIT,
  VIRTIO_NET_F_CTRL_VQ_BIT,
  VIRTIO_NET_F_MQ_BIT,
  VIRTIO_NET_F_MRG_RXBUF_BIT,
  VIRTIO_NET_S_LINK_UP,
  type NetSettings,
} from './settings.js';
import { TxPath } from './tx-path.js';

/** Edge-triggered: what is not read for want of buffers does not wake the worker again and again. */
const WATCHED = EPOLLIN | EPOLLOUT | EPOLLET;

/** What a device asks of its tap beyond reading and writing: 0, or the negative errno. */
export interface TapControl {
  /** Says what the guest can receive: a mask of TUN_F_…. */
  setOffload(mask: number): number;
  setAttached(queue: number, attached: boolean): number;
}

function tapControl(queues: readonly Fd[]): TapControl {
  return {
    setOffload: (mask) => trySetOffload(queues[0], mask),
    setAttached: (queue, attached) => trySetQueueAttached(queues[queue], attached),
  };
}

/** One queue of the tap with its pair of virtqueues. */
class Pair implements FdHandler {
  readonly fd: Fd;
  readonly rx: RxPath;
  readonly tx: TxPath;

  constructor(
    fd: Fd,
    limits: { readonly rx: RateLimiter | undefined; readonly tx: RateLimiter | undefined },
    context: PathContext & { readonly loop: EventLoop },
  ) {
    this.fd = fd;
    this.rx = new RxPath(fd, limits.rx, context);
    this.tx = new TxPath(fd, limits.tx, context, () => {
      // The kernel reports room only to who has looked since it ran out; this looks, and misses nothing.
      context.loop.rewatch(fd, WATCHED);
    });
  }

  ready(events: number): void {
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) !== 0) this.rx.mayRead = true;
    if ((events & EPOLLOUT) !== 0) this.tx.hasRoom();
  }
}

export class NetDevice implements VirtioDevice, Poller, ControlCommands {
  private readonly context: DeviceContext;
  private readonly tap: TapControl;
  private readonly pairs: readonly Pair[];
  private readonly limiters: readonly RateLimiter[];
  private readonly faults: FaultLog;
  /** Only while a driver is there. */
  private activation: Activation | undefined;
  private interrupt: DeviceInterrupt | undefined;
  private control: ControlQueue | undefined;
  /** Pairs in use are the first so many. */
  private activePairs = 0;
  /** What the driver may receive at most, and how much of it that is at present. */
  private negotiatedOffloads = 0;
  private offloads = 0;
  /** Whether the driver was asked to notify. */
  private armed = true;
  private linkUp = true;

  /** Throws SysError when a queue of the tap cannot be detached. */
  constructor(settings: NetSettings, context: DeviceContext, tap: TapControl = tapControl(settings.queues)) {
    const { loop, counters } = context;
    this.context = context;
    this.tap = tap;
    this.faults = FaultLog.ofDevice(context);
    const limiter = (stalls: number): RateLimiter | undefined =>
      settings.rateLimiter === undefined
        ? undefined
        : // The timer has woken the loop, which polls before it sleeps again.
          new RateLimiter(
            settings.rateLimiter,
            loop,
            () => undefined,
            () => counters[stalls]++,
          );
    const limits = { rx: limiter(RX_RATE_LIMIT_STALLS), tx: limiter(TX_RATE_LIMIT_STALLS) };
    this.limiters = [limits.rx, limits.tx].filter((each) => each !== undefined);
    const pathContext = {
      loop,
      counters,
      note: (what: string, detail?: number): void => {
        this.faults.note(what, detail);
      },
      lost: (errno: number): void => {
        this.tapLost(errno);
      },
    };
    this.pairs = settings.queues.map((fd) => new Pair(fd, limits, pathContext));
    for (let index = 1; index < this.pairs.length; index++) {
      const result = tap.setAttached(index, false);
      // EINVAL: it is detached already, by the device before a reboot of the guest.
      if (result < 0 && result !== -EINVAL) throw new SysError('ioctl TUNSETQUEUE', -result);
    }
    loop.addPoller(this);
  }

  activate(activation: Activation): void {
    const { features, interrupt, memory } = activation;
    if (this.queuesOf(activation, 0) === undefined) {
      this.context.log('warn', 'the guest driver left out the first receive or transmit queue');
      interrupt.needsReset();
      return;
    }
    this.activation = activation;
    this.interrupt = interrupt;
    this.armed = true;
    this.negotiatedOffloads = receiveOffloads(features);
    this.applyOffloads(this.negotiatedOffloads);
    // 5.1.2: the control queue comes after the pairs that the driver knows of.
    const known = hasFeature(features, VIRTIO_NET_F_MQ_BIT) ? this.pairs.length : 1;
    const controlQueue = activation.queues[2 * known];
    if (hasFeature(features, VIRTIO_NET_F_CTRL_VQ_BIT) && controlQueue !== undefined) {
      this.control = new ControlQueue(memory, controlQueue, this, (what, detail) => {
        this.faults.note(what, detail);
      });
    }
    this.startPair(activation, 0);
    this.activePairs = 1;
  }

  reset(): void {
    while (this.activePairs > 1) this.detachLastPair();
    if (this.activePairs === 1) this.stopPair(0);
    this.activePairs = 0;
    for (const { rx, tx } of this.pairs) {
      rx.deactivate();
      tx.deactivate();
    }
    if (this.activation !== undefined) this.applyOffloads(0);
    this.activation = undefined;
    this.interrupt = undefined;
    this.control = undefined;
  }

  queueNotified(_index: number): void {
    // The notification has woken the loop, which polls before it sleeps again.
  }

  poll(): boolean {
    const { interrupt } = this;
    if (interrupt === undefined) return false;
    let result: PathResult = this.control?.pump() ?? IDLE;
    for (let index = 0; index < this.activePairs; index++) {
      const { rx, tx } = this.pairs[index];
      const received = rx.pump();
      const sent = tx.drain();
      result = Math.max(result, received, sent) as PathResult;
    }
    if (result === IDLE) return false;
    if (this.armed) this.suppressNotifications();
    if (this.publish()) interrupt.usedBuffers();
    if (result === BROKEN) this.giveUp(interrupt);
    return true;
  }

  armBeforeSleep(): boolean {
    if (this.interrupt === undefined) return false;
    this.armed = true;
    let busy = this.control?.arm() ?? false;
    for (let index = 0; index < this.activePairs; index++) {
      const { rx, tx } = this.pairs[index];
      if (rx.arm()) busy = true;
      if (tx.arm()) busy = true;
    }
    return busy;
  }

  quiesce(): void {
    for (const { rx } of this.pairs) rx.putBuffersBack();
  }

  save(): DeviceState {
    return { pairs: this.activePairs, offloads: this.offloads, linkUp: this.linkUp };
  }

  /** Over another tap, which has to be told what the driver had asked for. */
  restore({ pairs, offloads, linkUp }: DeviceState): void {
    if (typeof pairs !== 'number' || typeof offloads !== 'number' || typeof linkUp !== 'boolean') {
      throw new Error('the saved state of a network device has its pairs, its offloads and its link');
    }
    if (this.activation === undefined) return;
    if (pairs > 1 && !this.setPairs(pairs)) throw new Error(`the tap cannot have ${pairs} pairs of queues in use`);
    if (offloads !== this.offloads && ((offloads & ~this.negotiatedOffloads) !== 0 || !this.applyOffloads(offloads))) {
      throw new Error(`the tap does not take the offloads ${offloads}`);
    }
    // It had lost its tap; this one is there.
    if (!linkUp) this.context.updateConfig(CONFIG_STATUS, Uint8Array.of(VIRTIO_NET_S_LINK_UP, 0));
  }

  close(): void {
    this.reset();
    for (const limiter of this.limiters) limiter.close();
    this.context.loop.removePoller(this);
  }

  setPairs(pairs: number): boolean {
    const { activation } = this;
    if (activation === undefined || !hasFeature(activation.features, VIRTIO_NET_F_MQ_BIT)) return false;
    if (pairs < 1 || pairs > this.pairs.length) return false;
    while (this.activePairs > pairs) this.detachLastPair();
    while (this.activePairs < pairs) {
      const index = this.activePairs;
      if (this.queuesOf(activation, index) === undefined) return false;
      const result = this.tap.setAttached(index, true);
      if (result < 0) {
        this.faults.note(`queue ${index} of the tap cannot be attached: ${errnoName(-result)}`);
        return false;
      }
      this.startPair(activation, index);
      this.activePairs++;
    }
    return true;
  }

  setGuestOffloads(low: number, high: number): boolean {
    const { activation } = this;
    if (activation === undefined || !hasFeature(activation.features, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS_BIT))
      return false;
    const offloads = high === 0 ? requestedOffloads(low, this.negotiatedOffloads) : undefined;
    return offloads !== undefined && this.applyOffloads(offloads);
  }

  private queuesOf({ queues }: Activation, index: number) {
    const rx = queues[2 * index];
    const tx = queues[2 * index + 1];
    return rx === undefined || tx === undefined ? undefined : { rx, tx };
  }

  private startPair(activation: Activation, index: number): void {
    const queues = this.queuesOf(activation, index);
    if (queues === undefined) return;
    const { memory, features } = activation;
    const { rx, tx, fd } = this.pairs[index];
    // A pair that was in use before still holds chains of the driver's.
    if (!rx.active) {
      rx.activate({ memory, queue: queues.rx, merge: hasFeature(features, VIRTIO_NET_F_MRG_RXBUF_BIT) });
      tx.activate({ memory, queue: queues.tx, offloads: sendOffloads(features) });
    }
    rx.mayRead = true;
    tx.hasRoom();
    this.context.loop.watch(fd, WATCHED, this.pairs[index]);
  }

  private stopPair(index: number): void {
    this.context.loop.unwatch(this.pairs[index].fd);
  }

  private detachLastPair(): void {
    const index = --this.activePairs;
    this.stopPair(index);
    const result = this.tap.setAttached(index, false);
    if (result < 0) this.faults.note(`queue ${index} of the tap cannot be detached: ${errnoName(-result)}`);
  }

  private applyOffloads(offloads: number): boolean {
    const result = this.tap.setOffload(offloads);
    if (result < 0) {
      this.faults.note(`the tap does not take offloads ${offloads}: ${errnoName(-result)}`);
      return false;
    }
    this.offloads = offloads;
    for (const { rx } of this.pairs) rx.clearFlags = (offloads & TUN_F_CSUM) === 0;
    return true;
  }

  private suppressNotifications(): void {
    this.armed = false;
    this.control?.suppressNotifications();
    for (let index = 0; index < this.activePairs; index++) {
      const { rx, tx } = this.pairs[index];
      rx.suppressNotifications();
      tx.suppressNotifications();
    }
  }

  /** Publishes what every queue has staged; whether the driver wants an interrupt for any of it. */
  private publish(): boolean {
    let wanted = this.control?.publish() ?? false;
    for (let index = 0; index < this.activePairs; index++) {
      const { rx, tx } = this.pairs[index];
      if (rx.publish()) wanted = true;
      if (tx.publish()) wanted = true;
    }
    return wanted;
  }

  /** Somebody has deleted the tap: it does not come back, and the guest is told that its cable is unplugged. */
  private tapLost(errno: number): void {
    if (!this.linkUp) return;
    this.linkUp = false;
    const why = errno === 0 ? 'it has ended' : errnoName(errno);
    this.context.log('error', `the tap cannot be read any more (${why}); the guest's link is down`);
    this.context.updateConfig(CONFIG_STATUS, new Uint8Array(2));
  }

  /** The driver has broken a ring: nothing can be said to it any more. */
  private giveUp(interrupt: DeviceInterrupt): void {
    this.context.log('warn', 'the guest driver broke a virtqueue; the device needs a reset');
    this.reset();
    interrupt.needsReset();
  }
}
