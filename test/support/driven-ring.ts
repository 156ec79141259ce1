// The driver's half of a split virtqueue, played by a test in guest memory of its own: no VM, no vCPU.

import type { DeviceInterrupt } from '../../src/devices/virtio/device.js';
import {
  SplitQueue,
  type QueueFeatures,
  type QueueLayout,
  type QueuePosition,
} from '../../src/devices/virtio/queue.js';
import { GuestMemory, type MemoryChunk } from '../../src/platform/guest-memory.js';
import { mapOverSharedBuffer, unmapFromSharedBuffer } from '../../src/platform/mapping.js';
import { guestAddress, PAGE_SIZE } from '../../src/platform/units.js';

const DESC_F_NEXT = 1;
const DESC_F_WRITE = 2;
const DESC_F_INDIRECT = 4;

/** Guest RAM for a test, with a bump allocator. `release` gives the pages back. */
export class TestMemory implements Disposable {
  readonly memory: GuestMemory;
  readonly view: DataView;
  readonly bytes: Uint8Array;
  private readonly chunks: MemoryChunk[] = [];
  private next = PAGE_SIZE;

  /** `sizes` are those of adjacent chunks. `view` and `bytes` show the first. */
  constructor(...sizes: number[]) {
    let address = 0;
    for (const size of sizes) {
      const mapped = mapOverSharedBuffer({ kind: 'anonymous' }, size);
      this.chunks.push({
        guestAddress: guestAddress(address),
        size,
        hostAddress: mapped.address,
        buffer: mapped.buffer,
        bufferOffset: mapped.offset,
        backing: { kind: 'anonymous' },
      });
      address += size;
    }
    this.memory = new GuestMemory(this.chunks);
    const first = this.chunks[0];
    this.view = new DataView(first.buffer, first.bufferOffset, first.size);
    this.bytes = new Uint8Array(first.buffer, first.bufferOffset, first.size);
  }

  /** The address of `length` fresh bytes. */
  allocate(length: number, alignment = 16): number {
    this.next = Math.ceil(this.next / alignment) * alignment;
    const address = this.next;
    this.next += length;
    if (this.next > this.memory.size) throw new RangeError('the test needs more guest memory');
    return address;
  }

