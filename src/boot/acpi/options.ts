// What the ACPI tables describe: the machine's devices as plain data. Boot code knows no devices, so whoever builds the
// machine says where they are.

import type { VirtioMmioPlacement } from '../command-line.js';
import type { PortRange } from './resources.js';

/** The register through which a guest powers off and resets. */
export interface SleepControlPlacement {
  readonly port: number;
  /** SLP_TYP of S5: what \_S5 tells. */
  readonly sleepTypeS5: number;
  /** What resets when it is written to the port. */
  readonly resetValue: number;
}

/** The Generic Event Device: reading its port gives the pending events and takes them back. */
export interface EventDevicePlacement {
  readonly port: number;
  readonly gsi: number;
  /** The bit that says the power button was pressed. */
  readonly powerButtonMask: number;
  /** The bit that says the VM generation id is another now. */
  readonly generationMask: number;
}

/** A device on ports that interrupts. */
export interface IsaDevicePlacement extends PortRange {
  readonly gsi: number;
}

export interface AcpiOptions {
  /** In the order of their _UIDs, 0 on. */
  readonly virtio: readonly VirtioMmioPlacement[];
  readonly sleepControl: SleepControlPlacement;
  readonly events: EventDevicePlacement;
  /** The VM generation id: 16 bytes that no other run of any machine has. */
  readonly generationId: Uint8Array;
  /** The keyboard controller: data port and command port, and the keyboard's interrupt. */
  readonly i8042: { readonly dataPort: number; readonly commandPort: number; readonly gsi: number };
  /** COM1. Absent: there is none. */
  readonly serial?: IsaDevicePlacement | undefined;
  /** Where a guest tells that it panicked. Absent: nowhere. */
  readonly pvpanic?: PortRange | undefined;
  /** The first of the watchdog's registers (wdat.ts). Absent: there is no watchdog. */
  readonly watchdog?: { readonly port: number } | undefined;
}
