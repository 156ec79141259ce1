// pvpanic: one port by which a guest says that its kernel panicked. Runs in whichever vCPU worker took the exit; it has
// no state.
//
// Specification: QEMU, docs/specs/pvpanic.rst, the ISA variant. The guest finds the port through ACPI (QEMU0001). Left
// out: the PCI variant, and the shutdown event, for which there is sleep control.

export const PVPANIC_PORT = 0x505;

const PVPANIC_PANICKED = 0x01;
const PVPANIC_CRASH_LOADED = 0x02;
/** What reading the port gives: the events that the host understands. */
export const PVPANIC_EVENTS = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;

/**
 * `panicked`: the kernel panicked and will do what it was told to do then. `crash-loaded`: it panicked and goes on into
 * its crash kernel, which writes a dump.
 */
export type GuestPanicEvent = 'panicked' | 'crash-loaded';

/** The device at PVPANIC_PORT. */
export class PvPanic {
  private readonly report: (event: GuestPanicEvent) => void;

  /** `report` is called for each event. */
  constructor(report: (event: GuestPanicEvent) => void) {
    this.report = report;
  }

  /** `in`. */
  read(): number {
    return PVPANIC_EVENTS;
  }

  /** `out` of one byte; bits of events that were not offered are ignored. */
  write(_offset: number, value: number): void {
    if ((value & PVPANIC_PANICKED) !== 0) this.report('panicked');
    if ((value & PVPANIC_CRASH_LOADED) !== 0) this.report('crash-loaded');
  }
}
