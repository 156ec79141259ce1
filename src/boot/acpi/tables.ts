// Puts the ACPI tables together and into guest memory: this folder's front door. Main thread, before the VM starts.
//
// Specification: ACPI 6.5, 5.2.5 (RSDP) and 5.2.8 (XSDT). Left out: the RSDT, which only ACPI 1.0 reads, and the FACS,
// which a hardware-reduced machine need not have.

import { checksum } from '../checksum.js';
import { ACPI_AREA_END, ACPI_AREA_GPA, GENERATION_ID_GPA } from '../layout.js';
import type { BootMemory } from '../memory.js';
import { buildDsdt } from './dsdt.js';
import { buildFadt } from './fadt.js';
import { buildMadt } from './madt.js';
import type { AcpiOptions } from './options.js';
import { buildTable, OEM_ID } from './table.js';
import { buildWdat } from './wdat.js';

/** One table where it is to be. */
export interface PlacedTable {
  /** Its signature; `RSDP` for the pointer to all others. */
  readonly name: string;
  readonly gpa: number;
  readonly bytes: Uint8Array;
}

export interface AcpiTables {
  /** Where the guest begins to read: in the area that a guest without our pointer scans, on a multiple of 16. */
  readonly rsdpGpa: number;
  readonly tables: readonly PlacedTable[];
}

/*
 * struct acpi_table_rsdp {
 *   char     signature[8];             // 0: "RSD PTR "
 *   uint8_t  checksum;                 // 8: of the first 20 bytes
 *   char     oem_id[6];                // 9
 *   uint8_t  revision;                 // 15
 *   uint32_t rsdt_physical_address;    // 16
 *   uint32_t length;                   // 20
 *   uint64_t xsdt_physical_address;    // 24
 *   uint8_t  extended_checksum;        // 32
 *   uint8_t  reserved[3];              // 33
 * };                                   // 36
 */
export const RSDP = {
  CHECKSUM: 8,
  OEM_ID: 9,
  REVISION: 15,
  LENGTH: 20,
  XSDT: 24,
  EXTENDED_CHECKSUM: 32,
  SIZE: 36,
  /** What the first checksum covers: the whole structure in ACPI 1.0. */
  SIZE_IN_ACPI_1: 20,
} as const;

const RSDP_REVISION = 2;
const XSDT_REVISION = 1;
const ALIGNMENT = 16;

/** The tables of a machine with CPUs whose local APIC ids are 0 to `cpus` - 1. */
export function buildAcpiTables(options: AcpiOptions, cpus: number): AcpiTables {
  const tables: PlacedTable[] = [];
  // The pointer comes first in memory, but is written last: it needs the address of the others.
  const rsdpGpa = ACPI_AREA_GPA;
  let next = alignUp(rsdpGpa + RSDP.SIZE);
  const place = (name: string, bytes: Uint8Array): number => {
    const gpa = next;
    next = alignUp(gpa + bytes.length);
    if (next > ACPI_AREA_END) throw new RangeError(`ACPI tables of ${next - ACPI_AREA_GPA} bytes`);
    tables.push({ name, gpa, bytes });
    return gpa;
  };
  const dsdt = place('DSDT', buildDsdt(options, cpus));
  const pointers = [place('FACP', buildFadt(options, dsdt)), place('APIC', buildMadt(cpus))];
  if (options.watchdog !== undefined) pointers.push(place('WDAT', buildWdat(options.watchdog.port)));
  const xsdt = place('XSDT', buildXsdt(pointers));
  tables.push({ name: 'RSDP', gpa: rsdpGpa, bytes: buildRsdp(xsdt) });
  return { rsdpGpa, tables };
}

/** Writes the tables and the VM generation id, and returns the address of the RSDP. */
export function writeAcpiTables(memory: BootMemory, options: AcpiOptions, cpus: number): number {
  const { rsdpGpa, tables } = buildAcpiTables(options, cpus);
  for (const { gpa, bytes } of tables) memory.write(gpa, bytes);
  memory.write(GENERATION_ID_GPA, options.generationId);
  return rsdpGpa;
}

function buildXsdt(tables: readonly number[]): Uint8Array {
  const entries = Buffer.alloc(tables.length * 8);
  for (const [index, gpa] of tables.entries()) entries.writeBigUInt64LE(BigInt(gpa), index * 8);
  return buildTable('XSDT', XSDT_REVISION, entries);
}

function buildRsdp(xsdtGpa: number): Uint8Array {
  const bytes = Buffer.alloc(RSDP.SIZE);
  bytes.write('RSD PTR ', 'latin1');
  bytes.write(OEM_ID, RSDP.OEM_ID, 'latin1');
  bytes[RSDP.REVISION] = RSDP_REVISION;
  bytes.writeUInt32LE(RSDP.SIZE, RSDP.LENGTH);
  bytes.writeBigUInt64LE(BigInt(xsdtGpa), RSDP.XSDT);
  bytes[RSDP.CHECKSUM] = checksum(bytes.subarray(0, RSDP.SIZE_IN_ACPI_1));
  bytes[RSDP.EXTENDED_CHECKSUM] = checksum(bytes);
  return bytes;
}

function alignUp(gpa: number): number {
  return Math.ceil(gpa / ALIGNMENT) * ALIGNMENT;
}