  release(): void {
    for (const chunk of this.chunks) unmapFromSharedBuffer({ address: chunk.hostAddress, size: chunk.size });
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** One buffer of a chain. */
export interface TestBuffer {
  readonly address: number;
  readonly length: number;
  readonly writable?: boolean;
}

/** A used entry as the driver finds it. */
export interface UsedEntry {
  readonly id: number;
  readonly length: number;
}

/** The driver: lays out a queue, makes chains available, collects used entries. */
export class DrivenRing {
  readonly layout: QueueLayout;
  readonly size: number;
  private readonly ram: TestMemory;
  private readonly free: number[] = [];
  private readonly chainOf = new Map<number, number[]>();
  private availIndex = 0;
  private usedIndex = 0;

  constructor(ram: TestMemory, size: number) {
    this.ram = ram;
    this.size = size;
    this.layout = {
      size,
      descriptorTable: ram.allocate(16 * size),
      availableRing: ram.allocate(6 + 2 * size),
      usedRing: ram.allocate(6 + 8 * size),
    };
    for (let index = size - 1; index >= 0; index--) this.free.push(index);
  }

  /** The device's half of the same queue. */
  device(features: QueueFeatures = { eventIdx: true, indirect: true }, position?: QueuePosition): SplitQueue {
    return new SplitQueue(this.ram.memory, this.layout, features, position);
  }

  /** How many descriptors are not in use. */
  get freeDescriptors(): number {
    return this.free.length;
  }

  /** Writes descriptor `index`, as any driver, good or bad, would. */
  describe(index: number, address: number | bigint, length: number, flags: number, next: number, table?: number): void {
    const at = (table ?? this.layout.descriptorTable) + 16 * index;
    this.ram.view.setBigUint64(at, BigInt(address), true);
    this.ram.view.setUint32(at + 8, length, true);
    this.ram.view.setUint16(at + 12, flags, true);
    this.ram.view.setUint16(at + 14, next, true);
  }

  /** Makes a chain of `buffers` available; returns its head. */
  add(buffers: readonly TestBuffer[]): number {
    const indices = buffers.map(() => this.takeDescriptor());
    buffers.forEach((buffer, position) => {
      const last = position === buffers.length - 1;
      const flags = (buffer.writable === true ? DESC_F_WRITE : 0) | (last ? 0 : DESC_F_NEXT);
      this.describe(indices[position], buffer.address, buffer.length, flags, last ? 0 : indices[position + 1]);
    });
    return this.offer(indices);
  }

  /** Makes a chain available whose descriptors are in an indirect table. */
  addIndirect(buffers: readonly TestBuffer[]): number {
    const table = this.ram.allocate(16 * buffers.length);
    buffers.forEach((buffer, position) => {
      const last = position === buffers.length - 1;
      const flags = (buffer.writable === true ? DESC_F_WRITE : 0) | (last ? 0 : DESC_F_NEXT);
      this.describe(position, buffer.address, buffer.length, flags, last ? 0 : position + 1, table);
    });
    const index = this.takeDescriptor();
    this.describe(index, table, 16 * buffers.length, DESC_F_INDIRECT, 0);
    return this.offer([index]);
  }

  /** Puts `head` into the available ring, whatever it is. */
  offerHead(head: number): void {
    const { view } = this.ram;
    view.setUint16(this.layout.availableRing + 4 + 2 * (this.availIndex & (this.size - 1)), head, true);
    this.availIndex = (this.availIndex + 1) & 0xffff;
    view.setUint16(this.layout.availableRing + 2, this.availIndex, true);
  }

  /** Starts the free-running indices elsewhere; before anything was offered, and for both halves. */
  startAt(index: number, device: SplitQueue): void {
    this.availIndex = index;
    this.usedIndex = index;
    const { view, layout } = { view: this.ram.view, layout: this.layout };
    view.setUint16(layout.availableRing + 2, index, true);
    view.setUint16(layout.usedRing + 2, index, true);
    Object.assign(device, { nextAvail: index, knownAvail: index, nextUsed: index, publishedUsed: index });
  }

  /** The used entries published since the last call; their descriptors are free again. */
  collect(): UsedEntry[] {
    const { view } = this.ram;
    const entries: UsedEntry[] = [];
    const published = view.getUint16(this.layout.usedRing + 2, true);
    while (this.usedIndex !== published) {
      const at = this.layout.usedRing + 4 + 8 * (this.usedIndex & (this.size - 1));
      const id = view.getUint32(at, true);
      entries.push({ id, length: view.getUint32(at + 4, true) });
      const indices = this.chainOf.get(id);
      if (indices !== undefined) {
        this.free.push(...indices.reverse());
        this.chainOf.delete(id);
      }
      this.usedIndex = (this.usedIndex + 1) & 0xffff;
    }
    return entries;
  }

  /** Asks for an interrupt when the used index passes `index` (EVENT_IDX). */
  setUsedEvent(index: number): void {
    this.ram.view.setUint16(this.layout.availableRing + 4 + 2 * this.size, index & 0xffff, true);
  }

  /** Sets avail.flags (without EVENT_IDX): 1 asks for no interrupts. */
  setAvailFlags(flags: number): void {
    this.ram.view.setUint16(this.layout.availableRing, flags, true);
  }

  /** used.flags: 1 means that the device wants no notifications (without EVENT_IDX). */
  get usedFlags(): number {
    return this.ram.view.getUint16(this.layout.usedRing, true);
  }

  /** After which available index the device wants a notification (EVENT_IDX). */
  get availEvent(): number {
    return this.ram.view.getUint16(this.layout.usedRing + 4 + 8 * this.size, true);
  }

  /** The available index: how many chains were offered, modulo 2^16. */
  get offered(): number {
    return this.availIndex;
  }

  private takeDescriptor(): number {
    const index = this.free.pop();
    if (index === undefined) throw new RangeError('the ring is full');
    return index;
  }

  private offer(indices: number[]): number {
    this.chainOf.set(indices[0], indices);
    this.offerHead(indices[0]);
    return indices[0];
  }
}

/** Counts what a device asks of its transport. */
export class CountingInterrupt implements DeviceInterrupt {
  used = 0;
  configuration = 0;
  resets = 0;

  usedBuffers(): void {
    this.used++;
  }

  configurationChanged(): void {
    this.configuration++;
  }

  needsReset(): void {
    this.resets++;
  }
}
