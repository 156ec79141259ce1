// A block driver for benchmarks: requests prepared once in guest memory, offered again and again in batches. It does as
// little as a driver can, so that what is measured is the device.

import { BlockDevice } from '../src/devices/block/device.js';
import { BLOCK_COUNTERS, VIRTIO_BLK_F_FLUSH_BIT, type HostFileSettings } from '../src/devices/block/settings.js';
import { featureWords, VIRTIO_F_VERSION_1_BIT } from '../src/devices/virtio/device.js';
import { SplitQueue } from '../src/devices/virtio/queue.js';
import { EventLoop } from '../src/platform/event-loop.js';
import { MIB, PAGE_SIZE } from '../src/platform/units.js';
import { RingMemory } from './ring-memory.js';

const VIRTIO_BLK_T_IN = 0;
const VIRTIO_BLK_T_OUT = 1;
const SECTOR_SIZE = 512;

const DESC_F_NEXT = 1;
const DESC_F_WRITE = 2;
const DESC_F_INDIRECT = 4;
const DESC_SIZE = 16;
const HEADER_SIZE = 16;

const QUEUE_SIZE = 64;
const DESCRIPTORS = 0;
const AVAILABLE = 0x1000;
const USED = 0x2000;
/** Per request: header, status, and the indirect table behind them. */
const REQUESTS = 0x3000;
const REQUEST_SPACE = 0x1000;
const STATUS_OFFSET = HEADER_SIZE;
const TABLE_OFFSET = 64;
const DATA = REQUESTS + QUEUE_SIZE * REQUEST_SPACE;
const MEMORY_SIZE = 32 * MIB;

export interface Load {
  readonly writing: boolean;
  readonly random: boolean;
  /** Bytes a request: a multiple of the page size. */
  readonly bytes: number;
  /** Requests that are offered at once. */
  readonly depth: number;
}

export class BlockRing {
  private readonly ram = new RingMemory(MEMORY_SIZE);
  private readonly loop = new EventLoop();
  private readonly device: BlockDevice;
  private readonly words16: Uint16Array;
  private readonly words32: Uint32Array;
  private readonly bytes: Uint8Array;
  private readonly fileSize: number;
  private availIndex = 0;

  constructor(file: HostFileSettings) {
    const { memory, chunk } = this.ram;
    ({ words16: this.words16, words32: this.words32, bytes: this.bytes } = chunk);
    this.bytes.fill(0x5a, DATA);
    this.fileSize = file.size;
    this.device = new BlockDevice(
      {
        kind: 'block',
        image: { format: 'raw', file, guardHeader: false },
        readOnly: false,
        serial: 'bench',
        rateLimiter: undefined,
      },
      {
        loop: this.loop,
        log: (_level, message) => console.error(message),
        updateConfig: () => undefined,
        counters: new Float64Array(BLOCK_COUNTERS.length),
      },
    );
    const layout = { size: QUEUE_SIZE, descriptorTable: DESCRIPTORS, availableRing: AVAILABLE, usedRing: USED };
    this.device.activate({
      memory,
      queues: [new SplitQueue(memory, layout, { eventIdx: true, indirect: true })],
      features: featureWords([VIRTIO_F_VERSION_1_BIT, VIRTIO_BLK_F_FLUSH_BIT]),
      interrupt: { usedBuffers: () => undefined, configurationChanged: () => undefined, needsReset: () => undefined },
    });
  }

  /** Offers the load for so long, in turns of the worker's event loop; returns requests a second. */
  run(load: Load, seconds: number): number {
    const { depth, bytes, random } = load;
    if (depth > QUEUE_SIZE || DATA + 2 * depth * bytes > MEMORY_SIZE) throw new RangeError('too much at once');
    for (let slot = 0; slot < depth; slot++) this.prepare(slot, load);
    const sectorsEach = bytes / SECTOR_SIZE;
    const places = Math.floor(this.fileSize / bytes);
    let state = 1;
    let next = 0;
    let count = 0;
    const start = performance.now();
    let elapsed = 0;
    do {
      for (let slot = 0; slot < depth; slot++) {
        if (random) {
          state ^= state << 13;
          state ^= state >>> 17;
          state ^= state << 5;
          next = (state >>> 0) % places;
        } else {
          next = next + 1 < places ? next + 1 : 0;
        }
        this.words32[(REQUESTS + slot * REQUEST_SPACE + 8) >>> 2] = next * sectorsEach;
        this.words16[(AVAILABLE >>> 1) + 2 + (this.availIndex & (QUEUE_SIZE - 1))] = slot;
        this.availIndex = (this.availIndex + 1) & 0xffff;
      }
      Atomics.store(this.words16, (AVAILABLE >>> 1) + 1, this.availIndex);
      while (Atomics.load(this.words16, (USED >>> 1) + 1) !== this.availIndex) this.loop.turn(0);
      count += depth;
      elapsed = performance.now() - start;
    } while (elapsed < seconds * 1000);
    for (let slot = 0; slot < depth; slot++) {
      if (this.bytes[REQUESTS + slot * REQUEST_SPACE + STATUS_OFFSET] !== 0) throw new Error('a request failed');
    }
    return (count / elapsed) * 1000;
  }

  close(): void {
    this.device.close();
    this.loop.close();
    this.ram.close();
  }

  /** As Linux does it: one descriptor in the ring, the chain in a table, each page of the data somewhere else. */
  private prepare(slot: number, { writing, bytes }: Load): void {
    const at = REQUESTS + slot * REQUEST_SPACE;
    const pages = bytes / PAGE_SIZE;
    this.words32[at >>> 2] = writing ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
    this.words32[(at + 12) >>> 2] = 0;
    this.bytes[at + STATUS_OFFSET] = 0xff;
    const table = at + TABLE_OFFSET;
    this.describe(table, at, HEADER_SIZE, DESC_F_NEXT, 1);
    for (let page = 0; page < pages; page++) {
      const address = DATA + 2 * (slot * pages + page) * PAGE_SIZE;
      const flags = DESC_F_NEXT | (writing ? 0 : DESC_F_WRITE);
      this.describe(table + (page + 1) * DESC_SIZE, address, PAGE_SIZE, flags, page + 2);
    }
    this.describe(table + (pages + 1) * DESC_SIZE, at + STATUS_OFFSET, 1, DESC_F_WRITE, 0);
    this.describe(DESCRIPTORS + slot * DESC_SIZE, table, (pages + 2) * DESC_SIZE, DESC_F_INDIRECT, 0);
  }

  private describe(at: number, address: number, length: number, flags: number, next: number): void {
    this.words32[at >>> 2] = address;
    this.words32[(at + 4) >>> 2] = 0;
    this.words32[(at + 8) >>> 2] = length;
    this.words32[(at + 12) >>> 2] = flags | (next << 16);
  }
}
