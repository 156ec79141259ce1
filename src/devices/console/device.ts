// The virtio console: virtio 1.2, section 5.3. One port, which is a console; its bytes are the main thread's, reached
// through two shared rings (ConsoleHost). Runs in the I/O worker that owns it.
//
// rx, host to guest: bytes go from the ring into posted buffers; without buffers they stay in the ring. tx, guest to
// host: bytes go from chains into the ring; while it is full a chain is kept half taken, so the guest waits and nothing
// is lost. An emergency write, which a driver makes before it has queues or after it has given up on them, cannot wait:
// without room it is lost, and counted.
//
// Left out: several ports and the control queues (VIRTIO_CONSOLE_F_MULTIPORT).

import type { EventLoop } from '../../platform/event-loop.js';
import { EPOLLIN } from '../../platform/epoll.js';
import { drainEventFd, signalEventFd } from '../../platform/eventfd.js';
import { SharedRing } from '../../platform/shared-ring.js';
import { FaultLog } from '../fault-log.js';
import { DescriptorChain } from '../virtio/chain.js';
import type { Activation, DeviceContext, DeviceInterrupt, DeviceState, VirtioDevice } from '../virtio/device.js';
import { BAD_CHAIN, BROKEN, CHAIN, EMPTY, type SplitQueue } from '../virtio/queue.js';
import {
  CONFIG_COLS,
  CONFIG_EMERG_WR,
  CONSOLE_RX_QUEUE,
  CONSOLE_TX_QUEUE,
  GUEST_FAULTS,
  INTERRUPTS,
  RX_BYTES,
  TX_BYTES,
  type ConsoleSettings,
} from './settings.js';

// What a pump came to.
const DONE = 0;
/** Its share of one turn of the loop: other devices of the thread get theirs. */
const MORE = 1;
const RING_BROKEN = 2;
type PumpResult = typeof DONE | typeof MORE | typeof RING_BROKEN;

/** Everything that exists only while a driver is there. */
interface Active {
  readonly rxQueue: SplitQueue | undefined;
  readonly txQueue: SplitQueue | undefined;
  readonly rxChain: DescriptorChain;
  readonly txChain: DescriptorChain;
  /** Whether `txChain` holds a chain that is not all in the ring, and where it goes on. */
  txHeld: boolean;
  txSegment: number;
  txOffset: number;
  /** Bytes of the next chain that are in the ring already: it was put back half taken. */
  txSkip: number;
  readonly interrupt: DeviceInterrupt;
}

export class ConsoleDevice implements VirtioDevice {
  private readonly settings: ConsoleSettings;
  private readonly context: DeviceContext;
  private readonly loop: EventLoop;
  private readonly counters: Float64Array;
  private readonly faults: FaultLog;
  private readonly tx: SharedRing;
  private readonly rx: SharedRing;
  private readonly size: Int32Array;
  private knownSize: number;
  private readonly sizeBytes = new Uint8Array(4);
  private readonly oneByte = new Uint8Array(1);
  private active: Active | undefined;
  private deferred = false;

  /** Throws SysError. */
  constructor(settings: ConsoleSettings, context: DeviceContext) {
    this.settings = settings;
    this.context = context;
    this.loop = context.loop;
    this.counters = context.counters;
    this.faults = FaultLog.ofDevice(context);
    this.tx = new SharedRing(settings.shared.tx);
    this.rx = new SharedRing(settings.shared.rx);
    this.size = new Int32Array(settings.shared.size);
    this.knownSize = Atomics.load(this.size, 0);
    this.loop.watch(settings.deviceEvent, EPOLLIN, {
      ready: () => {
        drainEventFd(settings.deviceEvent);
        this.lookAtSize();
        this.pump();
      },
    });
  }

  activate({ memory, queues, interrupt }: Activation): void {
    this.active = {
      rxQueue: queues[CONSOLE_RX_QUEUE],
      txQueue: queues[CONSOLE_TX_QUEUE],
      rxChain: new DescriptorChain(memory),
      txChain: new DescriptorChain(memory),
      txHeld: false,
      txSegment: 0,
      txOffset: 0,
      txSkip: 0,
      interrupt,
    };
  }

  reset(): void {
    this.active = undefined;
  }

  queueNotified(_index: number): void {
    this.pump();
  }

  configWritten(config: Uint8Array): void {
    this.oneByte[0] = config[CONFIG_EMERG_WR];
    if (this.tx.put(this.oneByte) === 0) this.tx.countLost(1);
    this.wakeHost();
  }

  /** A chain that waits for room goes back; what of it is in the ring is not sent again. */
  quiesce(): void {
    const { active } = this;
    if (active?.txHeld !== true) return;
    active.txSkip = active.txOffset;
    for (let segment = 0; segment < active.txSegment; segment++) active.txSkip += active.txChain.lengths[segment];
    active.txHeld = false;
    active.txQueue?.unpop();
  }

  save(): DeviceState {
    return { taken: this.active?.txSkip ?? 0 };
  }

  restore({ taken }: DeviceState): void {
    if (typeof taken !== 'number' || taken < 0) throw new Error('the saved state of a console has what was taken');
    if (this.active !== undefined) this.active.txSkip = taken;
    // The terminal here may have another size than the one that it was saved at.
    if (this.knownSize !== 0) this.writeSize();
  }

