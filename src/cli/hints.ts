// What the command tells the user at the start, on stderr: how to reach the guest and how to leave it.

import type { VmConfig } from '../config/vm-config.js';

const EXAMPLE_SOCKET = '/tmp/ch.vsock';
/** The built-in guest's echo service; see firmware/. */
const ECHO_PORT = 7;

/** Lines for a user who runs the built-in guest. */
export function builtInGuestHints(config: VmConfig, typesInto: boolean): string[] {
  const { vsock } = config;
  const socket = vsock?.socket;
  const leave = `leave with: ${typesInto ? 'Ctrl-C or Ctrl-A x' : 'Ctrl-C'}`;
  // Without a socket it is there for published ports.
  if (vsock !== undefined && socket === undefined) return [leave];
  const connect =
    socket === undefined
      ? `add vsock with: --vsock cid=3,socket=${EXAMPLE_SOCKET}`
      : `connect with: printf 'CONNECT ${ECHO_PORT}\\nhello\\n' | socat -t2 - ${shellQuote(`UNIX-CONNECT:${socket}`)}`;
  return [connect, leave];
}

/** `word` as one word of the shell. */
export function shellQuote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
