// Drives one virtio device from an I/O worker: its request handshake, its queue events, its activation.

import {
  hasFeature,
  VIRTIO_RING_F_EVENT_IDX_BIT,
  VIRTIO_RING_F_INDIRECT_DESC_BIT,
  type DeviceCommand,
  type DeviceState,
  type VirtioDevice,
} from '../devices/virtio/device.js';
import { MmioDevicePage } from '../devices/virtio/mmio.js';
import { QueueLayoutError, SplitQueue, type QueuePosition } from '../devices/virtio/queue.js';
import { EPOLLET, EPOLLIN } from '../platform/epoll.js';
import type { EventLoop } from '../platform/event-loop.js';
import type { GuestMemory } from '../platform/guest-memory.js';
import type { Fd } from '../platform/units.js';
import type { LogLevel, MmioDeviceHandles } from './worker-protocol.js';

export interface BackendOptions {
  readonly loop: EventLoop;
  readonly memory: GuestMemory;
  readonly handles: MmioDeviceHandles & { readonly irqEvent: Fd };
  readonly log: (level: LogLevel, message: string) => void;
  /** What the device was doing when it was saved, if it goes on from there. */
  readonly restored?: BackendState | undefined;
}

/** What a paused device was doing: plain JSON. */
export interface BackendState {
  /** Whether a driver was there. */
  readonly active: boolean;
  /** One per queue; null for one that the driver left unused. */
  readonly queues: readonly (QueuePosition | null)[];
  readonly device: DeviceState | null;
}

/** The transport half of a device that lives in this worker. */
export class MmioBackend {
  private readonly options: BackendOptions;
  private readonly page: MmioDevicePage;
  private device: VirtioDevice | undefined;
  private queues: readonly (SplitQueue | undefined)[] = [];
  private active = false;

  constructor(options: BackendOptions) {
    this.options = options;
    this.page = new MmioDevicePage(options.handles.page, options.handles.irqEvent);
  }

  /** Drives `device` from here on, and owns it. */
  serve(device: VirtioDevice): void {
    const { loop, handles, restored } = this.options;
    this.device = device;
    if (restored?.active === true) this.activate(device, restored);
    // Edge-triggered: an eventfd that is never read costs one system call less per wake-up, and its counter cannot
    // reach its limit in this universe's time.
    loop.watch(handles.requestEvent, EPOLLIN | EPOLLET, { ready: () => this.handleRequest(device) });
    handles.queueEvents.forEach((event, index) => {
      loop.watch(event, EPOLLIN | EPOLLET, {
        ready: () => {
          // A kick that was under way when the driver reset the device finds it inactive.
          if (this.active) device.queueNotified(index);
        },
      });
    });
  }

  /** Stops watching and closes the device. */
  close(): void {
    const { loop, handles } = this.options;
    loop.unwatch(handles.requestEvent);
    for (const event of handles.queueEvents) loop.unwatch(event);
    this.device?.close();
  }

  /** Replaces bytes of the configuration space and interrupts the driver for it, if there is one. */
  updateConfig(offset: number, bytes: Uint8Array): void {
    this.page.updateConfig(offset, bytes);
    if (this.active) this.page.configurationChanged();
  }

  command(command: DeviceCommand): void {
    this.device?.command?.(command);
  }

  /** Lets the device put down what it holds; nothing of it may be called until the machine goes on. */
  quiesce(): void {
    if (!this.active) return;
    this.device?.quiesce?.();
    for (const queue of this.queues) queue?.publish();
  }

  /** After `quiesce`. */
  save(): BackendState {
    const { active, device, options } = this;
    // Restored, and never resumed since.
    if (device === undefined && options.restored !== undefined) return options.restored;
    const queues = this.queues.map((queue) => queue?.position ?? null);
    return { active, queues: active ? queues : [], device: device?.save?.() ?? null };
  }

  /** Looks at every queue once, as after anything that may have swallowed a notification. */
  lookAtQueues(): void {
    if (!this.active) return;
    this.queues.forEach((queue, index) => {
      if (queue !== undefined) this.device?.queueNotified(index);
    });
  }

  private handleRequest(device: VirtioDevice): void {
    const written = this.page.writtenConfig();
    if (written !== undefined) {
      try {
        device.configWritten?.(written);
      } finally {
        this.page.configTaken();
      }
    }
    const request = this.page.pendingRequest();
    if (request === undefined) return;
    try {
      if (request === 'activate') this.activate(device);
      else this.reset(device);
    } finally {
      this.page.acknowledge();
    }
  }

  private reset(device: VirtioDevice): void {
    this.active = false;
    this.queues = [];
    device.reset();
    this.options.log('debug', 'reset by its driver');
  }

  private activate(device: VirtioDevice, restored?: BackendState): void {
    const { memory, log } = this.options;
    if (this.active) this.reset(device);
    const features = this.page.driverFeatures();
    const ring = {
      eventIdx: hasFeature(features, VIRTIO_RING_F_EVENT_IDX_BIT),
      indirect: hasFeature(features, VIRTIO_RING_F_INDIRECT_DESC_BIT),
    };
    let queues: (SplitQueue | undefined)[];
    try {
      queues = Array.from({ length: this.page.queueCount }, (_, index) => {
        const layout = this.page.queueLayout(index);
        return layout === undefined
          ? undefined
          : new SplitQueue(memory, layout, ring, restored?.queues[index] ?? undefined);
      });
    } catch (error) {
      if (!(error instanceof QueueLayoutError)) throw error;
      log('warn', `the driver set up a queue that cannot be used: ${error.message}`);
      this.page.needsReset();
      return;
    }
    device.activate({ memory, queues, features, interrupt: this.page });
    this.queues = queues;
    this.active = true;
    if (restored !== undefined && restored.device !== null) device.restore?.(restored.device);
    log('debug', restored === undefined ? 'activated by its driver' : 'restored');
    // A kick may have come before the driver said DRIVER_OK, or before the machine was saved.
    this.lookAtQueues();
  }
}
