// Opens the end on the host that a configuration asks for. Main thread.

import type { ConsoleConfig, DebugConsoleConfig } from '../../config/vm-config.js';
import type { ConsoleInput, HostEnd } from './host-end.js';
import { openOutputFile, openStandardOutput } from './output-end.js';
import { PtyEnd } from './pty-end.js';
import { SocketEnd } from './socket-end.js';

/**
 * The end of the console that `option` configures; undefined where output goes nowhere. Throws VmError SOCKET_IN_USE or
 * HOST_PATH.
 */
export function openHostEnd(
  option: string,
  config: ConsoleConfig | DebugConsoleConfig,
  input: ConsoleInput,
  warn: (message: string) => void,
): HostEnd | undefined {
  switch (config.mode) {
    case 'Off':
    case 'Null':
      return undefined;
    case 'Tty':
      return openStandardOutput();
    case 'Pty':
      return new PtyEnd(option, input);
    case 'File':
      return openOutputFile(option, required(option, 'file', config.file));
    case 'Socket':
      return new SocketEnd(option, required(option, 'socket', config.socket), input, warn);
  }
}

/** The rules have seen to that. */
function required(option: string, key: string, value: string | undefined): string {
  if (value === undefined) throw new Error(`${option}: no ${key}`);
  return value;
}
