// The port behind the ACPI Generic Event Device: one byte that says what happened since it was last read. A vCPU worker
// reads it, in whichever thread took the exit; the main thread sets its bits.
//
// Specification: ACPI 6.5, 5.6.9 (interrupt-signaled events). The register is ours alone: the DSDT tells the guest how
// to read it. Left out: the sleep button, plugging of processors and memory.

/** Behind the watchdog, whose registers end at 0x623. */
export const EVENT_PORT = 0x630;
/** Bit of the port: the power button was pressed. */
export const EVENT_POWER_BUTTON_MASK = 0x01;
/** The VM generation id is another now: the machine was restored. */
export const EVENT_GENERATION_MASK = 0x02;

const WORD_PENDING = 0;
const WORD_COUNT = 1;

/** What the threads of one VM share of the device: plain data. */
export interface EventDeviceShared {
  readonly words: SharedArrayBuffer;
}

/** Makes the state of a device with nothing pending, as each machine needs one. */
export function createEventDeviceShared(): EventDeviceShared {
  return { words: new SharedArrayBuffer(WORD_COUNT * Int32Array.BYTES_PER_ELEMENT) };
}

/** What is pending, for `restoreEventDevice`. */
export function saveEventDevice({ words }: EventDeviceShared): number {
  return Atomics.load(new Int32Array(words), WORD_PENDING);
}

export function restoreEventDevice({ words }: EventDeviceShared, pending: number): void {
  Atomics.store(new Int32Array(words), WORD_PENDING, pending);
}

/**
 * Tells the guest what happened, a bit of the port; `raiseInterrupt` signals the device's interrupt. Main thread. The
 * interrupt is raised even when the guest has not taken the last such event yet: an edge that came before its driver is
 * lost.
 */
export function raiseEvent(shared: EventDeviceShared, mask: number, raiseInterrupt: () => void): void {
  // Before the interrupt, so that the read which it leads to finds the bit.
  Atomics.or(new Int32Array(shared.words), WORD_PENDING, mask);
  raiseInterrupt();
}

/** The device at EVENT_PORT as one vCPU thread sees it. */
export class EventDevice {
  private readonly words: Int32Array;

  constructor(shared: EventDeviceShared) {
    this.words = new Int32Array(shared.words);
  }

  /** `in`: what is pending, which from then on is not. */
  read(): number {
    return Atomics.exchange(this.words, WORD_PENDING, 0);
  }

  /** `out`: there is nothing to write. */
  write(): void {
    // Reading is what acknowledges.
  }
}
