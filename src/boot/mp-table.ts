// The MP table: tells a guest without ACPI about its processors, its IOAPIC, and that interrupt line n is pin n. Main
// thread.
//
// Specification: Intel MultiProcessor Specification 1.4, chapter 4. Virtual wire mode: the PIC is on LINT0 of the boot
// processor. Lines are edge-triggered ("conforms to the bus", which is ISA), as irqfds are.

import { checksum } from './checksum.js';
import { BootError } from './errors.js';
import { LEGACY_HOLE_END, LEGACY_HOLE_START, MP_TABLE_GPA, MP_TABLE_OVERFLOW_GPA } from './layout.js';
import type { BootMemory } from './memory.js';

export const IOAPIC_GPA = 0xfec0_0000;
export const LOCAL_APIC_GPA = 0xfee0_0000;
/** Pins of KVM's in-kernel IOAPIC. */
export const IOAPIC_PIN_COUNT = 24;
/** APIC ids are one byte here, 0xff means all, and the IOAPIC needs one too. */
export const MP_TABLE_MAX_CPUS = 254;

/*
 * struct mpf_intel {                  MP floating pointer structure
 *   char     signature[4];   // 0: "_MP_"
 *   uint32_t physptr;        // 4: the configuration table
 *   uint8_t  length;         // 8: in units of 16 bytes
 *   uint8_t  specification;  // 9
 *   uint8_t  checksum;       // 10
 *   uint8_t  feature1..5;    // 11: all 0: a configuration table is present, virtual wire mode
 * };                         // 16
 */
export const MPF = { PHYSPTR: 4, LENGTH: 8, SPECIFICATION: 9, CHECKSUM: 10, SIZE: 16 } as const;

/*
 * struct mpc_table {                  MP configuration table header
 *   char     signature[4];   // 0: "PCMP"
 *   uint16_t length;         // 4: with all entries
 *   uint8_t  spec;           // 6
 *   uint8_t  checksum;       // 7
 *   char     oem[8];         // 8
 *   char     productid[12];  // 16
 *   uint32_t oemptr;         // 28
 *   uint16_t oemsize;        // 32
 *   uint16_t oemcount;       // 34: number of entries
 *   uint32_t lapic;          // 36
 *   uint32_t reserved;       // 40
 * };                         // 44
 */
export const MPC = {
  LENGTH: 4,
  SPEC: 6,
  CHECKSUM: 7,
  OEM: 8,
  PRODUCT: 16,
  ENTRY_COUNT: 34,
  LAPIC: 36,
  SIZE: 44,
} as const;

const SPECIFICATION_1_4 = 4;
const APIC_VERSION = 0x14;
const MP_PROCESSOR = 0;
const MP_BUS = 1;
const MP_IOAPIC = 2;
const MP_INTSRC = 3;
const MP_LINTSRC = 4;
const CPU_ENABLED = 1;
const CPU_BOOTPROCESSOR = 2;
/** Family 6, and FPU plus on-chip APIC: historic, but some guests refuse a zero. */
const CPU_SIGNATURE = 0x600;
const CPU_FEATURES_FPU_APIC = 0x201;
const MPC_APIC_USABLE = 1;
const INTERRUPT_INT = 0;
const INTERRUPT_NMI = 1;
const INTERRUPT_EXTINT = 3;
const ALL_LOCAL_APICS = 0xff;
const ISA_BUS_ID = 0;

/** Writes the MP table for CPUs with local APIC ids 0 to `cpus` - 1. Throws BootError too-many-cpus. */
export function writeMpTable(memory: BootMemory, cpus: number): void {
  if (!(Number.isInteger(cpus) && cpus >= 1 && cpus <= MP_TABLE_MAX_CPUS)) {
    throw new BootError('too-many-cpus', `${cpus} CPUs`, `use 1 to ${MP_TABLE_MAX_CPUS}`);
  }
  const table = buildConfigurationTable(cpus);
  const besidePointer = MP_TABLE_GPA + MPF.SIZE;
  const tableGpa = besidePointer + table.length <= LEGACY_HOLE_START ? besidePointer : MP_TABLE_OVERFLOW_GPA;
  if (tableGpa + table.length > LEGACY_HOLE_END) throw new RangeError(`an MP table of ${table.length} bytes`);
  memory.write(MP_TABLE_GPA, buildFloatingPointer(tableGpa));
  memory.write(tableGpa, table);
}

