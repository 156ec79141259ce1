// Who has which interrupt line (GSI; pin of the one IOAPIC, and ISA interrupt below 16). Lines 0 to 4 belong to the
// legacy devices: timer, keyboard, cascade, COM2 and COM1. A line is a pulse: edge-triggered, active high, not shared.

/** The i8042's. Nothing is attached to it, so it is never raised, but a driver wants one. */
export const KEYBOARD_GSI = 1;

/** The Generic Event Device: the power button. */
export const EVENT_GSI = 9;

const FIRST_VIRTIO_GSI = 5;
const IOAPIC_PINS = 24;

/** Lines of the virtio devices, in the order of their pages. */
export const VIRTIO_GSIS: readonly number[] = Array.from(
  { length: IOAPIC_PINS - FIRST_VIRTIO_GSI },
  (_, index) => FIRST_VIRTIO_GSI + index,
).filter((gsi) => gsi !== EVENT_GSI);
