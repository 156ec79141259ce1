// The balloon: virtio 1.2, section 5.5. The host asks the guest for memory, the guest gives up pages, and those go back
// to the host; later it may have them again.
//
// Runs in the I/O worker that owns it. A page that was given up is discarded at once (page-return.ts); when the guest
// uses it again, the host's kernel provides a fresh one, and the device has nothing to do for that. It asks to be told
// nevertheless, before the page is used (MUST_TELL_HOST): huge pages go when all their small ones have been given up.
//
// With free page reporting the guest also tells of pages that it has free anyway, which go the same way while the guest
// may use them at any time. A guest that fills free pages with a pattern (PAGE_POISON, poison_val) would miss it: what
// such a guest reports is left alone.
//
// Drivers number the queues after the statistics differently: the specification gives the reports number 4 always,
// Linux leaves no gap for queues that its features leave out. The one that the driver has set up is taken.
//
// Left out: free page hints (FREE_PAGE_HINT), which are for migration.

import { errnoName } from '../../platform/errno.js';
import { FaultLog } from '../fault-log.js';
import type { DescriptorChain } from '../virtio/chain.js';
import {
  hasFeature,
  type Activation,
  type DeviceCommand,
  type DeviceContext,
  type DeviceState,
  type VirtioDevice,
} from '../virtio/device.js';
import { RequestQueue, type RequestHandler } from '../virtio/request-queue.js';
import { PageReturn } from './page-return.js';
import {
  BALLOON_COUNTERS,
  CONFIG_ACTUAL,
  CONFIG_NUM_PAGES,
  CONFIG_POISON_VAL,
  DEFLATE_QUEUE,
  INFLATE_QUEUE,
  VIRTIO_BALLOON_F_MUST_TELL_HOST_BIT,
  VIRTIO_BALLOON_F_PAGE_POISON_BIT,
  VIRTIO_BALLOON_F_PAGE_REPORTING_BIT,
  VIRTIO_BALLOON_F_STATS_VQ_BIT,
  VIRTIO_BALLOON_PFN_SHIFT,
  type BalloonSettings,
} from './settings.js';
import { Statistics } from './statistics.js';

type CounterName = (typeof BALLOON_COUNTERS)[number];
const place = (name: CounterName): number => BALLOON_COUNTERS.indexOf(name);
const INFLATED_PAGES = place('inflatedPages');
const DEFLATED_PAGES = place('deflatedPages');
const REPORTED_BYTES = place('reportedBytes');
const RETURNED_BYTES = place('returnedBytes');
const IGNORED_PAGES = place('ignoredPages');
const FAILED_RETURNS = place('failedReturns');
const FAULTS = place('faults');
const TARGET_BYTES = place('targetBytes');
const ACTUAL_BYTES = place('actualBytes');
const STATISTICS_UPDATES = place('statisticsUpdates');

const STATISTICS_QUEUE = 2;

/** Page numbers that are sorted and returned together: as many as Linux puts into one request. */
const PFN_BATCH = 256;
/** Page numbers of one request that are looked at, 256 MiB of pages; a request of more is a mistake. */
const MAX_PFNS = 256 * PFN_BATCH;
const CHAIN_BATCH = 16;

/** Sorts behind every page there can be. */
const NO_PFN = 0xffff_ffff;

/** One direction of the balloon: requests are lists of page numbers, le32 each (5.5.6.1). */
class PfnHandler implements RequestHandler {
  private readonly device: BalloonDevice;
  private readonly inflating: boolean;

  constructor(device: BalloonDevice, inflating: boolean) {
    this.device = device;
    this.inflating = inflating;
  }

  handle(chain: DescriptorChain): number {
    this.device.movePages(chain, this.inflating);
    return 0;
  }

  badChain(): void {
    this.device.badChain();
  }

  broken(): void {
    this.device.broken();
  }
}

