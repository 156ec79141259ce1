// The virtio-block device: virtio 1.2, section 5.2. Takes requests off its queues and carries them out on a disk image.
//
// Runs in the I/O worker that owns it. The event loop calls it as a poller, as it does every device: while there is work
// the driver is asked not to notify. A pass takes a batch of one queue: requests that follow one another become one call
// (transfer-run.ts), all are answered with one publication, and one interrupt is decided on. Calls on the image wait for
// the host, and with them everything else in this thread; a batch is small for that reason. Requests of a queue are
// carried out in the order in which they came; transfers that do not touch one another at the same time, where the image
// can do that (transfer-runs.ts).
//
// Left out: geometry, secure erase, zones, lifetime, and changing the size while the guest runs. A saved device does not
// keep the tokens of its rate limits: a restored one starts with full buckets.

import { errnoName } from '../../platform/errno.js';
import type { EventLoop, Poller } from '../../platform/event-loop.js';
import type { GuestMemory } from '../../platform/guest-memory.js';
import { FaultLog } from '../fault-log.js';
import { RateLimiter } from '../rate-limiter.js';
import { DescriptorChain } from '../virtio/chain.js';
import {
  hasFeature,
  type Activation,
  type DeviceContext,
  type DeviceInterrupt,
  type DeviceLogLevel,
  type DeviceState,
  type VirtioDevice,
} from '../virtio/device.js';
import { BAD_CHAIN, BROKEN, EMPTY, type SplitQueue } from '../virtio/queue.js';
import type { DiskImage } from './disk-image.js';
import { openImage } from './images.js';
import {
  BlockRequest,
  NO_STATUS_BYTE,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  type BlockStatus,
} from './request.js';
import {
  BLOCK_COUNTERS,
  CONFIG_WRITEBACK,
  VIRTIO_BLK_F_CONFIG_WCE_BIT,
  VIRTIO_BLK_F_FLUSH_BIT,
  VIRTIO_BLK_ID_BYTES,
  type BlockSettings,
} from './settings.js';
import type { TransferRun } from './transfer-run.js';
import { TransferRuns } from './transfer-runs.js';

/** Requests a pass takes of one queue, so that other queues and devices have their turn. */
const BATCH_REQUESTS = 64;
const MICROSECONDS_PER_MS = 1000;

type CounterName = (typeof BLOCK_COUNTERS)[number];
const counter = (name: CounterName): number => BLOCK_COUNTERS.indexOf(name);
const READ_BYTES = counter('read_bytes');
const WRITE_BYTES = counter('write_bytes');
const READ_OPS = counter('read_ops');
const WRITE_OPS = counter('write_ops');
const FLUSH_OPS = counter('flush_ops');
const DISCARD_OPS = counter('discard_ops');
const WRITE_ZEROES_OPS = counter('write_zeroes_ops');
const FAILED_OPS = counter('failed_ops');
const GUEST_FAULTS = counter('guest_faults');
const HOST_CALLS = counter('host_calls');
const READ_US = counter('read_us');
const WRITE_US = counter('write_us');
const FLUSH_US = counter('flush_us');
const RATE_LIMIT_STALLS = counter('rate_limit_stalls');

const PASS_IDLE = 0;
const PASS_WORKED = 1;
const PASS_BROKEN = 2;
type PassResult = typeof PASS_IDLE | typeof PASS_WORKED | typeof PASS_BROKEN;

/** What there is while a driver is. */
interface Driver {
  readonly memory: GuestMemory;
  readonly queues: readonly SplitQueue[];
  readonly chain: DescriptorChain;
  readonly interrupt: DeviceInterrupt;
  readonly flushes: boolean;
  readonly choosesCache: boolean;
}

