// MADT: the processors' local APICs, the IOAPIC, and what is wired to the APICs' own inputs. Main thread, before the VM
// starts.
//
// Specification: ACPI 6.5, 5.2.12. Left out: interrupt source overrides, because interrupt line n is pin n with the
// polarity and trigger mode of ISA, which is what a guest assumes without them (KVM's default routing; mp-table.ts
// says the same), and what a device does not share with ISA its _CRS tells.

import { IOAPIC_GPA, LOCAL_APIC_GPA } from '../mp-table.js';
import { buildTable } from './table.js';

const MADT_REVISION = 6;
/** The machine also has two 8259 PICs. */
const PCAT_COMPAT = 1;

const TYPE_LOCAL_APIC = 0;
const TYPE_IO_APIC = 1;
const TYPE_LOCAL_APIC_NMI = 4;
const TYPE_LOCAL_X2APIC = 9;
const TYPE_LOCAL_X2APIC_NMI = 10;

const PROCESSOR_ENABLED = 1;
/** A local APIC entry has one byte for the id, and 0xff means all. */
const LOCAL_APIC_MAX_ID = 0xfe;
const ALL_LOCAL_APICS = 0xff;
const ALL_LOCAL_X2APICS = 0xffff_ffff;
const IOAPIC_ID = 0;
const NMI_LINT = 1;

/** The MADT for CPUs whose local APIC ids and ACPI processor UIDs are 0 to `cpus` - 1. */
export function buildMadt(cpus: number): Uint8Array {
  const ids = Array.from({ length: cpus }, (_, id) => id);
  const hasX2apic = cpus - 1 > LOCAL_APIC_MAX_ID;
  const entries = [
    header(),
    ...ids.map((id) => (id <= LOCAL_APIC_MAX_ID ? localApic(id) : localX2apic(id))),
    ioApic(),
    localApicNmi(),
    ...(hasX2apic ? [localX2apicNmi()] : []),
  ];
  return buildTable('APIC', MADT_REVISION, Buffer.concat(entries));
}

/*
 * struct { uint32_t local_apic_address, flags; };   // 8, behind the table's header
 */
function header(): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(LOCAL_APIC_GPA);
  bytes.writeUInt32LE(PCAT_COMPAT, 4);
  return bytes;
}

/*
 * struct acpi_madt_local_apic { uint8_t type, length, processor_uid, id; uint32_t flags; };   // 8
 */
function localApic(id: number): Uint8Array {
  const entry = Buffer.alloc(8);
  entry.set([TYPE_LOCAL_APIC, entry.length, id, id]);
  entry.writeUInt32LE(PROCESSOR_ENABLED, 4);
  return entry;
}

/*
 * struct acpi_madt_local_x2apic { uint8_t type, length; uint16_t reserved; uint32_t id, flags, uid; };   // 16
 */
function localX2apic(id: number): Uint8Array {
  const entry = Buffer.alloc(16);
  entry.set([TYPE_LOCAL_X2APIC, entry.length]);
  entry.writeUInt32LE(id, 4);
  entry.writeUInt32LE(PROCESSOR_ENABLED, 8);
  entry.writeUInt32LE(id, 12);
  return entry;
}

/*
 * struct acpi_madt_io_apic { uint8_t type, length, id, reserved; uint32_t address, global_irq_base; };   // 12
 */
function ioApic(): Uint8Array {
  const entry = Buffer.alloc(12);
  entry.set([TYPE_IO_APIC, entry.length, IOAPIC_ID]);
  entry.writeUInt32LE(IOAPIC_GPA, 4);
  return entry;
}

/*
 * struct acpi_madt_local_apic_nmi { uint8_t type, length, processor_uid; uint16_t flags; uint8_t lint; };   // 6, packed
 * flags 0: polarity and trigger mode conform to the bus.
 */
function localApicNmi(): Uint8Array {
  return Uint8Array.of(TYPE_LOCAL_APIC_NMI, 6, ALL_LOCAL_APICS, 0, 0, NMI_LINT);
}

/*
 * struct acpi_madt_local_x2apic_nmi { uint8_t type, length; uint16_t flags; uint32_t uid; uint8_t lint, reserved[3]; };
 *                                                                                                          // 12
 */
function localX2apicNmi(): Uint8Array {
  const entry = Buffer.alloc(12);
  entry.set([TYPE_LOCAL_X2APIC_NMI, entry.length]);
  entry.writeUInt32LE(ALL_LOCAL_X2APICS, 4);
  entry[8] = NMI_LINT;
  return entry;
}
