// The virtio devices of a VM as the main thread holds them: register pages, event descriptors, interrupt lines, and the
// I/O threads that drive them. They outlive a reboot of the guest: the next machine is connected to the same devices.

import { MessageChannel, type MessagePort } from 'node:worker_threads';
import type { VirtioMmioPlacement } from '../boot/command-line.js';
import type { DeviceCommand } from '../devices/virtio/device.js';
import {
  createMmioPage,
  restoreMmioPage,
  savedPageMismatch,
  MMIO_DEVICE_SIZE,
  MmioRegisters,
  REG_QUEUE_NOTIFY,
} from '../devices/virtio/mmio.js';
import { createEventFd, signalEventFd } from '../platform/eventfd.js';
import type { MemoryMap } from '../platform/guest-memory.js';
import { close } from '../platform/libc.js';
import type { Fd } from '../platform/units.js';
import type { AttachedDevice } from './attach/attached-device.js';
import { VIRTIO_MMIO_BASE } from './buses.js';
import { ControlBlock } from './control.js';
import type { DeviceKind } from './device-kinds.js';
import type { IoThreadPlan } from './device-plan.js';
import { VmError } from './errors.js';
import { VIRTIO_GSIS } from './interrupt-lines.js';
import type { BackendState } from './mmio-backend.js';
import type { KvmVm } from './kvm/vm-fd.js';
import { type BlockingThreads, endWithProcess, forget } from './process-end.js';
import type { ReleaseStack } from './release-stack.js';
import type { DeviceStart, IoCommand, IoMessage, MmioDeviceHandles } from './worker-protocol.js';
import { takeIoThread, type IoThread } from './worker-pool.js';

/** One device and its place in the machine. */
interface Slot {
  readonly device: AttachedDevice;
  readonly start: DeviceStart;
  readonly placement: VirtioMmioPlacement;
  readonly counters: Float64Array;
  /** What it was doing when it was saved, if it was. */
  restored?: BackendState;
  /** Set when the I/O threads start: which one drives the device, and as its how manieth. */
  thread?: { readonly group: IoGroup; readonly index: number };
}

/** One I/O thread with what drives it. */
interface IoGroup {
  readonly name: string;
  readonly plan: IoThreadPlan;
  readonly thread: IoThread;
  readonly slots: Slot[];
  readonly commands: MessageChannel;
  commandEvent?: Fd;
  stopEvent?: Fd;
  /** Takes the answer to the command that `ask` sent. */
  answer?: ((message: IoMessage) => void) | undefined;
}

/** One saved device. */
export interface DeviceSnapshot {
  readonly id: string;
  /** Its register page. */
  readonly page: Uint8Array;
  readonly backend: BackendState;
}

/** Messages of an I/O thread that answer a command. */
const ANSWERS: ReadonlySet<IoMessage['type']> = new Set(['paused', 'state', 'not-saved']);

function tell(group: IoGroup, command: IoCommand): void {
  if (group.commandEvent === undefined) return;
  group.commands.port1.postMessage(command);
  signalEventFd(group.commandEvent);
}

/** Resolves with the answer; a thread that ends before is reported elsewhere, and answers nothing. */
function ask(group: IoGroup, command: IoCommand): Promise<IoMessage> {
  return new Promise((resolve) => {
    group.answer = (message) => {
      group.answer = undefined;
      resolve(message);
    };
    tell(group, command);
  });
}

export interface DeviceSetEvents {
  onLog(message: Extract<IoMessage, { type: 'log' }>): void;
  /** A worker failed: a bug. */
  onFailure(worker: string, error: Error): void;
}

export class DeviceSet {
  private readonly resources: ReleaseStack;
  private readonly control = ControlBlock.create();
  private readonly groups: IoGroup[];
  private readonly slots: Slot[] = [];
  private readonly blocking: BlockingThreads;
  private started = false;

