// A guest's block driver without a VM: puts requests on rings in memory of its own, lets the device work, looks at the
// answers. The device is called as the event loop calls it, on a clock of the test.

import { BlockDevice } from '../../../src/devices/block/device.js';
import type { DiskImage } from '../../../src/devices/block/disk-image.js';
import {
  BLOCK_COUNTERS,
  VIRTIO_BLK_F_CONFIG_WCE_BIT,
  VIRTIO_BLK_F_FLUSH_BIT,
  type BlockSettings,
  type HostFileSettings,
} from '../../../src/devices/block/settings.js';
import { featureWords, VIRTIO_F_VERSION_1_BIT, type DeviceState } from '../../../src/devices/virtio/device.js';
import type { QueuePosition, SplitQueue } from '../../../src/devices/virtio/queue.js';
import type { EventLoop } from '../../../src/platform/event-loop.js';
import { MIB, type Fd } from '../../../src/platform/units.js';
import { CountingInterrupt, DrivenRing, TestMemory, type TestBuffer } from '../../support/driven-ring.js';
import { FakeClock } from '../../support/fake-clock.js';

export const IN = 0;
export const OUT = 1;
export const FLUSH = 4;
export const GET_ID = 8;
export const DISCARD = 11;
export const WRITE_ZEROES = 13;

export const OK = 0;
export const IOERR = 1;
export const UNSUPP = 2;
/** What a status byte is before the device has written it. */
const UNANSWERED = 0xee;

const HEADER_SIZE = 16;

export interface Request {
  readonly type: number;
  readonly sector?: number | bigint;
  /** What the device reads after the header. */
  readonly data?: Uint8Array;
  /** Bytes that the device may write before the status. */
  readonly space?: number;
  /** Lengths of the descriptors of the readable part; the last one is repeated until all is covered. */
  readonly readableCut?: readonly number[];
  readonly writableCut?: readonly number[];
  readonly queue?: number;
  readonly indirect?: boolean;
}

/** A request that was put on a ring. */
export interface Pending {
  readonly queue: number;
  readonly head: number;
  readonly spaceAddress: number;
  readonly space: number;
}

export interface Answer {
  readonly status: number;
  /** What the used entry says was written; undefined: there is none. */
  readonly used: number | undefined;
  readonly data: Uint8Array;
}

export interface BlockGuestOptions {
  readonly image?: DiskImage;
  readonly settings?: Partial<BlockSettings>;
  readonly queues?: number;
  readonly queueSize?: number;
  readonly memorySize?: number;
  readonly eventIdx?: boolean;
  /** Feature bits that the driver accepts besides VERSION_1. */
  readonly features?: readonly number[];
}

const NO_FILE: HostFileSettings = {
  fd: -1 as Fd,
  path: 'test.img',
  size: 0,
  readOnly: false,
  alignment: 1,
  isBlockDevice: false,
};

export class BlockGuest implements Disposable {
  readonly ram: TestMemory;
  readonly clock = new FakeClock();
  readonly interrupt = new CountingInterrupt();
  device: BlockDevice;
  readonly config = new Uint8Array(60);
  readonly logged: string[] = [];
  rings: DrivenRing[] = [];
  private readonly options: BlockGuestOptions;
  private readonly makeDevice: () => BlockDevice;
  private queues: readonly SplitQueue[] = [];
  private readonly counters = new Float64Array(BLOCK_COUNTERS.length);
  private readonly used: Map<number, number>[] = [];

  constructor(options: BlockGuestOptions) {
    this.options = options;
    this.ram = new TestMemory(options.memorySize ?? 8 * MIB);
    const clock = Object.assign(this.clock, { addPoller: () => undefined, removePoller: () => undefined });
    const settings: BlockSettings = {
      kind: 'block',
      image: { format: 'raw', file: NO_FILE, guardHeader: false },
      readOnly: false,
      serial: 'serial',
      rateLimiter: undefined,
      ...options.settings,
    };
    this.makeDevice = () =>
      new BlockDevice(
        settings,
        {
          loop: clock as unknown as EventLoop,
          log: (_level, message) => this.logged.push(message),
          updateConfig: (offset, bytes) => {
            this.config.set(bytes, offset);
          },
          counters: this.counters,
        },
        ...(options.image === undefined ? [] : ([options.image] as const)),
      );
    this.device = this.makeDevice();
    this.config[32] = 1;
    this.activate();
  }

  /** The machine is saved, and goes on with another device over the same memory and image. */
  restore(): this {
    this.device.quiesce();
    for (const queue of this.queues) queue.publish();
    const state = JSON.parse(JSON.stringify(this.device.save())) as DeviceState;
    const positions = this.queues.map(({ position }) => position);
    // Not closed: the image is the same.
    this.device.reset();
    this.device = this.makeDevice();
    this.connect(positions);
    this.device.restore(state);
    return this;
  }

