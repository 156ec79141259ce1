// FADT: the fixed hardware, of which a hardware-reduced machine has next to none. Main thread, before the VM starts.
//
// Specification: ACPI 6.5, 5.2.9, and 4.1 (Hardware-Reduced ACPI): no PM timer, no PM1 event or control blocks, no GPE
// blocks, no SCI. Power-off and reset are one port (4.8.3.6, 4.8.3.7).

import type { AcpiOptions } from './options.js';
import { buildTable, ioRegister, TABLE_HEADER } from './table.js';

/*
 * struct acpi_table_fadt, the fields that are not 0:
 *   uint32_t dsdt;                        // 40
 *   uint16_t boot_flags;                  // 109: IAPC_BOOT_ARCH
 *   uint32_t flags;                       // 112
 *   struct acpi_generic_address reset_register;  // 116
 *   uint8_t  reset_value;                 // 128
 *   uint8_t  minor_revision;              // 131
 *   uint64_t Xdsdt;                       // 140
 *   struct acpi_generic_address sleep_control;   // 244
 *   struct acpi_generic_address sleep_status;    // 256
 *   uint64_t hypervisor_id;               // 268
 *                                         // 276
 */
export const FADT = {
  DSDT: 40,
  BOOT_FLAGS: 109,
  FLAGS: 112,
  RESET_REGISTER: 116,
  RESET_VALUE: 128,
  MINOR_REVISION: 131,
  X_DSDT: 140,
  SLEEP_CONTROL: 244,
  SLEEP_STATUS: 256,
  HYPERVISOR_ID: 268,
  SIZE: 276,
} as const;

const FADT_REVISION = 6;
const FADT_MINOR_REVISION = 5;

/** IAPC_BOOT_ARCH flags (5.2.9.3). */
export const LEGACY_DEVICES = 0x0001;
export const I8042_PRESENT = 0x0002;
export const VGA_NOT_PRESENT = 0x0004;
export const MSI_NOT_SUPPORTED = 0x0008;
export const PCIE_ASPM_CONTROLS = 0x0010;
export const CMOS_RTC_NOT_PRESENT = 0x0020;

/** Fixed feature flags (table 5.10). */
export const WBINVD = 0x0000_0001;
export const PROC_C1 = 0x0000_0004;
/** The buttons are not fixed hardware: they are devices of the name space, or not there. */
export const PWR_BUTTON = 0x0000_0010;
export const SLP_BUTTON = 0x0000_0020;
export const RESET_REG_SUP = 0x0000_0400;
export const HEADLESS = 0x0000_1000;
export const HW_REDUCED_ACPI = 0x0010_0000;

/** There is no PCI, so neither message interrupts nor link power management. */
const BOOT_FLAGS =
  LEGACY_DEVICES | I8042_PRESENT | VGA_NOT_PRESENT | MSI_NOT_SUPPORTED | PCIE_ASPM_CONTROLS | CMOS_RTC_NOT_PRESENT;
const FLAGS = WBINVD | PROC_C1 | PWR_BUTTON | SLP_BUTTON | RESET_REG_SUP | HEADLESS | HW_REDUCED_ACPI;

/** The FADT for a DSDT at `dsdtGpa`, which is below 4 GiB. */
export function buildFadt(options: AcpiOptions, dsdtGpa: number): Uint8Array {
  const { sleepControl } = options;
  const table = Buffer.alloc(FADT.SIZE);
  const register = ioRegister(sleepControl.port, 1);
  // The 64-bit field is what counts; the other one is for readers that know only that.
  table.writeUInt32LE(dsdtGpa, FADT.DSDT);
  table.writeBigUInt64LE(BigInt(dsdtGpa), FADT.X_DSDT);
  table.writeUInt16LE(BOOT_FLAGS, FADT.BOOT_FLAGS);
  table.writeUInt32LE(FLAGS, FADT.FLAGS);
  table.set(register, FADT.RESET_REGISTER);
  table[FADT.RESET_VALUE] = sleepControl.resetValue;
  table[FADT.MINOR_REVISION] = FADT_MINOR_REVISION;
  table.set(register, FADT.SLEEP_CONTROL);
  table.set(register, FADT.SLEEP_STATUS);
  table.write('TSVMM', FADT.HYPERVISOR_ID, 'latin1');
  return buildTable('FACP', FADT_REVISION, table.subarray(TABLE_HEADER.SIZE));
}
