// i8042 keyboard controller without a keyboard: what a guest needs to reset the machine, and to find out quickly that
// nothing is attached. Runs in whichever vCPU worker took the exit, on shared state under a lock.
//
// Specification: Intel UPI-41AH as IBM used it in the PC/AT; commands as Linux's drivers/input/serio/i8042.h names
// them. Left out: keyboard, mouse, interrupts 1 and 12. A command that asks for an answer has it in the output buffer
// at once.

import { acquire, release } from '../../platform/shared-lock.js';
import type { LegacyAction } from './action.js';

export const I8042_BASE_PORT = 0x60;
/** The two ports and the three between them. */
export const I8042_PORT_COUNT = 5;
/** Offsets from the base port. */
export const I8042_DATA = 0;
/** Read: status. Write: command. */
export const I8042_COMMAND = 4;

export const STATUS_OUTPUT_FULL = 0x01;
/** Always 0 here: input is taken within the exit. Linux waits for it before it asks for a reset. */
export const STATUS_INPUT_FULL = 0x02;
const STATUS_SYSTEM = 0x04; // self-test passed
const STATUS_NOT_LOCKED = 0x10;

const COMMAND_READ_CTR = 0x20;
const COMMAND_WRITE_CTR = 0x60;
const COMMAND_TEST_AUX = 0xa9;
const COMMAND_SELF_TEST = 0xaa;
const COMMAND_TEST_KEYBOARD = 0xab;
const COMMAND_READ_OUTPUT_PORT = 0xd0;
const COMMAND_WRITE_OUTPUT_PORT = 0xd1;
/** These take a byte for, or as if from, a device that is not there. */
const COMMAND_LOOP_KEYBOARD = 0xd2;
const COMMAND_LOOP_AUX = 0xd3;
const COMMAND_WRITE_AUX = 0xd4;
/** 0xf0 to 0xff pulse those lines of the output port low whose bit is 0. */
const COMMAND_PULSE = 0xf0;
const COMMANDS_WITH_DATA: readonly number[] = [
  COMMAND_WRITE_CTR,
  COMMAND_WRITE_OUTPUT_PORT,
  COMMAND_LOOP_KEYBOARD,
  COMMAND_LOOP_AUX,
  COMMAND_WRITE_AUX,
];
/** Line 0 of the output port is the processor's reset, active low. */
const OUTPUT_PORT_RESET_MASK = 0x01;

/** What a port that does not exist reads as. */
const FLOATING_BUS = 0xff;
const SELF_TEST_PASSED = 0x55;
const PORT_TEST_PASSED = 0x00;
/** "Clock line stuck low": how Linux recognises that there is no auxiliary port. */
const PORT_TEST_CLOCK_LOW = 0x01;
const OUTPUT_PORT_IDLE = 0xff;
/** Both interfaces disabled, no interrupts, system flag set. */
const CTR_AFTER_RESET = 0x34;

/** Word indices in the shared state. */
const WORD = {
  LOCK: 0,
  /** The command byte (CTR). */
  CTR: 1,
  /** The answer in the output buffer plus ANSWER_PRESENT, or 0. */
  ANSWER: 2,
  /** The command that waits for its data byte, or 0. */
  PENDING: 3,
  COUNT: 4,
} as const;
const ANSWER_PRESENT = 0x100;

/** What the threads of one VM share of the controller: plain data. */
export interface I8042Shared {
  readonly words: SharedArrayBuffer;
}

export function createI8042Shared(): I8042Shared {
  const words = new SharedArrayBuffer(WORD.COUNT * Int32Array.BYTES_PER_ELEMENT);
  new Int32Array(words)[WORD.CTR] = CTR_AFTER_RESET;
  return { words };
}

/** The controller's state, for `restoreI8042`. No vCPU thread may run. */
export function saveI8042({ words }: I8042Shared): number[] {
  return Array.from(new Int32Array(words, Int32Array.BYTES_PER_ELEMENT));
}

/** Puts saved state back. No vCPU thread may run. */
export function restoreI8042({ words }: I8042Shared, saved: readonly number[]): void {
  new Int32Array(words, Int32Array.BYTES_PER_ELEMENT).set(saved.slice(0, WORD.COUNT - 1));
}

/** The controller as one vCPU thread sees it. All of them may use it at once, if they share its state. */
export class I8042 {
  private readonly words: Int32Array;
  private readonly request: (action: LegacyAction) => void;

  /** `request` is called, without the lock, when the guest asks for a reset. */
  constructor(request: (action: LegacyAction) => void, shared: I8042Shared = createI8042Shared()) {
    this.words = new Int32Array(shared.words);
    this.request = request;
  }

  /** `in` from the port at `offset` from I8042_BASE_PORT. */
  read(offset: number): number {
    if (offset !== I8042_DATA && offset !== I8042_COMMAND) return FLOATING_BUS;
    acquire(this.words, WORD.LOCK);
    const answer = this.words[WORD.ANSWER];
    if (offset === I8042_DATA) this.words[WORD.ANSWER] = 0;
    release(this.words, WORD.LOCK);
    if (offset === I8042_DATA) return answer & 0xff;
    return STATUS_SYSTEM | STATUS_NOT_LOCKED | (answer === 0 ? 0 : STATUS_OUTPUT_FULL);
  }

  /** `out` to the port at `offset` from I8042_BASE_PORT. */
  write(offset: number, value: number): void {
    if (offset !== I8042_DATA && offset !== I8042_COMMAND) return;
    acquire(this.words, WORD.LOCK);
    const action = offset === I8042_DATA ? this.takeData(value & 0xff) : this.takeCommand(value & 0xff);
    release(this.words, WORD.LOCK);
    if (action !== undefined) this.request(action);
  }

  private takeCommand(command: number): LegacyAction | undefined {
    const { words } = this;
    words[WORD.PENDING] = 0;
    if (command >= COMMAND_PULSE) return (command & OUTPUT_PORT_RESET_MASK) === 0 ? 'reset' : undefined;
    switch (command) {
      case COMMAND_READ_CTR:
        this.answer(words[WORD.CTR]);
        return undefined;
      case COMMAND_SELF_TEST:
        this.answer(SELF_TEST_PASSED);
        return undefined;
      case COMMAND_TEST_KEYBOARD:
        this.answer(PORT_TEST_PASSED);
        return undefined;
      case COMMAND_TEST_AUX:
        this.answer(PORT_TEST_CLOCK_LOW);
        return undefined;
      case COMMAND_READ_OUTPUT_PORT:
        this.answer(OUTPUT_PORT_IDLE);
        return undefined;
      default:
        if (COMMANDS_WITH_DATA.includes(command)) words[WORD.PENDING] = command;
        return undefined; // enabling and disabling interfaces has no effect without devices
    }
  }

  private takeData(value: number): LegacyAction | undefined {
    const { words } = this;
    const command = words[WORD.PENDING];
    words[WORD.PENDING] = 0;
    if (command === COMMAND_WRITE_CTR) words[WORD.CTR] = value;
    if (command === COMMAND_WRITE_OUTPUT_PORT && (value & OUTPUT_PORT_RESET_MASK) === 0) return 'reset';
    // Linux tests for an auxiliary port by looping a byte back: any other answer than that byte says "none" without a
    // time-out.
    if (command === COMMAND_LOOP_AUX) this.answer(~value & 0xff);
    return undefined;
  }

  private answer(value: number): void {
    this.words[WORD.ANSWER] = value | ANSWER_PRESENT;
  }
}
