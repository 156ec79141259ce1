// The balloon's statistics queue: virtio 1.2, section 5.5.6.3. Runs in the I/O worker.
//
// The driver hands over one buffer with its statistics, the device keeps it, and gives it back when it wants new ones.

import type { DescriptorChain } from '../virtio/chain.js';
import { KEEP, type RequestHandler, type RequestQueue } from '../virtio/request-queue.js';

// struct virtio_balloon_stat { le16 tag; le64 val; } packed
const ENTRY_SIZE = 10;
const VALUE_OFFSET = 2;
/** Twice what Linux sends. */
const MAX_ENTRIES = 32;
/** Tags are 0 to 9; later ones are not read. */
const TAGS = 10;

const NONE = -1;

export class Statistics implements RequestHandler {
  private readonly values: Float64Array;
  private readonly faults: Pick<RequestHandler, 'badChain' | 'broken'>;
  private readonly entries = new Uint8Array(new ArrayBuffer(MAX_ENTRIES * ENTRY_SIZE));
  private readonly view = new DataView(this.entries.buffer);
  private queue: RequestQueue | undefined;
  /** The head of the buffer that waits to be asked for. */
  private kept = NONE;

  /** `values` gets how many times the guest has told, then each tag's value. */
  constructor(values: Float64Array, faults: Pick<RequestHandler, 'badChain' | 'broken'>) {
    this.values = values;
    this.faults = faults;
  }

  activate(queue: RequestQueue | undefined): void {
    this.queue = queue;
    this.kept = NONE;
  }

  /** Asks the guest for new ones, if it is not to tell them anyway. */
  refresh(): void {
    if (this.kept === NONE) return;
    const head = this.kept;
    this.kept = NONE;
    this.queue?.giveBack(head, 0);
  }

  handle(chain: DescriptorChain): number {
    // Drivers have one buffer; one that has more gets the older one back.
    this.refresh();
    const length = chain.copyFromReadable(0, this.entries, this.entries.length);
    for (let at = 0; at + ENTRY_SIZE <= length; at += ENTRY_SIZE) {
      const tag = this.view.getUint16(at, true);
      // All ones: the driver does not know.
      const value = this.view.getBigInt64(at + VALUE_OFFSET, true);
      if (tag < TAGS && value >= 0n) this.values[1 + tag] = Number(value);
    }
    this.values[0]++;
    this.kept = chain.head;
    return KEEP;
  }

  badChain(): void {
    this.faults.badChain();
  }

  broken(): void {
    this.faults.broken();
  }
}