export class BalloonDevice implements VirtioDevice, RequestHandler {
  private readonly context: DeviceContext;
  private readonly faults: FaultLog;
  private readonly statistics: Statistics;
  private readonly inflate = new PfnHandler(this, true);
  private readonly deflate = new PfnHandler(this, false);
  private readonly pfns = new Uint32Array(new ArrayBuffer(PFN_BATCH * 4));
  private readonly pfnBytes = new Uint8Array(this.pfns.buffer);
  private pages: PageReturn | undefined;
  /** By the driver's numbers. */
  private readonly queues: (RequestQueue | undefined)[] = [];
  private poisoning = false;
  private poisonValue = 0;

  constructor(settings: BalloonSettings, context: DeviceContext) {
    const { counters } = context;
    this.context = context;
    this.faults = FaultLog.ofDevice(context);
    this.statistics = new Statistics(counters.subarray(STATISTICS_UPDATES), this);
    counters[TARGET_BYTES] = settings.size;
  }

  activate({ memory, queues, features, interrupt }: Activation): void {
    if (queues[INFLATE_QUEUE] === undefined || queues[DEFLATE_QUEUE] === undefined) {
      this.fault('the guest driver left out the inflate or the deflate queue');
      interrupt.needsReset();
      return;
    }
    const { loop } = this.context;
    this.pages = new PageReturn(memory, hasFeature(features, VIRTIO_BALLOON_F_MUST_TELL_HOST_BIT));
    this.poisoning = hasFeature(features, VIRTIO_BALLOON_F_PAGE_POISON_BIT);
    const serve = (index: number, handler: RequestHandler): RequestQueue | undefined => {
      const queue = queues[index];
      if (queue === undefined) return undefined;
      return (this.queues[index] = new RequestQueue({ loop, memory, queue, interrupt, handler, batch: CHAIN_BATCH }));
    };
    serve(INFLATE_QUEUE, this.inflate);
    serve(DEFLATE_QUEUE, this.deflate);
    let next = STATISTICS_QUEUE;
    if (hasFeature(features, VIRTIO_BALLOON_F_STATS_VQ_BIT)) {
      this.statistics.activate(serve(STATISTICS_QUEUE, this.statistics));
      next++;
    }
    if (!hasFeature(features, VIRTIO_BALLOON_F_PAGE_REPORTING_BIT)) return;
    for (; next < queues.length; next++) serve(next, this);
  }

  reset(): void {
    for (const queue of this.queues) queue?.close();
    this.queues.length = 0;
    this.statistics.activate(undefined);
    this.pages = undefined;
    this.poisonValue = 0;
    this.context.counters[ACTUAL_BYTES] = 0;
    this.context.updateConfig(CONFIG_ACTUAL, new Uint8Array(4));
    this.context.updateConfig(CONFIG_POISON_VAL, new Uint8Array(4));
  }

  queueNotified(index: number): void {
    this.queues[index]?.run();
  }

  configWritten(config: Uint8Array): void {
    const { counters } = this.context;
    const actual = readU32(config, CONFIG_ACTUAL) * 2 ** VIRTIO_BALLOON_PFN_SHIFT;
    this.poisonValue = readU32(config, CONFIG_POISON_VAL);
    if (actual === counters[ACTUAL_BYTES]) return;
    counters[ACTUAL_BYTES] = actual;
    if (actual !== counters[TARGET_BYTES]) return;
    this.context.log('debug', `the guest has given up ${actual} bytes, as asked`);
    this.statistics.refresh();
  }

  command(command: DeviceCommand): void {
    switch (command.type) {
      case 'resize-balloon': {
        const pages = Math.floor(command.size / 2 ** VIRTIO_BALLOON_PFN_SHIFT);
        this.context.counters[TARGET_BYTES] = pages * 2 ** VIRTIO_BALLOON_PFN_SHIFT;
        const bytes = new Uint8Array(4);
        new DataView(bytes.buffer).setUint32(0, pages, true);
        this.context.updateConfig(CONFIG_NUM_PAGES, bytes);
        return;
      }
      case 'refresh-balloon-statistics':
        this.statistics.refresh();
        return;
    }
  }

