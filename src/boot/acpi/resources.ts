// Resource descriptors: what a device's _CRS says it occupies. Main thread, before the VM starts.
//
// Specification: ACPI 6.5, 6.4 (Resource Data Types for ACPI). Left out: all but the three descriptors our devices use.

import { buffer, concat, name, type Aml } from './aml.js';

/** A port range without address decoding above it. */
export interface PortRange {
  readonly port: number;
  readonly count: number;
}

/*
 * I/O Port Descriptor (6.4.2.5), a small one:
 *   uint8_t  tag;              // 0: type 8, length 7
 *   uint8_t  information;      // 1: bit 0: 16-bit decode
 *   uint16_t minimum;          // 2
 *   uint16_t maximum;          // 4
 *   uint8_t  alignment;        // 6
 *   uint8_t  length;           // 7
 *                              // 8
 */
const IO_TAG = 0x47;
const IO_DECODE_16 = 1;
const IO_ALIGNMENT = 1;

/** IO (Decode16, port, port, 1, count) */
export function ioPorts({ port, count }: PortRange): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.set([IO_TAG, IO_DECODE_16]);
  bytes.writeUInt16LE(port, 2);
  bytes.writeUInt16LE(port, 4);
  bytes[6] = IO_ALIGNMENT;
  bytes.writeUInt8(count, 7);
  return bytes;
}

/*
 * 32-Bit Fixed Memory Range Descriptor (6.4.3.4):
 *   uint8_t  tag;              // 0: large, type 6
 *   uint16_t length;           // 1: of what follows
 *   uint8_t  information;      // 3: bit 0: writable
 *   uint32_t base;             // 4
 *   uint32_t range_length;     // 8
 *                              // 12
 */
const MEMORY32_FIXED_TAG = 0x86;
const MEMORY_WRITABLE = 1;

/** Memory32Fixed (ReadWrite, gpa, size) */
export function memory32Fixed(gpa: number, size: number): Uint8Array {
  const bytes = Buffer.alloc(12);
  bytes[0] = MEMORY32_FIXED_TAG;
  bytes.writeUInt16LE(9, 1);
  bytes[3] = MEMORY_WRITABLE;
  bytes.writeUInt32LE(gpa, 4);
  bytes.writeUInt32LE(size, 8);
  return bytes;
}

/*
 * Extended Interrupt Descriptor (6.4.3.6):
 *   uint8_t  tag;              // 0: large, type 9
 *   uint16_t length;           // 1: of what follows
 *   uint8_t  flags;            // 3: bit 0: consumer, bit 1: edge, bit 2: active low, bit 3: shared
 *   uint8_t  table_length;     // 4
 *   uint32_t interrupts[1];    // 5
 *                              // 9
 */
const INTERRUPT_TAG = 0x89;
const INTERRUPT_CONSUMER = 0x01;
const INTERRUPT_EDGE = 0x02;

/**
 * Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }: what an irqfd gives, a short pulse. Not the older
 * IRQ descriptor, which guests without a PIC look up in tables made for one.
 */
export function edgeInterrupt(gsi: number): Uint8Array {
  const bytes = Buffer.alloc(9);
  bytes[0] = INTERRUPT_TAG;
  bytes.writeUInt16LE(6, 1);
  bytes.set([INTERRUPT_CONSUMER | INTERRUPT_EDGE, 1], 3);
  bytes.writeUInt32LE(gsi, 5);
  return bytes;
}

/** End Tag (6.4.2.9); a checksum of 0 is taken as right. */
const END_TAG = Uint8Array.of(0x79, 0);

/** Name (_CRS, ResourceTemplate () { ... }) */
export function currentResources(...descriptors: readonly Uint8Array[]): Aml {
  return name('_CRS', buffer(concat(...descriptors, END_TAG)));
}
