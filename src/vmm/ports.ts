// The devices on the port bus as the main thread holds them. Their registers are in shared memory, for any vCPU thread to
// answer from; they outlive a reboot of the guest, which resets them, and go into snapshots.

import {
  createEventDeviceShared,
  EVENT_GENERATION_MASK,
  EVENT_POWER_BUTTON_MASK,
  raiseEvent,
  restoreEventDevice,
  saveEventDevice,
} from '../devices/legacy/event-device.js';
import { createI8042Shared, restoreI8042, saveI8042 } from '../devices/legacy/i8042.js';
import { resetSerialRegisters, restoreSerialRegisters, saveSerialRegisters } from '../devices/legacy/serial-shared.js';
import type { WatchdogSnapshot } from '../devices/legacy/watchdog.js';
import { createEventFd, signalEventFd } from '../platform/eventfd.js';
import { close } from '../platform/libc.js';
import type { Consoles } from './consoles/consoles.js';
import type { ReleaseStack } from './release-stack.js';
import type { WatchdogMonitor } from './watchdog.js';
import type { PortHandles } from './worker-protocol.js';

/** The registers of a paused machine: plain JSON. */
export interface PortsSnapshot {
  readonly serial: readonly number[] | null;
  readonly i8042: readonly number[];
  readonly events: number;
  readonly watchdog: WatchdogSnapshot | null;
}

export interface PortsParts {
  readonly consoles: Consoles;
  readonly watchdog: WatchdogMonitor | undefined;
  readonly pvpanic: boolean;
  /** Owns the descriptors. */
  readonly resources: ReleaseStack;
}

export class Ports {
  /** For the vCPU threads. */
  readonly handles: PortHandles;
  private readonly watchdog: WatchdogMonitor | undefined;
  private readonly atPowerOn: PortsSnapshot;

  constructor({ consoles, watchdog, pvpanic, resources }: PortsParts) {
    this.watchdog = watchdog;
    this.handles = {
      serial: consoles.serialHandles,
      i8042: createI8042Shared(),
      events: { shared: createEventDeviceShared(), irqEvent: resources.own(createEventFd(), close) },
      debugConsole: consoles.debugHandles,
      watchdog: watchdog?.handles,
      pvpanic,
    };
    this.atPowerOn = this.save();
  }

  pressPowerButton(): void {
    this.raise(EVENT_POWER_BUTTON_MASK);
  }

  /** Tells the guest that its VM generation id is another now. */
  tellGenerationChanged(): void {
    this.raise(EVENT_GENERATION_MASK);
  }

  /**
   * Raises the serial port's interrupt once: for a restored guest that waits for something which happened while it was
   * away. One for nothing does no harm.
   */
  nudge(): void {
    const { serial } = this.handles;
    if (serial !== undefined) signalEventFd(serial.irqEvent);
  }

  /** Before the vCPUs are taken out of the guest: until `resume` no watchdog resets the machine. */
  deferExpiry(): void {
    this.watchdog?.defer();
  }

  /** The machine is paused: its watchdog stands still. No vCPU may run. */
  pause(): void {
    this.watchdog?.pause();
  }

  /** The watchdog goes on, from where it stood if it was paused; one that has run out says so soon. Before a vCPU runs. */
  resume(): void {
    this.watchdog?.resume();
  }

  /** For a reset of the machine. What the guest printed before is still delivered. No vCPU may run. */
  reset(): void {
    const { serial, i8042, events } = this.handles;
    if (serial !== undefined) resetSerialRegisters(serial.shared);
    restoreI8042(i8042, this.atPowerOn.i8042);
    restoreEventDevice(events.shared, this.atPowerOn.events);
    this.watchdog?.reset();
  }

  private raise(event: number): void {
    const { shared, irqEvent } = this.handles.events;
    raiseEvent(shared, event, () => {
      signalEventFd(irqEvent);
    });
  }

  /** No vCPU may run. */
  save(): PortsSnapshot {
    const { serial, i8042, events } = this.handles;
    return {
      serial: serial === undefined ? null : saveSerialRegisters(serial.shared),
      i8042: saveI8042(i8042),
      events: saveEventDevice(events.shared),
      watchdog: this.watchdog?.save() ?? null,
    };
  }

  /** Before the vCPUs run: of a machine that is paused. */
  restore(snapshot: PortsSnapshot): void {
    const { serial, i8042, events } = this.handles;
    if (serial !== undefined && snapshot.serial !== null) restoreSerialRegisters(serial.shared, snapshot.serial);
    restoreI8042(i8042, snapshot.i8042);
    restoreEventDevice(events.shared, snapshot.events);
    if (snapshot.watchdog !== null) this.watchdog?.restore(snapshot.watchdog);
  }
}
