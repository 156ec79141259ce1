// Rules for the serial port, the virtio console and the debug console: each names what its mode needs, and only that,
// and two that are typed into do not share the terminal.

import { hex } from '../../platform/units.js';
import type { ConsoleConfig, ConsoleMode, DebugConsoleConfig } from '../vm-config.js';
import { checkNewSocket, checkOutputFile } from './files.js';
import type { Complain } from './rule.js';

export function checkConsoles(serial: ConsoleConfig, console: ConsoleConfig, complain: Complain): void {
  checkConsole('serial', serial, complain);
  checkConsole('console', console, complain);
  if (serial.mode === 'Tty' && console.mode === 'Tty') {
    complain('serial.mode', serial.mode, {
      code: 'CONFLICT',
      problem: 'the serial port and the console cannot both have the terminal, where each key goes to one of them',
      mend: 'Put one of them on null, a file, a pty or a socket.',
    });
  }
}

function checkConsole(section: string, { mode, file, socket }: ConsoleConfig, complain: Complain): void {
  checkFile(section, mode, file, complain);
  const field = `${section}.socket`;
  if (mode !== 'Socket') {
    if (socket === undefined) return;
    complain(field, socket, {
      code: 'CONFLICT',
      problem: `mode ${mode} has no socket`,
      mend: 'Use mode Socket, or leave the socket out.',
    });
  }
  if (socket === undefined) {
    complain(field, socket, {
      code: 'MISSING_KEY',
      problem: 'mode Socket needs a socket',
      mend: 'Name the path to listen at.',
    });
  }
  checkNewSocket(complain, field, socket);
}

function checkFile(section: string, mode: ConsoleMode, file: string | undefined, complain: Complain): void {
  const field = `${section}.file`;
  if (mode !== 'File') {
    if (file === undefined) return;
    complain(field, file, {
      code: 'CONFLICT',
      problem: `mode ${mode} writes no file`,
      mend: 'Use mode File, or leave the file out.',
    });
  }
  if (file === undefined) {
    complain(field, file, {
      code: 'MISSING_KEY',
      problem: 'mode File needs a file',
      mend: 'Name the file that the output goes to.',
    });
  }
  checkOutputFile(complain, field, file);
}

/** The ports of the machine, which the debug console cannot have. */
export const PORTS_IN_USE: readonly { readonly first: number; readonly last: number; readonly of: string }[] = [
  { first: 0x20, last: 0x21, of: 'the interrupt controller' },
  { first: 0x40, last: 0x43, of: 'the timer' },
  { first: 0x60, last: 0x64, of: 'the keyboard controller' },
  { first: 0x70, last: 0x71, of: 'the clock' },
  { first: 0x80, last: 0x80, of: 'POST codes' },
  { first: 0xa0, last: 0xa1, of: 'the interrupt controller' },
  { first: 0x3f8, last: 0x3ff, of: 'the serial port' },
  { first: 0x4d0, last: 0x4d1, of: 'the interrupt controller' },
  { first: 0x505, last: 0x505, of: 'pvpanic' },
  { first: 0x600, last: 0x6ff, of: 'power management' },
  { first: 0xcf8, last: 0xcff, of: 'the PCI configuration space, where Linux looks for a bus' },
];

export function checkDebugConsole({ mode, file, iobase }: DebugConsoleConfig, complain: Complain): void {
  checkFile('debug_console', mode, file, complain);
  if (iobase === undefined) return;
  const field = 'debug_console.iobase';
  if (!Number.isInteger(iobase) || iobase < 0 || iobase > 0xffff) {
    complain(field, iobase, {
      code: 'OUT_OF_RANGE',
      problem: `${Number.isInteger(iobase) ? hex(iobase) : iobase} is not a port`,
      mend: 'Use 0x0 to 0xffff, for instance 0xe9.',
    });
  }
  const taken = PORTS_IN_USE.find(({ first, last }) => iobase >= first && iobase <= last);
  if (taken !== undefined) {
    complain(field, iobase, {
      code: 'RESERVED',
      problem: `${hex(iobase)} belongs to ${taken.of}`,
      mend: 'Use another port, for instance 0xe9.',
    });
  }
}
