// A machine to describe, and ways to look at its tables.

import type { AcpiOptions } from '../../../src/boot/acpi/options.js';
import { buildAcpiTables, type PlacedTable } from '../../../src/boot/acpi/tables.js';

/** Not the product's own places: a test then sees that they come from here. */
export const MACHINE: AcpiOptions = {
  virtio: [
    { gpa: 0xd000_0000, irq: 5 },
    { gpa: 0xd000_1000, irq: 23 },
  ],
  sleepControl: { port: 0x600, sleepTypeS5: 5, resetValue: 1 },
  events: { port: 0x630, gsi: 9, powerButtonMask: 1, generationMask: 2 },
  generationId: Uint8Array.from({ length: 16 }, (_, index) => 0xa0 + index),
  i8042: { dataPort: 0x60, commandPort: 0x64, gsi: 1 },
  serial: { port: 0x3f8, count: 8, gsi: 4 },
  pvpanic: { port: 0x505, count: 1 },
  watchdog: { port: 0x610 },
};

/** A machine of nothing but what every machine has. */
export const BARE_MACHINE: AcpiOptions = {
  virtio: [],
  sleepControl: MACHINE.sleepControl,
  events: MACHINE.events,
  generationId: MACHINE.generationId,
  i8042: MACHINE.i8042,
};

/** As many virtio devices as there could ever be, one for each pin from 5 on. */
export const FULL_MACHINE: AcpiOptions = {
  ...MACHINE,
  virtio: Array.from({ length: 19 }, (_, index) => ({ gpa: 0xd000_0000 + index * 0x1000, irq: 5 + index })),
};

/** The table called `name` among those of a machine. */
export function tableOf(options: AcpiOptions, cpus: number, name: string): Buffer {
  const { tables } = buildAcpiTables(options, cpus);
  const table = tables.find((candidate: PlacedTable) => candidate.name === name);
  if (table === undefined) throw new Error(`no ${name}`);
  return Buffer.from(table.bytes);
}

/** The sum that a checksum byte is to make 0. */
export function sum(bytes: Uint8Array): number {
  return bytes.reduce((total, byte) => total + byte, 0) & 0xff;
}
