// The serial port, the virtio console and the debug console: where each goes.

import { keyedOption, optional, word } from '../keyed-option.js';
import type { OptionSpec } from '../option-spec.js';
import { path, port } from '../values.js';
import type { ConsoleConfig, ConsoleMode, DebugConsoleConfig } from '../vm-config.js';
import { PCI_KEYS_OF_ONLY_DEVICE } from './refused.js';

const MODES = ['off', 'null', 'tty', 'pty'] as const;
const MODE_NAMES = { off: 'Off', null: 'Null', tty: 'Tty', pty: 'Pty' } as const satisfies Record<string, ConsoleMode>;

/** The keys of a console whose device is called `device` in help. */
function consoleKeys(section: 'serial' | 'console', device: string) {
  return {
    tty: word(`${section}.mode`, 'This terminal, or whatever stdin and stdout are'),
    null: word(`${section}.mode`, `The ${device} is there; output is thrown away`),
    off: word(`${section}.mode`, `There is no ${device}`),
    pty: word(`${section}.mode`, 'A pseudo-terminal; its path is printed at the start'),
    file: optional(path, `${section}.file`, 'Output goes to a file'),
    socket: optional(path, `${section}.socket`, 'A Unix socket that takes one client at a time'),
  };
}

type WordValues = Readonly<Partial<Record<(typeof MODES)[number], true | undefined>>>;

function chosenMode(values: WordValues): (typeof MODE_NAMES)[(typeof MODES)[number]] {
  // The parser has made sure that one is.
  return MODE_NAMES[MODES.find((mode) => values[mode] === true) ?? 'off'];
}

function consoleConfig(
  values: WordValues & { readonly file: string | undefined; readonly socket: string | undefined },
): ConsoleConfig {
  if (values.file !== undefined) return { mode: 'File', file: values.file };
  if (values.socket !== undefined) return { mode: 'Socket', socket: values.socket };
  return { mode: chosenMode(values) };
}

export const CONSOLE_OPTIONS: readonly OptionSpec[] = [
  keyedOption({
    name: 'serial',
    help: 'Where the serial port goes; null where the terminal is taken by --console tty',
    defaultText: 'tty',
    keys: consoleKeys('serial', 'port'),
    oneOf: ['tty', 'null', 'off', 'pty', 'file', 'socket'],
    notSupported: { tcp: 'A console has no network address; use socket=PATH, or --serial tty under socat.' },
    into: (values) => ({ serial: consoleConfig(values) }),
  }),
  keyedOption({
    name: 'console',
    help: 'Where the virtio console goes (hvc0 in Linux)',
    defaultText: 'off',
    keys: consoleKeys('console', 'console'),
    oneOf: ['tty', 'null', 'off', 'pty', 'file', 'socket'],
    notSupported: PCI_KEYS_OF_ONLY_DEVICE,
    into: (values) => ({ console: consoleConfig(values) }),
  }),
  keyedOption({
    name: 'debug-console',
    help: 'Where the debug console goes: bytes that the guest writes to one port. Not there unless asked for',
    keys: {
      tty: word('debug_console.mode', 'Standard output'),
      null: word('debug_console.mode', 'The port is there; output is thrown away'),
      off: word('debug_console.mode', 'There is no port'),
      pty: word('debug_console.mode', 'A pseudo-terminal; its path is printed at the start'),
      file: optional(path, 'debug_console.file', 'Output goes to a file'),
      iobase: optional(port, 'debug_console.iobase', 'The port, in hexadecimal (0xe9)'),
    },
    oneOf: ['tty', 'null', 'off', 'pty', 'file'],
    into: ({ file, iobase, ...words }) => ({ debug_console: debugConsole(words, file, iobase) }),
  }),
];

function debugConsole(words: WordValues, file: string | undefined, iobase: number | undefined): DebugConsoleConfig {
  return {
    mode: file === undefined ? chosenMode(words) : 'File',
    ...(file !== undefined && { file }),
    ...(iobase !== undefined && { iobase }),
  };
}