export class BlockDevice implements VirtioDevice, Poller {
  private readonly loop: EventLoop;
  private readonly log: (level: DeviceLogLevel, message: string) => void;
  private readonly faults: FaultLog;
  private readonly counters: Float64Array;
  private readonly updateConfig: DeviceContext['updateConfig'];
  private readonly image: DiskImage;
  private readonly path: string;
  private readonly request: BlockRequest;
  private readonly runs: TransferRuns;
  private readonly limiter: RateLimiter | undefined;
  private readonly serial = new Uint8Array(VIRTIO_BLK_ID_BYTES);
  private driver: Driver | undefined;
  /** Whether the driver was asked to notify. */
  private armed = true;
  /** What the driver wants in CONFIG_WCE's field: writes may wait in a cache until it flushes. */
  private writeback = true;
  private writeThrough = false;
  /** Why the flush of the last `quiesce` failed; 0 when it did not. */
  private heldBack = 0;

  /** Throws what `openImage` throws. `image` is for tests. */
  constructor(settings: BlockSettings, context: DeviceContext, image?: DiskImage) {
    const { loop, log, counters, updateConfig } = context;
    this.loop = loop;
    this.log = log;
    this.counters = counters;
    this.updateConfig = updateConfig;
    this.faults = FaultLog.ofDevice(context);
    this.image = image ?? openImage(settings.image, log);
    this.path = settings.image.file.path;
    this.request = new BlockRequest(this.image.size, settings.readOnly);
    this.runs = new TransferRuns(this.image);
    const limits = settings.rateLimiter;
    // The loop polls the device again after a timer: there is nothing to do but to let it.
    this.limiter =
      limits === undefined
        ? undefined
        : new RateLimiter(
            limits,
            loop,
            () => undefined,
            () => counters[RATE_LIMIT_STALLS]++,
          );
    new TextEncoder().encodeInto(settings.serial, this.serial);
    loop.addPoller(this);
  }

  activate(activation: Activation): void {
    const { memory, queues, features, interrupt } = activation;
    const flushes = hasFeature(features, VIRTIO_BLK_F_FLUSH_BIT);
    const choosesCache = hasFeature(features, VIRTIO_BLK_F_CONFIG_WCE_BIT);
    const ready = queues.filter((queue) => queue !== undefined);
    this.driver = { memory, queues: ready, chain: new DescriptorChain(memory), interrupt, flushes, choosesCache };
    this.armed = true;
    // 5.2.5.2: a driver that cannot flush starts without a cache.
    if (choosesCache && !flushes) this.setWritebackField(false);
    this.chooseCacheMode();
  }

  reset(): void {
    this.driver = undefined;
    this.limiter?.close();
    if (!this.writeback) this.setWritebackField(true);
    this.chooseCacheMode();
  }

  queueNotified(_index: number): void {
    // The notification has woken the loop, which polls before it sleeps again.
  }

  configWritten(config: Uint8Array): void {
    this.writeback = config[CONFIG_WRITEBACK] !== 0;
    const before = this.writeThrough;
    this.chooseCacheMode();
    // From here on what was answered is durable; so must be what was answered before.
    if (this.writeThrough && !before) this.flush();
  }

  poll(): boolean {
    const { driver } = this;
    if (driver === undefined || this.limiter?.blocked === true) return false;
    let worked = false;
    let interrupt = false;
    for (const queue of driver.queues) {
      const result = this.drain(driver, queue);
      if (result === PASS_IDLE) continue;
      worked = true;
      if (queue.publish()) interrupt = true;
      if (result === PASS_BROKEN) {
        this.giveUp(driver);
        return true;
      }
    }
    if (interrupt) driver.interrupt.usedBuffers();
    if (worked && this.armed) {
      this.armed = false;
      for (const queue of driver.queues) queue.suppressNotifications();
    }
    return worked;
  }

  armBeforeSleep(): boolean {
    const { driver } = this;
    // A blocked device has no use for notifications: it looks when its timer says so.
    if (driver === undefined || this.limiter?.blocked === true) return false;
    this.armed = true;
    let pending = false;
    for (const queue of driver.queues) if (queue.armNotifications()) pending = true;
    return pending;
  }

  /** No request is under way between two passes; what the image holds back goes to the disk with the rest. */
  quiesce(): void {
    this.heldBack = this.flush();
  }

  /** Throws Error when the image may not have all that was answered. */
  save(): DeviceState {
    if (this.heldBack !== 0) throw new Error(`${this.path} could not be flushed (${errnoName(-this.heldBack)})`);
    return { writeback: this.writeback };
  }