  /** Takes the I/O threads of `plans`, which load their code from now on. Descriptors belong to `resources`. */
  constructor(plans: readonly IoThreadPlan[], resources: ReleaseStack, events: DeviceSetEvents) {
    this.resources = resources;
    this.groups = plans.map((plan, index) => {
      const name = plan.length === 1 ? `io-${plan[0]}` : `io${index}`;
      return { name, plan, thread: takeIoThread(plan), slots: [], commands: new MessageChannel() };
    });
    this.blocking = {
      control: this.control,
      count: this.groups.length,
      order: 'io',
      kick: () => {
        for (const { stopEvent } of this.groups) if (stopEvent !== undefined) signalEventFd(stopEvent);
      },
    };
    for (const group of this.groups) {
      const { name, thread } = group;
      thread.attach({
        onMessage: (message) => {
          if (ANSWERS.has(message.type)) group.answer?.(message);
          if (message.type === 'log') events.onLog(message);
          if (message.type === 'failed') {
            events.onFailure(name, Object.assign(new Error(message.message), { stack: message.stack }));
          }
        },
        onFailure: (error) => {
          events.onFailure(name, error);
        },
      });
    }
  }

  /** Gives `device` a register page, an interrupt line and event descriptors. Throws VmError TOO_MANY_DEVICES. */
  add(device: AttachedDevice): void {
    const index = this.slots.length;
    const irq = VIRTIO_GSIS.at(index);
    if (irq === undefined) {
      throw new VmError(
        'TOO_MANY_DEVICES',
        `there are interrupt lines for ${VIRTIO_GSIS.length} devices, and ${device.id} is one more`,
        'leave a device out',
      );
    }
    const { identity, settings, id, counterNames } = device;
    const counters = new SharedArrayBuffer(counterNames.length * Float64Array.BYTES_PER_ELEMENT);
    const handles = {
      page: createMmioPage(identity),
      requestEvent: this.ownEventFd(),
      queueEvents: identity.queueSizes.map(() => this.ownEventFd()),
      irqEvent: this.ownEventFd(),
    };
    this.slots.push({
      device,
      start: { id, handles, settings, counters },
      placement: { gpa: VIRTIO_MMIO_BASE + index * MMIO_DEVICE_SIZE, irq },
      counters: new Float64Array(counters),
    });
  }

  /** Where a guest finds the devices. */
  get placements(): readonly VirtioMmioPlacement[] {
    return this.slots.map(({ placement }) => placement);
  }

  /** What a vCPU thread needs of the devices, in the order of their pages. */
  get handles(): readonly MmioDeviceHandles[] {
    return this.slots.map(({ start }) => {
      const { page, requestEvent, queueEvents } = start.handles;
      return { page, requestEvent, queueEvents };
    });
  }

  /** Lets KVM signal the devices and the devices interrupt the guest. Throws SysError. */
  connect(vm: KvmVm): void {
    for (const { start, placement } of this.slots) {
      vm.addIrqFd(start.handles.irqEvent, placement.irq);
      start.handles.queueEvents.forEach((event, queue) => {
        vm.addMmioEventFd(event, placement.gpa + REG_QUEUE_NOTIFY, queue);
      });
    }
  }

  /** Starts the I/O threads, once; with `paused` they wait for `resume` before they touch anything. */
  start(memory: MemoryMap, { paused = false } = {}): void {
    this.started = true;
    this.assign();
    for (const group of this.groups) {
      group.commandEvent = this.ownEventFd();
      group.stopEvent = this.ownEventFd();
      const { port2 } = group.commands;
      const transfer: MessagePort[] = [port2];
      let busyPollMicroseconds = 0;
      for (const { device } of group.slots) {
        busyPollMicroseconds = Math.max(busyPollMicroseconds, device.busyPollMicroseconds ?? 0);
        if (device.settings.kind === 'vsock') transfer.push(device.settings.inProcess.port);
      }
      const { commandEvent, stopEvent } = group;
      const devices = group.slots.map(({ start, restored }) =>
        restored === undefined ? start : { ...start, restored },
      );
      const control = this.control.buffer;
      const message = {
        control,
        stopEvent,
        memory,
        busyPollMicroseconds,
        paused,
        devices,
        commands: port2,
        commandEvent,
      };
      group.thread.start(message, transfer);
    }
    endWithProcess(this.blocking);
  }

  /** Hands a command to the device called `id`; does nothing before `start` and when there is no such device. */
  command(id: string, command: DeviceCommand): void {
    const place = this.slots.find(({ device }) => device.id === id)?.thread;
    if (place?.group.commandEvent === undefined) return;
    tell(place.group, { type: 'device', device: place.index, command });
  }

