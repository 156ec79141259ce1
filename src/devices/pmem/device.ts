// Persistent memory: virtio 1.2, section 5.19. The guest uses the memory by itself; what is left for the device is to
// answer flush requests when the file has reached the disk.
//
// Runs in the I/O worker that owns it, which a flush blocks as long as fdatasync(2) takes.

import { EINTR, errnoName } from '../../platform/errno.js';
import { libc, orErrno } from '../../platform/libc.js';
import { FaultLog } from '../fault-log.js';
import type { DescriptorChain } from '../virtio/chain.js';
import type { Activation, DeviceContext, VirtioDevice } from '../virtio/device.js';
import { RequestQueue, type RequestHandler } from '../virtio/request-queue.js';
import type { PmemSettings } from './settings.js';

// Places in PMEM_COUNTERS.
const FLUSHES = 0;
const FAILED_FLUSHES = 1;
const FAULTS = 2;

// struct virtio_pmem_req { le32 type; }; struct virtio_pmem_resp { le32 ret; } (5.19.6, 5.19.7)
const VIRTIO_PMEM_REQ_TYPE_FLUSH = 0;
const REQUEST_SIZE = 4;
const RESPONSE_SIZE = 4;
const SUCCESS = Uint8Array.of(0, 0, 0, 0);
/** -1 */
const FAILURE = Uint8Array.of(0xff, 0xff, 0xff, 0xff);

const BATCH = 16;

export class PmemDevice implements VirtioDevice, RequestHandler {
  private readonly settings: PmemSettings;
  private readonly context: DeviceContext;
  private readonly faults: FaultLog;
  private readonly request = new Uint8Array(REQUEST_SIZE);
  private queue: RequestQueue | undefined;
  /** The errno of the first flush that failed; see `flush`. */
  private failure = 0;

  constructor(settings: PmemSettings, context: DeviceContext) {
    this.settings = settings;
    this.context = context;
    this.faults = FaultLog.ofDevice(context);
  }

  activate({ memory, queues, interrupt }: Activation): void {
    const [queue] = queues;
    if (queue === undefined) {
      this.fault('the guest driver left out the request queue');
      interrupt.needsReset();
      return;
    }
    this.queue = new RequestQueue({ loop: this.context.loop, memory, queue, interrupt, handler: this, batch: BATCH });
  }

  reset(): void {
    this.queue?.close();
    this.queue = undefined;
  }

  queueNotified(_index: number): void {
    this.queue?.run();
  }

  close(): void {
    this.reset();
  }

  handle(chain: DescriptorChain): number {
    const { request } = this;
    if (chain.copyFromReadable(0, request, REQUEST_SIZE) < REQUEST_SIZE || chain.writableBytes < RESPONSE_SIZE) {
      this.fault('the guest driver sent a request that is too short');
      return 0;
    }
    const known = request.every((byte) => byte === VIRTIO_PMEM_REQ_TYPE_FLUSH);
    if (!known) this.fault('the guest driver sent a request of an unknown type', request[0]);
    const done = known && this.flush();
    return chain.copyToWritable(0, done ? SUCCESS : FAILURE, RESPONSE_SIZE);
  }

  badChain(): void {
    this.fault('the guest driver made a malformed chain available');
  }

  broken(): void {
    this.fault('the guest driver broke its virtqueue; the device needs a reset');
    this.reset();
  }

  /**
   * Returns whether everything written so far is in the file. After a failure it never is again: the kernel has dropped
   * what it could not write, and would report success the next time.
   */
  private flush(): boolean {
    const { fd, path } = this.settings;
    const { counters } = this.context;
    counters[FLUSHES]++;
    if (fd === undefined) return true;
    if (this.failure === 0) {
      let result = orErrno(libc.fdatasync(fd));
      while (result === -EINTR) result = orErrno(libc.fdatasync(fd));
      if (result === 0) return true;
      this.failure = -result;
      this.faults.note(`${path} cannot be written to disk (${errnoName(-result)}): every flush fails from now on`);
    }
    counters[FAILED_FLUSHES]++;
    return false;
  }

  private fault(what: string, detail?: number): void {
    this.context.counters[FAULTS]++;
    this.faults.note(what, detail);
  }
}
