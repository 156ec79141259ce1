// What all ACPI tables have in common: the header, its checksum, the generic address structure. Main thread, before the
// VM starts.
//
// Specification: ACPI 6.5, 5.2.6 (System Description Table Header) and 5.2.3.2 (Generic Address Structure).

import { checksum } from '../checksum.js';

/*
 * struct acpi_table_header {
 *   char     signature[4];          // 0
 *   uint32_t length;                // 4: with this header
 *   uint8_t  revision;              // 8
 *   uint8_t  checksum;              // 9
 *   char     oem_id[6];             // 10
 *   char     oem_table_id[8];       // 16
 *   uint32_t oem_revision;          // 24
 *   char     asl_compiler_id[4];    // 28
 *   uint32_t asl_compiler_revision; // 32
 * };                                // 36
 */
export const TABLE_HEADER = {
  LENGTH: 4,
  REVISION: 8,
  CHECKSUM: 9,
  OEM_ID: 10,
  OEM_TABLE_ID: 16,
  OEM_REVISION: 24,
  COMPILER_ID: 28,
  COMPILER_REVISION: 32,
  SIZE: 36,
} as const;

export const OEM_ID = 'TSVMM ';
const OEM_TABLE_ID = 'MICROVM ';
const COMPILER_ID = 'TSVM';
/** Of the tables' content; to be raised when a table changes its meaning. */
const OEM_REVISION = 1;

/** A table of that signature and revision: header, checksum, and `body` behind the header. */
export function buildTable(signature: string, revision: number, body: Uint8Array): Buffer {
  const table = Buffer.alloc(TABLE_HEADER.SIZE + body.length);
  table.write(signature, 'latin1');
  table.writeUInt32LE(table.length, TABLE_HEADER.LENGTH);
  table[TABLE_HEADER.REVISION] = revision;
  table.write(OEM_ID, TABLE_HEADER.OEM_ID, 'latin1');
  table.write(OEM_TABLE_ID, TABLE_HEADER.OEM_TABLE_ID, 'latin1');
  table.writeUInt32LE(OEM_REVISION, TABLE_HEADER.OEM_REVISION);
  table.write(COMPILER_ID, TABLE_HEADER.COMPILER_ID, 'latin1');
  table.writeUInt32LE(OEM_REVISION, TABLE_HEADER.COMPILER_REVISION);
  table.set(body, TABLE_HEADER.SIZE);
  table[TABLE_HEADER.CHECKSUM] = checksum(table);
  return table;
}

/*
 * struct acpi_generic_address {
 *   uint8_t  space_id;      // 0: 1 is system I/O
 *   uint8_t  bit_width;     // 1
 *   uint8_t  bit_offset;    // 2
 *   uint8_t  access_width;  // 3: 1 is a byte, 3 is 32 bits
 *   uint64_t address;       // 4
 * };                        // 12
 */
export const GENERIC_ADDRESS_SIZE = 12;
const SPACE_SYSTEM_IO = 1;

/** A register of `bytes` bytes in port I/O space. */
export function ioRegister(port: number, bytes: 1 | 4): Uint8Array {
  const address = Buffer.alloc(GENERIC_ADDRESS_SIZE);
  address.set([SPACE_SYSTEM_IO, bytes * 8, 0, bytes === 1 ? 1 : 3]);
  address.writeBigUInt64LE(BigInt(port), 4);
  return address;
}