  /** Makes every I/O thread let go of the rings and wait. No vCPU may run. */
  async pause(): Promise<void> {
    await Promise.all(this.groups.map((group) => ask(group, { type: 'pause' })));
  }

  resume(): void {
    for (const group of this.groups) tell(group, { type: 'resume' });
  }

  /** The state of every device of a paused VM, in the order of their pages. Rejects with VmError SNAPSHOT. */
  async save(): Promise<DeviceSnapshot[]> {
    const answers = await Promise.all(this.groups.map((group) => ask(group, { type: 'save' })));
    for (const answer of answers) {
      if (answer.type !== 'not-saved') continue;
      throw new VmError('SNAPSHOT', `a device cannot be saved: ${answer.reason}`, 'mend that, and save again');
    }
    return this.slots.map(({ device, start, thread }) => {
      const group = thread === undefined ? -1 : this.groups.indexOf(thread.group);
      const answer = answers.at(group);
      if (thread === undefined || answer?.type !== 'state') throw new Error(`no state of device ${device.id}`);
      const page = new Uint8Array(start.handles.page).slice();
      return { id: device.id, page, backend: answer.devices[thread.index] };
    });
  }

  /** Before `start`: puts every device where it was saved. Throws VmError SNAPSHOT when they are others. */
  restore(snapshots: readonly DeviceSnapshot[]): void {
    const saved = snapshots.map(({ id }) => id).join(', ');
    const present = this.slots.map(({ device }) => device.id).join(', ');
    if (saved !== present) {
      throw new VmError(
        'SNAPSHOT',
        `the snapshot has the devices ${saved}, and the configuration ${present}`,
        'restore with the configuration that was saved; only host paths may be others',
      );
    }
    snapshots.forEach(({ id, page, backend }, index) => {
      const slot = this.slots[index];
      const mismatch = savedPageMismatch(slot.device.identity, page);
      if (mismatch !== undefined) {
        throw new VmError(
          'SNAPSHOT',
          `the snapshot's device ${id} cannot go on: ${mismatch}`,
          'restore it with what it had, or with a copy of that',
        );
      }
      restoreMmioPage(slot.start.handles.page, page);
      slot.restored = backend;
    });
  }

  /** The kind of each device, by its id. */
  get kinds(): ReadonlyMap<string, DeviceKind> {
    return new Map(this.slots.map(({ device }) => [device.id, device.settings.kind]));
  }

  /** What every device has counted since the VM was created. */
  counters(): Record<string, Record<string, number>> {
    return Object.fromEntries(
      this.slots
        .filter(({ counters }) => counters.length > 0)
        .map(({ device, counters }) => [
          device.id,
          Object.fromEntries(device.counterNames.map((name, index) => [name, counters[index]])),
        ]),
    );
  }

  /**
   * Resets every device as its driver would by writing 0 to Status; waits for the I/O threads to have let go of the rings.
   * No vCPU may run.
   */
  reset(): void {
    for (const { start } of this.slots) {
      const { page, requestEvent } = start.handles;
      const never = (): boolean => this.control.stopRequested;
      new MmioRegisters(page, requestEvent, () => undefined, never).resetDevice();
    }
  }

  /** Ends the I/O threads. Returns the names of those that did not end in time. */
  async stop(): Promise<string[]> {
    this.control.requestStop();
    const ended = await Promise.all(
      this.groups.map(({ thread, stopEvent, commands }) => {
        commands.port1.close();
        return thread.join(() => {
          if (stopEvent !== undefined) signalEventFd(stopEvent);
        });
      }),
    );
    if (ended.every(Boolean)) forget(this.blocking);
    if (!this.started) for (const { commands } of this.groups) commands.port2.close();
    return this.groups.filter((_, index) => !ended[index]).map(({ name }) => name);
  }

  /** The vsock device has its thread to itself; the others go round the rest. */
  private assign(): void {
    const shared = this.groups.filter(({ plan }) => !plan.includes('vsock'));
    let next = 0;
    for (const slot of this.slots) {
      const own = this.groups.find(({ plan }) => plan.includes('vsock') && slot.device.settings.kind === 'vsock');
      const group = own ?? shared[next++ % shared.length];
      slot.thread = { group, index: group.slots.length };
      group.slots.push(slot);
    }
  }

  private ownEventFd(): Fd {
    return this.resources.own(createEventFd(), close);
  }
}