  restore({ writeback }: DeviceState): void {
    if (typeof writeback !== 'boolean') throw new Error('the saved state of a disk has no cache mode');
    this.writeback = writeback;
    this.chooseCacheMode();
  }

  close(): void {
    this.reset();
    this.loop.removePoller(this);
    const result = this.image.close();
    if (result < 0) this.log('error', `${this.path}: what was held back could not be written (${errnoName(-result)})`);
  }

  /** Takes a batch of `queue`. Used entries are staged; the caller publishes them. */
  private drain(driver: Driver, queue: SplitQueue): PassResult {
    const { chain } = driver;
    const { request, runs, limiter } = this;
    let taken = 0;
    let broken = false;
    while (taken < BATCH_REQUESTS) {
      const found = queue.pop(chain);
      if (found === EMPTY) break;
      if (found === BROKEN) {
        broken = true;
        break;
      }
      if (found === BAD_CHAIN) {
        this.drop(queue, chain, 'malformed descriptor chain dropped');
        taken++;
        continue;
      }
      const status = request.parse(chain);
      if (status === NO_STATUS_BYTE) {
        this.drop(queue, chain, 'request without a byte for its status dropped');
        taken++;
        continue;
      }
      const transfers = status === VIRTIO_BLK_S_OK && isTransfer(request.type);
      if (limiter !== undefined && !limiter.consume(transfers ? request.length : 0)) {
        queue.unpop();
        break;
      }
      taken++;
      if (transfers) {
        if (!runs.accepts(chain, request)) this.finishRuns(driver, queue);
        runs.add(chain, request);
      } else {
        this.finishRuns(driver, queue);
        this.answer(driver, queue, status === VIRTIO_BLK_S_OK ? this.perform(chain) : this.refuse(status));
      }
    }
    this.finishRuns(driver, queue);
    if (broken) return PASS_BROKEN;
    return taken > 0 ? PASS_WORKED : PASS_IDLE;
  }

  /** Carries the runs out, if there are any, and answers their requests. */
  private finishRuns(driver: Driver, queue: SplitQueue): void {
    const { runs, counters } = this;
    if (runs.count === 0) return;
    const start = this.loop.now();
    counters[HOST_CALLS] += runs.execute();
    let reads = 0;
    for (let index = 0; index < runs.count; index++) if (runs.at(index).type === VIRTIO_BLK_T_IN) reads++;
    const elapsed = (this.loop.now() - start) * MICROSECONDS_PER_MS;
    counters[READ_US] += (elapsed * reads) / runs.count;
    counters[WRITE_US] += (elapsed * (runs.count - reads)) / runs.count;
    const flushed = reads === runs.count || !this.writeThrough ? 0 : this.flush();
    for (let index = 0; index < runs.count; index++) this.answerRun(driver, queue, runs.at(index), flushed);
    runs.clear();
  }

  /** `flushed` is what became of the flush behind writes, where there has to be one. */
  private answerRun(driver: Driver, queue: SplitQueue, run: TransferRun, flushed: number): void {
    const { counters } = this;
    const reading = run.type === VIRTIO_BLK_T_IN;
    for (let index = 0; index < run.count; index++) {
      const result = run.results[index];
      const length = run.lengths[index];
      const good = result === 0 && (reading || flushed === 0);
      if (good) {
        counters[reading ? READ_OPS : WRITE_OPS]++;
        counters[reading ? READ_BYTES : WRITE_BYTES] += length;
      } else if (result !== 0) {
        this.hostFailed(reading ? 'reading' : 'writing', result);
      }
      if (!good) counters[FAILED_OPS]++;
      const chunk = driver.memory.chunks[run.statusChunks[index]];
      chunk.bytes[run.statusOffsets[index]] = good ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
      queue.addUsed(run.heads[index], answeredBytes(run.writableBytes[index], reading && good ? length : 0));
    }
  }