  quiesce(): void {
    // The one buffer that is kept: the driver hands it over again, with new statistics.
    this.statistics.refresh();
  }

  save(): DeviceState {
    const { counters } = this.context;
    return { target: counters[TARGET_BYTES], actual: counters[ACTUAL_BYTES], poison: this.poisonValue };
  }

  /** What had been given up before, and of which huge pages, is not known any more; they just stay for now. */
  restore({ target, actual, poison }: DeviceState): void {
    if (typeof target !== 'number' || typeof actual !== 'number' || typeof poison !== 'number') {
      throw new Error('a balloon has its target, its size and what free pages are filled with');
    }
    const { counters } = this.context;
    counters[TARGET_BYTES] = target;
    counters[ACTUAL_BYTES] = actual;
    this.poisonValue = poison;
  }

  close(): void {
    for (const queue of this.queues) queue?.close();
    this.queues.length = 0;
  }

  /** A request of the inflate or the deflate queue. */
  movePages(chain: DescriptorChain, inflating: boolean): void {
    const { pages, pfns, pfnBytes } = this;
    if (pages === undefined) return;
    const asked = Math.floor(chain.readableBytes / 4);
    if (asked > MAX_PFNS) this.fault('the guest driver named too many pages at once', asked);
    const total = Math.min(asked, MAX_PFNS);
    for (let done = 0; done < total; done += PFN_BATCH) {
      const count = Math.min(PFN_BATCH, total - done);
      // Whole: `sort` of a part would be an allocation.
      pfns.fill(NO_PFN);
      chain.copyFromReadable(4 * done, pfnBytes, 4 * count);
      if (inflating) {
        pfns.sort();
        for (let index = 0; index < count; index++) {
          if (index === 0 || pfns[index] !== pfns[index - 1]) pages.giveUp(pfns[index]);
        }
      } else {
        for (let index = 0; index < count; index++) pages.takeBack(pfns[index]);
      }
    }
    pages.flush();
    this.context.counters[inflating ? INFLATED_PAGES : DEFLATED_PAGES] += total;
    this.count(pages);
  }

  /** A request of the reporting queue: its buffers are the free pages (5.5.6.7). */
  handle(chain: DescriptorChain): number {
    const { pages } = this;
    if (pages === undefined || (this.poisoning && this.poisonValue !== 0)) return 0;
    for (let index = chain.readableCount; index < chain.count; index++) {
      pages.returnRange(chain.chunks[index], chain.offsets[index], chain.lengths[index]);
    }
    pages.flush();
    this.context.counters[REPORTED_BYTES] += chain.writableBytes;
    this.count(pages);
    return 0;
  }

  badChain(): void {
    this.fault('the guest driver made a malformed chain available');
  }

  broken(): void {
    this.fault('the guest driver broke a virtqueue; the device needs a reset');
    for (const queue of this.queues) queue?.close();
  }

  /** Brings the counters up to what was done. */
  private count(pages: PageReturn): void {
    const { counters } = this.context;
    counters[RETURNED_BYTES] += pages.returnedBytes;
    if (pages.ignoredPages > 0) {
      counters[IGNORED_PAGES] += pages.ignoredPages;
      this.fault('the guest driver named pages that are no RAM', pages.ignoredPages);
    }
    if (pages.failures > 0) {
      counters[FAILED_RETURNS] += pages.failures;
      this.faults.note(`the host did not take pages back (${errnoName(pages.lastErrno)})`);
    }
    pages.returnedBytes = pages.ignoredPages = pages.failures = 0;
  }

  private fault(what: string, detail?: number): void {
    this.context.counters[FAULTS]++;
    this.faults.note(what, detail);
  }
}

function readU32(bytes: Uint8Array, offset: number): number {
  return (bytes[offset] | (bytes[offset + 1] << 8) | (bytes[offset + 2] << 16) | (bytes[offset + 3] << 24)) >>> 0;
}
