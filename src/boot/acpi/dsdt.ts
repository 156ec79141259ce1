// DSDT: the devices a guest cannot find by itself, where they are and which interrupts they have. Main thread, before
// the VM starts.
//
// Specification: ACPI 6.5, chapters 5 and 6; ids: 5.6.7 (PNP0C0C, ACPI0007, ACPI0013), LNRO0005 as Linux's
// drivers/virtio/virtio_mmio.c knows it, QEMU0001 as docs/specs/pvpanic of QEMU says; VM_Gen_Counter as in Microsoft's
// "Virtual Machine Generation ID".

import { VIRTIO_MMIO_REGION_SIZE } from '../command-line.js';
import { GENERATION_ID_GPA } from '../layout.js';
import {
  and,
  byteField,
  concat,
  device,
  eisaId,
  ifTrue,
  integer,
  ioRegion,
  local,
  name,
  nameString,
  notify,
  packageOf,
  scope,
  serializedMethod,
  store,
  string,
  type Aml,
} from './aml.js';
import type { AcpiOptions, EventDevicePlacement } from './options.js';
import { currentResources, edgeInterrupt, ioPorts, memory32Fixed } from './resources.js';
import { buildTable } from './table.js';

/** From revision 2 on, integers have 64 bits. */
const DSDT_REVISION = 2;
/** Notification of a power button: it was pressed (5.6.6, table 5.166). */
const BUTTON_PRESSED = 0x80;
/** Notification of the generation counter: the id is another. */
const GENERATION_CHANGED = 0x80;

/** The DSDT of a machine with `cpus` processors, whose UIDs are those of the MADT. */
export function buildDsdt(options: AcpiOptions, cpus: number): Uint8Array {
  const terms = [softOff(options), scope('\\_SB', ...processors(cpus), ...platformDevices(options))];
  return buildTable('DSDT', DSDT_REVISION, concat(...terms));
}

/** \_S5: the only sleep state. Four elements, of which hardware-reduced ACPI uses the first. */
function softOff({ sleepControl }: AcpiOptions): Aml {
  const zero = integer(0);
  return name('\\_S5', packageOf(integer(sleepControl.sleepTypeS5), zero, zero, zero));
}

function processors(cpus: number): Aml[] {
  return Array.from({ length: cpus }, (_, uid) =>
    device(numberedName('C', uid), name('_HID', string('ACPI0007')), name('_UID', integer(uid))),
  );
}

function platformDevices(options: AcpiOptions): Aml[] {
  const { i8042, serial, pvpanic } = options;
  const devices = options.virtio.map((place, index) =>
    device(
      numberedName('V', index),
      name('_HID', string('LNRO0005')),
      name('_UID', integer(index)),
      currentResources(memory32Fixed(place.gpa, VIRTIO_MMIO_REGION_SIZE), edgeInterrupt(place.irq)),
    ),
  );
  if (serial !== undefined) {
    devices.push(
      device(
        'COM1',
        name('_HID', eisaId('PNP0501')),
        name('_UID', integer(1)),
        currentResources(ioPorts(serial), edgeInterrupt(serial.gsi)),
      ),
    );
  }
  devices.push(
    device(
      'PS2K',
      name('_HID', eisaId('PNP0303')),
      currentResources(
        ioPorts({ port: i8042.dataPort, count: 1 }),
        ioPorts({ port: i8042.commandPort, count: 1 }),
        edgeInterrupt(i8042.gsi),
      ),
    ),
  );
  if (pvpanic !== undefined) {
    devices.push(device('PEVT', name('_HID', string('QEMU0001')), currentResources(ioPorts(pvpanic))));
  }
  devices.push(device('PWRB', name('_HID', eisaId('PNP0C0C'))), generationCounter(), eventDevice(options.events));
  return devices;
}

/** The VM generation id, which changes when a saved machine goes on: what a guest must not have in common is made anew. */
function generationCounter(): Aml {
  return device(
    'VGEN',
    name('_HID', string('TSVM0001')),
    name('_CID', string('VM_Gen_Counter')),
    name('_DDN', string('VM_Gen_Counter')),
    // Low and high half of the address.
    name('ADDR', packageOf(integer(GENERATION_ID_GPA), integer(0))),
  );
}

/** The Generic Event Device (5.6.9): its interrupt makes the guest run _EVT, which reads what happened. */
function eventDevice(events: EventDevicePlacement): Aml {
  const happened = local(0);
  return device(
    'GED',
    name('_HID', string('ACPI0013')),
    currentResources(edgeInterrupt(events.gsi)),
    ioRegion('EREG', events.port, 1),
    byteField('EREG', ['EVTS', 8]),
    serializedMethod(
      '_EVT',
      1,
      store(nameString('EVTS'), happened),
      ifTrue(and(happened, integer(events.powerButtonMask)), notify('\\_SB.PWRB', BUTTON_PRESSED)),
      ifTrue(and(happened, integer(events.generationMask)), notify('\\_SB.VGEN', GENERATION_CHANGED)),
    ),
  );
}

/** A name segment: `letter` and three hexadecimal digits. */
function numberedName(letter: string, index: number): string {
  return letter + index.toString(16).toUpperCase().padStart(3, '0');
}
