// The memory map a guest is told: the same list for Linux's zero page (e820) and for PVH. Main thread.
//
// Types are those of the ACPI specification's "System Address Map Interfaces", which e820 and PVH share.

import { BootError } from './errors.js';
import {
  ACPI_AREA_END,
  ACPI_AREA_GPA,
  GENERATION_ID_GPA,
  GENERATION_ID_PAGE_END,
  LEGACY_HOLE_END,
  LEGACY_HOLE_START,
  MP_TABLE_GPA,
} from './layout.js';
import type { BootMemory, MemoryRange } from './memory.js';
import { formatBytes } from '../platform/units.js';

export const MEMORY_TYPE_RAM = 1;
export const MEMORY_TYPE_RESERVED = 2;
/** ACPI tables, which a guest that has read them may use as RAM. */
export const MEMORY_TYPE_ACPI = 3;

export interface MemoryMapEntry extends MemoryRange {
  readonly type: typeof MEMORY_TYPE_RAM | typeof MEMORY_TYPE_RESERVED | typeof MEMORY_TYPE_ACPI;
}

const ACPI_TABLES: MemoryMapEntry = { gpa: ACPI_AREA_GPA, size: ACPI_AREA_END - ACPI_AREA_GPA, type: MEMORY_TYPE_ACPI };
/** Not with the tables: it is read again and again. */
const GENERATION_ID: MemoryMapEntry = {
  gpa: GENERATION_ID_GPA,
  size: GENERATION_ID_PAGE_END - GENERATION_ID_GPA,
  type: MEMORY_TYPE_RESERVED,
};

/**
 * The guest's memory map: RAM without the EBDA and the legacy hole, and in that the ACPI tables if there are any. Throws
 * BootError memory-too-small.
 */
export function buildMemoryMap(memory: BootMemory, hasAcpiTables: boolean): MemoryMapEntry[] {
  const low = lowRam(memory);
  const map: MemoryMapEntry[] = [
    { gpa: 0, size: MP_TABLE_GPA, type: MEMORY_TYPE_RAM },
    { gpa: MP_TABLE_GPA, size: LEGACY_HOLE_START - MP_TABLE_GPA, type: MEMORY_TYPE_RESERVED },
    ...(hasAcpiTables ? [ACPI_TABLES, GENERATION_ID] : []),
    { gpa: LEGACY_HOLE_END, size: low.size - LEGACY_HOLE_END, type: MEMORY_TYPE_RAM },
  ];
  for (const range of memory.ranges.slice(1)) map.push({ gpa: range.gpa, size: range.size, type: MEMORY_TYPE_RAM });
  return map;
}

/** The RAM that begins at address 0. Throws BootError memory-too-small when it ends below 1 MiB. */
export function lowRam(memory: BootMemory): MemoryRange {
  const low = memory.ranges.at(0);
  if (low?.gpa !== 0 || low.size <= LEGACY_HOLE_END) {
    throw new BootError(
      'memory-too-small',
      `the guest has ${formatBytes(memory.size)} of memory, and the first ${formatBytes(LEGACY_HOLE_END)} is not for kernels`,
      'give it more memory',
    );
  }
  return low;
}

/** Whether [gpa, gpa + size) is RAM as a whole. */
export function isRam(memory: BootMemory, gpa: number, size: number): boolean {
  return memory.ranges.some((range) => gpa >= range.gpa && gpa + size <= range.gpa + range.size);
}