  /** Carries out a request that is no transfer. */
  private perform(chain: DescriptorChain): BlockStatus {
    const { request, counters } = this;
    switch (request.type) {
      case VIRTIO_BLK_T_FLUSH:
        return this.statusOf('flushing', this.flush());
      case VIRTIO_BLK_T_GET_ID:
        chain.copyToWritable(0, this.serial, VIRTIO_BLK_ID_BYTES);
        return VIRTIO_BLK_S_OK;
      case VIRTIO_BLK_T_DISCARD:
        counters[DISCARD_OPS]++;
        return this.statusOf('discarding', this.forEachRange(false));
      default: {
        counters[WRITE_ZEROES_OPS]++;
        const result = this.forEachRange(true);
        return this.statusOf('zeroing', result === 0 && this.writeThrough ? this.flush() : result);
      }
    }
  }

  private forEachRange(zeroes: boolean): number {
    const { image, request } = this;
    for (let index = 0; index < request.rangeCount; index++) {
      const offset = request.rangeOffsets[index];
      const length = request.rangeLengths[index];
      if (length === 0) continue;
      this.counters[HOST_CALLS]++;
      const result = zeroes ? image.writeZeroes(offset, length, request.unmap) : image.discard(offset, length);
      if (result !== 0) return result;
    }
    return 0;
  }

  private flush(): number {
    const { counters } = this;
    const start = this.loop.now();
    const result = this.image.flush();
    counters[FLUSH_OPS]++;
    counters[HOST_CALLS]++;
    counters[FLUSH_US] += (this.loop.now() - start) * MICROSECONDS_PER_MS;
    if (result !== 0) this.hostFailed('flushing', result);
    return result;
  }

  private refuse(status: BlockStatus): BlockStatus {
    this.counters[GUEST_FAULTS]++;
    this.faults.note('request refused: unknown, out of range, misaligned or read-only; its type', this.request.type);
    return status;
  }

  /** Answers the request in the driver's chain. */
  private answer({ chain, memory }: Driver, queue: SplitQueue, status: BlockStatus): void {
    const last = chain.count - 1;
    memory.chunks[chain.chunks[last]].bytes[chain.offsets[last] + chain.lengths[last] - 1] = status;
    const isId = this.request.type === VIRTIO_BLK_T_GET_ID && status === VIRTIO_BLK_S_OK;
    queue.addUsed(chain.head, answeredBytes(chain.writableBytes, isId ? VIRTIO_BLK_ID_BYTES : 0));
  }

  private drop(queue: SplitQueue, chain: DescriptorChain, why: string): void {
    this.counters[GUEST_FAULTS]++;
    this.faults.note(why, chain.head);
    queue.addUsed(chain.head, 0);
  }

  private statusOf(doing: string, result: number): BlockStatus {
    if (result === 0) return VIRTIO_BLK_S_OK;
    this.counters[FAILED_OPS]++;
    if (doing !== 'flushing') this.hostFailed(doing, result);
    return VIRTIO_BLK_S_IOERR;
  }

  private hostFailed(doing: string, result: number): void {
    this.faults.note(`${this.path}: ${doing} failed`, errnoName(-result));
  }

  private setWritebackField(writeback: boolean): void {
    this.writeback = writeback;
    this.updateConfig(CONFIG_WRITEBACK, Uint8Array.of(writeback ? 1 : 0));
  }

  /** 5.2.5.2: without a driver's promise to flush, a write that was answered is durable. */
  private chooseCacheMode(): void {
    const { driver } = this;
    this.writeThrough = driver !== undefined && !(driver.choosesCache ? this.writeback : driver.flushes);
  }

  /** The driver has broken a ring: nothing can be said to it any more. */
  private giveUp({ interrupt }: Driver): void {
    this.log('warn', 'the guest driver broke a virtqueue; the device needs a reset');
    this.reset();
    interrupt.needsReset();
  }
}

function isTransfer(type: number): boolean {
  return type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_OUT;
}

/**
 * What a used entry says was written, which counts from the first byte on and without a gap (2.7.8.2): `data` bytes, and
 * the status only when it comes right behind them.
 */
function answeredBytes(writable: number, data: number): number {
  return writable === data + 1 ? writable : data;
}