  /** The turn after a pump that stopped at its share. */
  run(): void {
    this.deferred = false;
    this.pump();
  }

  close(): void {
    this.reset();
    this.loop.unwatch(this.settings.deviceEvent);
  }

  private pump(): void {
    const { active } = this;
    if (active === undefined) return;
    const sent = this.pumpTx(active);
    const received = sent === RING_BROKEN ? RING_BROKEN : this.pumpRx(active);
    if (received === RING_BROKEN) {
      this.giveUp(active);
      return;
    }
    this.publish(active);
    this.wakeHost();
    if ((sent === MORE || received === MORE) && !this.deferred) {
      this.deferred = true;
      this.loop.defer(this);
    }
  }

  private pumpTx(active: Active): PumpResult {
    const { txQueue: queue } = active;
    if (queue === undefined) return DONE;
    queue.suppressNotifications();
    for (let chains = 0; chains < queue.size; chains++) {
      if (!active.txHeld) {
        const popped = queue.pop(active.txChain);
        if (popped === BROKEN) return RING_BROKEN;
        if (popped === EMPTY) {
          if (!queue.armNotifications()) return DONE;
          queue.suppressNotifications();
          continue;
        }
        if (popped === BAD_CHAIN) this.fault('a transmit chain makes no sense', active.txChain.head);
        active.txHeld = popped === CHAIN;
        active.txSegment = 0;
        active.txOffset = active.txSkip;
        active.txSkip = 0;
      }
      if (active.txHeld && !this.transmit(active)) return DONE; // Room in the ring comes with a wake-up.
      active.txHeld = false;
      queue.addUsed(active.txChain.head, 0);
    }
    return MORE;
  }

  /** Moves the held chain into the ring; returns false when it is full before the chain is through. */
  private transmit(active: Active): boolean {
    const { txChain: chain } = active;
    while (active.txSegment < chain.readableCount) {
      const length = chain.lengths[active.txSegment] - active.txOffset;
      if (length <= 0) {
        active.txOffset = -length;
        active.txSegment++;
        continue;
      }
      const count = this.tx.putFrom(chain.hostAddress(active.txSegment, active.txOffset), length);
      this.counters[TX_BYTES] += count;
      if (count === length) {
        active.txSegment++;
        active.txOffset = 0;
      } else {
        active.txOffset += count;
        if (this.tx.producerWaits()) return false;
      }
    }
    return true;
  }

  private pumpRx(active: Active): PumpResult {
    const { rxQueue: queue, rxChain: chain } = active;
    const { rx } = this;
    if (queue === undefined) return DONE;
    queue.suppressNotifications();
    for (let chains = 0; chains < queue.size; chains++) {
      if (rx.length === 0) {
        if (rx.consumerWaits()) return DONE;
        continue;
      }
      const popped = queue.pop(chain);
      if (popped === BROKEN) return RING_BROKEN;
      if (popped === EMPTY) {
        if (!queue.armNotifications()) return DONE;
        queue.suppressNotifications();
        continue;
      }
      if (popped === BAD_CHAIN) {
        this.fault('a receive chain makes no sense', chain.head);
        queue.addUsed(chain.head, 0);
      } else {
        queue.addUsed(chain.head, this.receive(chain));
      }
    }
    return MORE;
  }

  /** Fills a posted chain as far as there is input; returns with how many bytes. */
  private receive(chain: DescriptorChain): number {
    let written = 0;
    for (let segment = chain.readableCount; segment < chain.count && this.rx.length > 0; segment++) {
      written += this.rx.takeTo(chain.hostAddress(segment), chain.lengths[segment]);
    }
    this.counters[RX_BYTES] += written;
    return written;
  }

  private publish({ rxQueue, txQueue, interrupt }: Active): void {
    const received = rxQueue?.publish() === true;
    const sent = txQueue?.publish() === true;
    if (!received && !sent) return;
    this.counters[INTERRUPTS]++;
    interrupt.usedBuffers();
  }

  private wakeHost(): void {
    const printed = this.tx.consumerToWake();
    const room = this.rx.producerToWake();
    if (printed || room) signalEventFd(this.settings.hostEvent);
  }

  private lookAtSize(): void {
    const size = Atomics.load(this.size, 0);
    if (size === this.knownSize) return;
    this.knownSize = size;
    this.writeSize();
  }

  private writeSize(): void {
    new DataView(this.sizeBytes.buffer).setUint32(0, this.knownSize, true);
    this.context.updateConfig(CONFIG_COLS, this.sizeBytes);
  }

  private fault(what: string, detail: number): void {
    this.counters[GUEST_FAULTS]++;
    this.faults.note(what, detail);
  }

  /** The driver has broken a ring: nothing can be said to it any more. */
  private giveUp({ interrupt }: Active): void {
    this.counters[GUEST_FAULTS]++;
    this.context.log('warn', 'the guest driver broke a virtqueue; the device needs a reset');
    this.reset();
    this.wakeHost();
    interrupt.needsReset();
  }
}
