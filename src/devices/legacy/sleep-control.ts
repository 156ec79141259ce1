// Power-off and reset by one byte-wide port, in the place and with the values of Cloud Hypervisor's ACPI shutdown
// device. Runs in whichever vCPU worker took the exit; it has no state.
//
// Specification: ACPI 6.5, 4.8.3.7 (sleep control and status registers) and 4.8.3.6 (reset register). Sleep states
// other than S5 are left out: the VM's tables do not offer any.

import type { LegacyAction } from './action.js';

export const SLEEP_CONTROL_PORT = 0x600;

const SLP_EN_MASK = 0x20;
const SLP_TYP_SHIFT = 2;
const SLP_TYP_MASK = 0x7;
/** SLP_TYP for S5, soft off. */
export const SLEEP_TYPE_S5 = 5;
/** What to write to power off. */
export const POWER_OFF_VALUE = SLP_EN_MASK | (SLEEP_TYPE_S5 << SLP_TYP_SHIFT);
/** What to write to reset. */
export const RESET_VALUE = 0x01;

/** The device at SLEEP_CONTROL_PORT. */
export class SleepControl {
  private readonly request: (action: LegacyAction) => void;

  /** `request` is called when the guest powers off or resets. */
  constructor(request: (action: LegacyAction) => void) {
    this.request = request;
  }

  /** `in`: WAK_STS is 0, the machine never slept. */
  read(): number {
    return 0;
  }

  /** `out` of one byte; there is one register, so the offset says nothing. */
  write(_offset: number, value: number): void {
    const entersS5 = (value & SLP_EN_MASK) !== 0 && ((value >>> SLP_TYP_SHIFT) & SLP_TYP_MASK) === SLEEP_TYPE_S5;
    if (value === RESET_VALUE) this.request('reset');
    else if (entersS5) this.request('shutdown');
  }
}
