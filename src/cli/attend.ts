// What the command does for one VM: says where its consoles are, types at it what comes from the terminal, says how it ended.

import type { VmConfig } from '../config/vm-config.js';
import { formatHostPort } from '../platform/net-address.js';
import type { Ending } from './ending.js';
import { EXIT_CRASH, EXIT_OK, EXIT_PANIC } from './exit-codes.js';
import { builtInGuestHints } from './hints.js';
import type { Host } from './host.js';
import { keysHelp, Terminal } from './terminal.js';

/** How a VM ended; the shape of src/vmm's VmExit. */
export type VmEnd =
  | { readonly reason: 'shutdown' | 'reset' | 'stopped'; readonly panicked?: true }
  | { readonly reason: 'crash'; readonly report: string }
  | { readonly reason: 'failure'; readonly error: Error };

/** The part of src/vmm's Vm that is used: a test runs without one. */
export interface RunnableVm {
  readonly builtInGuest: boolean;
  readonly exited: Promise<VmEnd>;
  readonly console: { write(bytes: Uint8Array): Promise<void> | void };
  /** Each console, with the path of its pseudo-terminal or socket. */
  readonly consoles: Readonly<Record<ConsoleSection, { readonly path: string | undefined } | undefined>>;
  /** The ports that the configuration publishes, in its order. */
  readonly publishedPorts: readonly RunningPort[];
  start(): Promise<void>;
  stop(options?: { readonly graceMs?: number }): Promise<void>;
}

/** A port of the host, where it is listened at. */
export interface RunningPort {
  readonly host: string;
  readonly hostPort: number;
}

/** The consoles of a machine, as the configuration calls them. */
export type ConsoleSection = 'serial' | 'console' | 'debug_console';

/** Tells the user of `vm`, which is not started yet, and reads the terminal for it. Returns what ends that. */
export function attend(config: VmConfig, vm: RunnableVm, host: Host, ending: Ending): () => void {
  const onTerminal = config.serial.mode === 'Tty' || config.console.mode === 'Tty';
  const typesInto = onTerminal && host.stdin.isTTY === true;
  for (const line of pseudoTerminals(config, vm)) host.say(line);
  for (const line of chosenPorts(config, vm.publishedPorts)) host.say(line);
  if (vm.builtInGuest) for (const hint of builtInGuestHints(config, typesInto)) host.say(hint);
  const terminal = onTerminal ? attachTerminal(vm, host, ending) : undefined;
  return () => {
    terminal?.detach();
  };
}

/** Where pseudo-terminals are, which the kernel has chosen: nobody can know otherwise. */
function pseudoTerminals(config: VmConfig, vm: RunnableVm): string[] {
  return (['serial', 'console', 'debug_console'] as const).flatMap((section) => {
    const path = vm.consoles[section]?.path;
    const isPty = config[section]?.mode === 'Pty' && path !== undefined;
    return isPty ? [`--${section.replace('_', '-')} is at ${path}`] : [];
  });
}

/** Where published ports are whose number the kernel has chosen: nobody can know otherwise. */
export function chosenPorts({ publish = [] }: VmConfig, ports: readonly RunningPort[]): string[] {
  return ports.flatMap(({ host, hostPort }, index) => {
    const asked = publish.at(index);
    if (asked?.host_port !== 0) return [];
    const to = asked.guest_port === undefined ? `vsock:${asked.vsock_port ?? 0}` : String(asked.guest_port);
    return [`--publish: ${formatHostPort(host, hostPort)} leads to ${to} of the guest`];
  });
}

function attachTerminal(vm: RunnableVm, host: Host, ending: Ending): Terminal {
  const interruptOnCtrlC = vm.builtInGuest;
  return Terminal.attach(host.stdin, {
    interruptOnCtrlC,
    onEvent: (event) => {
      switch (event.kind) {
        case 'bytes':
          return vm.console.write(event.bytes);
        case 'help':
          host.say(keysHelp(interruptOnCtrlC));
          return undefined;
        case 'quit':
          ending.request(undefined);
          return undefined;
        case 'interrupt':
          ending.request('SIGINT');
          return undefined;
      }
    },
  });
}

/** Says how the VM ended, and returns the exit status for that. Throws the VM's failure. */
export function report(end: VmEnd, ending: Ending, host: Host): number {
  if (end.reason === 'failure') throw end.error;
  for (const line of describeEnd(end)) host.say(line);
  if (end.reason === 'crash') return EXIT_CRASH;
  // A signal keeps its own status: whoever sent it looks for that.
  const code = end.reason === 'stopped' ? ending.exitCode : EXIT_OK;
  return end.panicked === true && code === EXIT_OK ? EXIT_PANIC : code;
}

/** What the user is to know of an end; nothing of an ordinary one. */
export function describeEnd(end: VmEnd): string[] {
  switch (end.reason) {
    case 'shutdown':
    case 'reset':
    case 'stopped':
      return end.panicked === true ? ['the guest panicked'] : [];
    case 'crash':
      return [`the guest crashed\n${end.report.trimEnd()}`];
    case 'failure':
      return [end.error.message];
  }
}