  /** The driver comes up, with new rings. */
  activate(): void {
    const { queues = 1, queueSize = 64 } = this.options;
    this.rings = Array.from({ length: queues }, () => new DrivenRing(this.ram, queueSize));
    this.used.splice(0, this.used.length, ...this.rings.map(() => new Map<number, number>()));
    this.connect();
  }

  /** The device takes the rings, from `positions` on where it was saved. */
  private connect(positions: readonly QueuePosition[] = []): void {
    const { eventIdx = true, features = [VIRTIO_BLK_F_FLUSH_BIT, VIRTIO_BLK_F_CONFIG_WCE_BIT] } = this.options;
    this.queues = this.rings.map((ring, index) => ring.device({ eventIdx, indirect: true }, positions.at(index)));
    this.device.activate({
      memory: this.ram.memory,
      queues: this.queues,
      features: featureWords([VIRTIO_F_VERSION_1_BIT, ...features]),
      interrupt: this.interrupt,
    });
  }

  /** Puts a request on its ring, without letting the device look. */
  add(request: Request): Pending {
    const { ram } = this;
    const { type, sector = 0, data = new Uint8Array(0), space = 0, queue = 0 } = request;
    const header = new DataView(new ArrayBuffer(HEADER_SIZE));
    header.setUint32(0, type, true);
    header.setBigUint64(8, BigInt(sector), true);
    // The data is where drivers have it: at a multiple of the sector's size.
    const readable = ram.allocate(512 + data.length, 512) + 512 - HEADER_SIZE;
    ram.bytes.set(new Uint8Array(header.buffer), readable);
    ram.bytes.set(data, readable + HEADER_SIZE);
    const spaceAddress = ram.allocate(space + 1, 512);
    ram.bytes[spaceAddress + space] = UNANSWERED;
    const buffers = [
      ...cut(readable, HEADER_SIZE + data.length, request.readableCut ?? [HEADER_SIZE, Infinity], false),
      ...cut(spaceAddress, space + 1, request.writableCut ?? (space === 0 ? [1] : [space, 1]), true),
    ];
    const ring = this.rings[queue];
    const head = request.indirect === true ? ring.addIndirect(buffers) : ring.add(buffers);
    return { queue, head, spaceAddress, space };
  }

  /** Lets the device work until it finds nothing more to do. */
  settle(): this {
    do while (this.device.poll());
    while (this.device.armBeforeSleep());
    return this;
  }

  answer({ queue, head, spaceAddress, space }: Pending): Answer {
    for (const { id, length } of this.rings[queue].collect()) this.used[queue].set(id, length);
    const used = this.used[queue].get(head);
    this.used[queue].delete(head);
    const status = this.ram.bytes[spaceAddress + space];
    return { status, used, data: this.ram.bytes.slice(spaceAddress, spaceAddress + space) };
  }

  /** A request, carried out. */
  do(request: Request): Answer {
    const pending = this.add(request);
    this.settle();
    return this.answer(pending);
  }

  count(name: (typeof BLOCK_COUNTERS)[number]): number {
    return this.counters[BLOCK_COUNTERS.indexOf(name)];
  }

  /** The driver writes the cache mode's field. */
  setWriteback(writeback: boolean): void {
    this.config[32] = writeback ? 1 : 0;
    this.device.configWritten(this.config);
  }

  [Symbol.dispose](): void {
    this.device.close();
    this.ram.release();
  }
}

/** Ranges of a discard or of write zeroes. */
export function ranges(
  ...entries: readonly { sector: number | bigint; sectors: number; flags?: number }[]
): Uint8Array {
  const view = new DataView(new ArrayBuffer(16 * entries.length));
  entries.forEach(({ sector, sectors, flags = 0 }, index) => {
    view.setBigUint64(16 * index, BigInt(sector), true);
    view.setUint32(16 * index + 8, sectors, true);
    view.setUint32(16 * index + 12, flags, true);
  });
  return new Uint8Array(view.buffer);
}

/** Bytes that differ from one place to the next, and from one seed to the next. */
export function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let index = 0; index < length; index++) bytes[index] = index * 7 + (index >>> 8) * 13 + seed * 31;
  return bytes;
}

function cut(address: number, length: number, lengths: readonly number[], writable: boolean): TestBuffer[] {
  const buffers: TestBuffer[] = [];
  for (let done = 0, part = 0; done < length; part++) {
    const piece = Math.min(lengths[Math.min(part, lengths.length - 1)], length - done);
    buffers.push({ address: address + done, length: piece, writable });
    done += piece;
  }
  return buffers;
}
