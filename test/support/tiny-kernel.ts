// Kernels of a few bytes of machine code, for what only a misbehaving guest does.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildElf } from '../boot/support.js';

/** Where the code is loaded and entered, in 64-bit mode at privilege level 0. */
export const CODE_ADDRESS = 0x10_0000;

/** Machine code for the tests, by what it does. */
export const CODE = {
  /** 1: hlt; jmp 1b, with interrupts off: for ever. */
  halt: [0xf4, 0xeb, 0xfd],
  /** jmp itself: for ever, without an exit. */
  spin: [0xeb, 0xfe],
  /** out %al, $0x80; jmp: exits for ever. */
  exits: [0xe6, 0x80, 0xeb, 0xfc],
  /** mov $0x34, %al; mov $0x600, %dx; out %al, %dx: power-off. */
  powerOff: [0xb0, 0x34, 0x66, 0xba, 0x00, 0x06, 0xee, 0xf4],
  /** mov $0x630, %dx; 1: in %dx, %al; test $1, %al; jz 1b; and powerOff: when the power button is pressed. */
  powerOffAtButton: [
    ...[0x66, 0xba, 0x30, 0x06, 0xec, 0xa8, 0x01, 0x74, 0xfb],
    ...[0xb0, 0x34, 0x66, 0xba, 0x00, 0x06, 0xee, 0xf4],
  ],
  /** mov $0xfe, %al; out %al, $0x64: reset by the keyboard controller. */
  reset: [0xb0, 0xfe, 0xe6, 0x64, 0xf4],
  /** ud2 without an IDT: a triple fault. */
  tripleFault: [0x0f, 0x0b],
  /** mov $0x30000000, %eax; jmp *%rax: to where there is neither RAM nor a device. */
  jumpToNowhere: [0xb8, 0x00, 0x00, 0x00, 0x30, 0xff, 0xe0],
} as const;

/** Writes an ELF kernel of the given machine code into `directory` and returns its path. */
export function writeKernel(directory: string, code: readonly number[]): string {
  const path = join(directory, 'vmlinux');
  writeFileSync(
    path,
    buildElf({ entry: CODE_ADDRESS, headers: [{ gpa: CODE_ADDRESS, bytes: Uint8Array.from(code), memorySize: 4096 }] }),
  );
  return path;
}
