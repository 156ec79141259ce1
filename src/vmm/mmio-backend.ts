// Drives one virtio device from an I/O worker: its request handshake, its queue events, its activation.

import {
  hasFeature,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
  type VirtioDevice,
} from '../devices/virtio/device.js';
import { MmioDevicePage } from '../devices/virtio/mmio.js';
import { QueueLayoutError, SplitQueue } from '../devices/virtio/queue.js';
import { EPOLLET, EPOLLIN } from '../platform/epoll.js';
import type { EventLoop } from '../platform/event-loop.js';
import type { GuestMemory } from '../platform/guest-memory.js';
import type { Fd } from '../platform/units.js';
import type { LogLevel, MmioDeviceHandles } from './worker-protocol.js';

export interface BackendOptions {
  readonly name: string;
  readonly loop: EventLoop;
  readonly memory: GuestMemory;
  readonly handles: MmioDeviceHandles & { readonly irqEvent: Fd };
  readonly device: VirtioDevice;
  readonly log: (level: LogLevel, message: string) => void;
}

/** The transport half of a device that lives in this worker. */
export class MmioBackend {
  private readonly options: BackendOptions;
  private readonly page: MmioDevicePage;
  private active = false;

  constructor(options: BackendOptions) {
    const { loop, handles } = options;
    this.options = options;
    this.page = new MmioDevicePage(handles.page, handles.irqEvent);
    // Edge-triggered: an eventfd that is never read costs one system call less per wake-up, and its counter cannot
    // reach its limit in this universe's time.
    loop.watch(handles.requestEvent, EPOLLIN | EPOLLET, { ready: () => this.handleRequest() });
    handles.queueEvents.forEach((event, index) => {
      loop.watch(event, EPOLLIN | EPOLLET, { ready: () => this.notifyQueue(index) });
    });
  }

  /** Stops watching and closes the device. */
  close(): void {
    const { loop, handles, device } = this.options;
    loop.unwatch(handles.requestEvent);
    for (const event of handles.queueEvents) loop.unwatch(event);
    device.close();
  }

  /** Replaces the device's configuration space. Drivers hear of it from the device, in whatever way its kind has. */
  writeConfig(config: Uint8Array): void {
    this.page.updateConfig(0, config);
  }

  private notifyQueue(index: number): void {
    // A kick that was under way when the driver reset the device finds it inactive.
    if (this.active) this.options.device.queueNotified(index);
  }

  private handleRequest(): void {
    const request = this.page.pendingRequest();
    if (request === undefined) return;
    try {
      if (request === 'activate') this.activate();
      else this.reset();
    } finally {
      this.page.acknowledge();
    }
  }

  private reset(): void {
    this.active = false;
    this.options.device.reset();
    this.options.log('debug', `${this.options.name}: reset by its driver`);
  }

  private activate(): void {
    const { device, memory, log, name } = this.options;
    if (this.active) this.reset();
    const features = this.page.driverFeatures();
    const ring = {
      eventIdx: hasFeature(features, VIRTIO_RING_F_EVENT_IDX_BIT),
      indirect: hasFeature(features, VIRTIO_RING_F_INDIRECT_DESC_BIT),
    };
    let queues: (SplitQueue | undefined)[];
    try {
      queues = Array.from({ length: this.page.queueCount }, (_, index) => {
        const layout = this.page.queueLayout(index);
        return layout === undefined ? undefined : new SplitQueue(memory, layout, ring);
      });
    } catch (error) {
      if (!(error instanceof QueueLayoutError)) throw error;
      log('warn', `${name}: the driver set up a queue that cannot be used: ${error.message}`);
      this.page.needsReset();
      return;
    }
    device.activate({ memory, queues, features, interrupt: this.page });
    this.active = true;
    log('debug', `${name}: activated by its driver`);
    // A kick may have come before the driver said DRIVER_OK: look at every queue once.
    queues.forEach((queue, index) => {
      if (queue !== undefined) device.queueNotified(index);
    });
  }
}
