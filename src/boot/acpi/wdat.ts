// WDAT: how a guest's driver works the watchdog, as a list of register accesses for each action. Main thread, before the
// VM starts.
//
// Specification: Microsoft, "Hardware Watchdog Timers Design Specification", and Linux's drivers/watchdog/wdat_wdt.c for
// what a driver asks for. Left out: what to do when the time is up (SET_REBOOT, SET_SHUTDOWN): it always resets.

import { buildTable, ioRegister } from './table.js';

/** The watchdog's registers: 32 bits each, offsets from its first port. */
export const WATCHDOG_REGISTERS = {
  /** RW. Bit 0: the watchdog runs. */
  CONTROL: 0,
  /** W. Any value starts the countdown again. */
  KICK: 4,
  /** RW. Where the countdown starts, in periods. */
  COUNTDOWN: 8,
  /** R. Where it is. */
  CURRENT: 12,
  /** RW. Bit 0: the watchdog caused the last reset; writing 1 clears it. */
  STATUS: 16,
} as const;

/** Milliseconds of one count. */
export const WATCHDOG_PERIOD_MS = 100;
/** An hour and 49 minutes. */
const MAX_COUNT = 0xffff;
const MIN_COUNT = 1;

const WDAT_REVISION = 1;
const HEADER_LENGTH = 32;
const NOT_A_PCI_DEVICE = 0xff;
const FLAG_ENABLED = 0x01;

const ACTION = {
  RESET: 1,
  GET_CURRENT_COUNTDOWN: 4,
  GET_COUNTDOWN: 5,
  SET_COUNTDOWN: 6,
  GET_RUNNING_STATE: 8,
  SET_RUNNING_STATE: 9,
  GET_STOPPED_STATE: 10,
  SET_STOPPED_STATE: 11,
  GET_STATUS: 32,
  SET_STATUS: 33,
} as const;

const INSTRUCTION = {
  /** Whether the register, masked, is the value. */
  READ_VALUE: 0,
  READ_COUNTDOWN: 1,
  WRITE_VALUE: 2,
  WRITE_COUNTDOWN: 3,
} as const;

interface Step {
  readonly action: number;
  readonly instruction: number;
  /** Offset of the register. */
  readonly register: number;
  readonly value: number;
  readonly mask: number;
}

const BIT0 = 1;
const ALL_BITS = 0xffff_ffff;

const STEPS: readonly Step[] = [
  step('RESET', 'WRITE_VALUE', 'KICK', 1, BIT0),
  step('GET_CURRENT_COUNTDOWN', 'READ_COUNTDOWN', 'CURRENT', 0, ALL_BITS),
  step('GET_COUNTDOWN', 'READ_COUNTDOWN', 'COUNTDOWN', 0, ALL_BITS),
  step('SET_COUNTDOWN', 'WRITE_COUNTDOWN', 'COUNTDOWN', 0, ALL_BITS),
  step('GET_RUNNING_STATE', 'READ_VALUE', 'CONTROL', 1, BIT0),
  step('SET_RUNNING_STATE', 'WRITE_VALUE', 'CONTROL', 1, BIT0),
  step('GET_STOPPED_STATE', 'READ_VALUE', 'CONTROL', 0, BIT0),
  step('SET_STOPPED_STATE', 'WRITE_VALUE', 'CONTROL', 0, BIT0),
  step('GET_STATUS', 'READ_VALUE', 'STATUS', 1, BIT0),
  step('SET_STATUS', 'WRITE_VALUE', 'STATUS', 1, BIT0),
];

function step(
  action: keyof typeof ACTION,
  instruction: keyof typeof INSTRUCTION,
  register: keyof typeof WATCHDOG_REGISTERS,
  value: number,
  mask: number,
): Step {
  return {
    action: ACTION[action],
    instruction: INSTRUCTION[instruction],
    register: WATCHDOG_REGISTERS[register],
    value,
    mask,
  };
}

/** The WDAT for a watchdog whose registers begin at `port`. */
export function buildWdat(port: number): Uint8Array {
  return buildTable(
    'WDAT',
    WDAT_REVISION,
    Buffer.concat([header(), ...STEPS.map((entry) => instruction(entry, port))]),
  );
}

/*
 * Behind the table's header:
 *   uint32_t header_length;    // 0: to the first instruction
 *   uint16_t pci_segment;      // 4
 *   uint8_t  pci_bus;          // 6
 *   uint8_t  pci_device;       // 7
 *   uint8_t  pci_function;     // 8
 *   uint32_t timer_period;     // 12: milliseconds
 *   uint32_t max_count;        // 16
 *   uint32_t min_count;        // 20
 *   uint8_t  flags;            // 24
 *   uint32_t entries;          // 28
 *                              // 32
 */
function header(): Uint8Array {
  const bytes = Buffer.alloc(HEADER_LENGTH);
  bytes.writeUInt32LE(HEADER_LENGTH);
  bytes.writeUInt16LE(NOT_A_PCI_DEVICE, 4);
  bytes.fill(NOT_A_PCI_DEVICE, 6, 9);
  bytes.writeUInt32LE(WATCHDOG_PERIOD_MS, 12);
  bytes.writeUInt32LE(MAX_COUNT, 16);
  bytes.writeUInt32LE(MIN_COUNT, 20);
  bytes[24] = FLAG_ENABLED;
  bytes.writeUInt32LE(STEPS.length, 28);
  return bytes;
}

/*
 * struct acpi_wdat_entry {
 *   uint8_t  action, instruction;          // 0
 *   uint16_t reserved;                     // 2
 *   struct acpi_generic_address register_region;   // 4
 *   uint32_t value, mask;                  // 16
 * };                                       // 24
 */
function instruction(entry: Step, port: number): Uint8Array {
  const bytes = Buffer.alloc(24);
  bytes.set([entry.action, entry.instruction]);
  bytes.set(ioRegister(port + entry.register, 4), 4);
  bytes.writeUInt32LE(entry.value, 16);
  bytes.writeUInt32LE(entry.mask, 20);
  return bytes;
}
