// What the ACPI tables say of a VM: where the devices are that a guest finds through them. Main thread.

import { randomBytes } from 'node:crypto';
import type { AcpiOptions } from '../boot/acpi/options.js';
import type { VirtioMmioPlacement } from '../boot/command-line.js';
import type { VmConfig } from '../config/vm-config.js';
import { EVENT_GENERATION_MASK, EVENT_PORT, EVENT_POWER_BUTTON_MASK } from '../devices/legacy/event-device.js';
import { I8042_BASE_PORT, I8042_COMMAND, I8042_DATA } from '../devices/legacy/i8042.js';
import { COM1_IRQ, COM1_PORT, SERIAL_PORT_COUNT } from '../devices/legacy/serial-registers.js';
import { PVPANIC_PORT } from '../devices/legacy/pvpanic.js';
import { RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_TYPE_S5 } from '../devices/legacy/sleep-control.js';
import { WATCHDOG_BASE_PORT } from '../devices/legacy/watchdog.js';
import { EVENT_GSI, KEYBOARD_GSI } from './interrupt-lines.js';

const GENERATION_ID_BYTES = 16;

/** One that no other machine has, nor this one after its next restore. */
export function newGenerationId(): Uint8Array {
  return randomBytes(GENERATION_ID_BYTES);
}

/** The devices of a VM with this configuration, its virtio devices being at `virtio`. */
export function acpiOptions(config: VmConfig, virtio: readonly VirtioMmioPlacement[]): AcpiOptions {
  return {
    virtio,
    sleepControl: { port: SLEEP_CONTROL_PORT, sleepTypeS5: SLEEP_TYPE_S5, resetValue: RESET_VALUE },
    events: {
      port: EVENT_PORT,
      gsi: EVENT_GSI,
      powerButtonMask: EVENT_POWER_BUTTON_MASK,
      generationMask: EVENT_GENERATION_MASK,
    },
    generationId: newGenerationId(),
    i8042: {
      dataPort: I8042_BASE_PORT + I8042_DATA,
      commandPort: I8042_BASE_PORT + I8042_COMMAND,
      gsi: KEYBOARD_GSI,
    },
    serial: config.serial.mode === 'Off' ? undefined : { port: COM1_PORT, count: SERIAL_PORT_COUNT, gsi: COM1_IRQ },
    pvpanic: config.pvpanic === true ? { port: PVPANIC_PORT, count: 1 } : undefined,
    watchdog: config.watchdog === true ? { port: WATCHDOG_BASE_PORT } : undefined,
  };
}
