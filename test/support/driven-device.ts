// A virtio device without a VM: a real event loop, the driver's half of every ring, and what the device says to its
// transport, written down.

import {
  featureWords,
  VIRTIO_F_VERSION_1_BIT,
  type DeviceContext,
  type DeviceState,
  type VirtioDevice,
} from '../../src/devices/virtio/device.js';
import type { SplitQueue } from '../../src/devices/virtio/queue.js';
import { EventLoop } from '../../src/platform/event-loop.js';
import { CountingInterrupt, DrivenRing, type TestBuffer, type TestMemory, type UsedEntry } from './driven-ring.js';

const CONFIG_SIZE = 64;

export class DeviceHost {
  readonly loop = new EventLoop();
  readonly logged: string[] = [];
  readonly config = new Uint8Array(CONFIG_SIZE);
  readonly context: DeviceContext;
  private readonly names: readonly string[];
  private readonly counters: Float64Array;

  constructor(counterNames: readonly string[]) {
    this.names = counterNames;
    this.counters = new Float64Array(counterNames.length);
    this.context = {
      loop: this.loop,
      log: (_level, message) => this.logged.push(message),
      updateConfig: (offset, bytes) => {
        this.config.set(bytes, offset);
      },
      counters: this.counters,
    };
  }

  count(name: string): number {
    const index = this.names.indexOf(name);
    if (index < 0) throw new RangeError(`there is no counter ${name}`);
    return this.counters[index];
  }
}

/** A device and its driver, which is up. */
export class DrivenDevice<D extends VirtioDevice = VirtioDevice> implements Disposable {
  device: D;
  readonly host: DeviceHost;
  readonly ram: TestMemory;
  readonly interrupt = new CountingInterrupt();
  rings: DrivenRing[] = [];
  private readonly queues: number;
  private present: readonly (SplitQueue | undefined)[] = [];
  private accepted: readonly number[] = [];

  constructor(device: D, host: DeviceHost, ram: TestMemory, queues: number, features: readonly number[] = []) {
    this.device = device;
    this.host = host;
    this.ram = ram;
    this.queues = queues;
    this.activate(features);
  }

  /** The driver comes up, with new rings. `absent` are queues that it does not set up. */
  activate(features: readonly number[] = [], absent: readonly number[] = [], eventIdx = true): void {
    this.rings = Array.from({ length: this.queues }, () => new DrivenRing(this.ram, 64));
    this.accepted = features;
    this.connect(
      this.rings.map((ring, index) => (absent.includes(index) ? undefined : ring.device({ eventIdx, indirect: true }))),
    );
    this.notifyAll();
  }

  /** The machine is saved, and goes on with `device` over the same memory. */
  restore(device: D): void {
    this.device.quiesce?.();
    for (const queue of this.present) queue?.publish();
    const state = JSON.parse(JSON.stringify(this.device.save?.() ?? {})) as DeviceState;
    const positions = this.present.map((queue) => queue?.position);
    this.device.close();
    this.device = device;
    this.connect(
      this.rings.map((ring, index) =>
        positions[index] === undefined ? undefined : ring.device(undefined, positions[index]),
      ),
    );
    device.restore?.(state);
    this.notifyAll();
  }

  private connect(queues: readonly (SplitQueue | undefined)[]): void {
    this.present = queues;
    this.device.activate({
      memory: this.ram.memory,
      queues,
      features: featureWords([VIRTIO_F_VERSION_1_BIT, ...this.accepted]),
      interrupt: this.interrupt,
    });
  }

  private notifyAll(): void {
    for (let index = 0; index < this.queues; index++) this.device.queueNotified(index);
  }

  /** Makes a chain available and notifies; returns what the device gave back. */
  send(queue: number, buffers: readonly TestBuffer[]): UsedEntry[] {
    this.rings[queue].add(buffers);
    return this.notify(queue);
  }

  notify(queue: number): UsedEntry[] {
    this.device.queueNotified(queue);
    this.host.loop.turn(0);
    return this.rings[queue].collect();
  }

  [Symbol.dispose](): void {
    this.device.close();
    this.host.loop.close();
    this.ram.release();
  }
}