function buildFloatingPointer(tableGpa: number): Uint8Array {
  const bytes = Buffer.alloc(MPF.SIZE);
  bytes.write('_MP_', 'latin1');
  bytes.writeUInt32LE(tableGpa, MPF.PHYSPTR);
  bytes[MPF.LENGTH] = MPF.SIZE / 16;
  bytes[MPF.SPECIFICATION] = SPECIFICATION_1_4;
  bytes[MPF.CHECKSUM] = checksum(bytes);
  return bytes;
}

function buildConfigurationTable(cpus: number): Uint8Array {
  // Above all local APIC ids, which share one name space with it.
  const ioapicId = cpus;
  const entries = [
    ...Array.from({ length: cpus }, (_, id) => processorEntry(id)),
    isaBusEntry(),
    ioapicEntry(ioapicId),
    ...Array.from({ length: IOAPIC_PIN_COUNT }, (_, irq) =>
      interruptEntry(MP_INTSRC, INTERRUPT_INT, irq, ioapicId, irq),
    ),
    interruptEntry(MP_LINTSRC, INTERRUPT_EXTINT, 0, 0, 0),
    interruptEntry(MP_LINTSRC, INTERRUPT_NMI, 0, ALL_LOCAL_APICS, 1),
  ];
  const header = Buffer.alloc(MPC.SIZE);
  const table = Buffer.concat([header, ...entries]);
  table.write('PCMP', 'latin1');
  table.writeUInt16LE(table.length, MPC.LENGTH);
  table[MPC.SPEC] = SPECIFICATION_1_4;
  table.write('TSVMM'.padEnd(8), MPC.OEM, 'latin1');
  table.write('MICROVM'.padEnd(12), MPC.PRODUCT, 'latin1');
  table.writeUInt16LE(entries.length, MPC.ENTRY_COUNT);
  table.writeUInt32LE(LOCAL_APIC_GPA, MPC.LAPIC);
  table[MPC.CHECKSUM] = checksum(table);
  return table;
}

/*
 * struct mpc_cpu { uint8_t type, apicid, apicver, cpuflag; uint32_t cpufeature, featureflag, reserved[2]; };   // 20
 */
function processorEntry(id: number): Buffer {
  const entry = Buffer.alloc(20);
  entry.set([MP_PROCESSOR, id, APIC_VERSION, CPU_ENABLED | (id === 0 ? CPU_BOOTPROCESSOR : 0)]);
  entry.writeUInt32LE(CPU_SIGNATURE, 4);
  entry.writeUInt32LE(CPU_FEATURES_FPU_APIC, 8);
  return entry;
}

/*
 * struct mpc_bus { uint8_t type, busid; char bustype[6]; };   // 8
 */
function isaBusEntry(): Buffer {
  return Buffer.from([MP_BUS, ISA_BUS_ID, ...Buffer.from('ISA'.padEnd(6), 'latin1')]);
}

/*
 * struct mpc_ioapic { uint8_t type, apicid, apicver, flags; uint32_t apicaddr; };   // 8
 */
function ioapicEntry(id: number): Buffer {
  const entry = Buffer.alloc(8);
  entry.set([MP_IOAPIC, id, APIC_VERSION, MPC_APIC_USABLE]);
  entry.writeUInt32LE(IOAPIC_GPA, 4);
  return entry;
}

/*
 * struct mpc_intsrc {      or struct mpc_lintsrc
 *   uint8_t  type;         // 0
 *   uint8_t  irqtype;      // 1
 *   uint16_t irqflag;      // 2
 *   uint8_t  srcbus;       // 4
 *   uint8_t  srcbusirq;    // 5
 *   uint8_t  dstapic;      // 6
 *   uint8_t  dstirq;       // 7: IOAPIC pin or LINT number
 * };                       // 8
 * irqflag 0: polarity and trigger mode conform to the bus.
 */
function interruptEntry(type: number, irqType: number, irq: number, apic: number, pin: number): Buffer {
  return Buffer.from([type, irqType, 0, 0, ISA_BUS_ID, irq, apic, pin]);
}
