// Runs one VM from the command line: wires the terminal and the signals to it, waits for its end, says how it ended.

import type { VmConfig } from '../config/vm-config.js';
import { type EndingSignal, EXIT_CRASH, EXIT_OK, EXIT_PANIC, SIGNAL_EXITS } from './exit-codes.js';
import { builtInGuestHints } from './hints.js';
import type { LogFunction } from './logging.js';
import { type InputStream, keysHelp, Terminal } from './terminal.js';

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
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** The consoles of a machine, as the configuration calls them. */
export type ConsoleSection = 'serial' | 'console' | 'debug_console';

export type CreateVm = (config: VmConfig, options: { log: LogFunction }) => Promise<RunnableVm>;

/** The process that the VM runs in; a test has its own. */
export interface Host {
  readonly stdin: InputStream;
  /** Writes a line, prefixed with the program's name, to stderr. */
  readonly say: (line: string) => void;
  readonly onSignal: (signal: EndingSignal, listener: () => void) => void;
  readonly offSignal: (signal: EndingSignal, listener: () => void) => void;
  /** Dies at once, by `signal` if given: for when stopping in order does not work, or is not waited for. */
  readonly die: (signal: EndingSignal | undefined) => void;
}

/** How long the VM may take to stop. It bounds its own steps well below this; beyond it, something is broken. */
export const STOP_LIMIT_MS = 15_000;

/** Creates the VM, runs it to its end and returns the exit status. Throws what creating throws, or the VM's failure. */
export async function runVm(config: VmConfig, createVm: CreateVm, log: LogFunction, host: Host): Promise<number> {
  const ending = new Ending(host);
  try {
    const vm = await createVm(config, { log });
    ending.setVm(vm);
    const onTerminal = config.serial.mode === 'Tty' || config.console.mode === 'Tty';
    const typesInto = onTerminal && host.stdin.isTTY === true;
    for (const line of pseudoTerminals(config, vm)) host.say(line);
    if (vm.builtInGuest) for (const hint of builtInGuestHints(config, typesInto)) host.say(hint);
    const terminal = onTerminal ? attachTerminal(vm, host, ending) : undefined;
    try {
      // A signal may have come while the VM was made; then it has been stopped already.
      if (!ending.requested) await vm.start();
      const end = await vm.exited;
      terminal?.detach();
      return report(end, ending, host);
    } finally {
      terminal?.detach();
    }
  } finally {
    ending.close();
  }
}

/** Where pseudo-terminals are, which the kernel has chosen: nobody can know otherwise. */
function pseudoTerminals(config: VmConfig, vm: RunnableVm): string[] {
  return (['serial', 'console', 'debug_console'] as const).flatMap((section) => {
    const path = vm.consoles[section]?.path;
    const isPty = config[section]?.mode === 'Pty' && path !== undefined;
    return isPty ? [`--${section.replace('_', '-')} is at ${path}`] : [];
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

function report(end: VmEnd, ending: Ending, host: Host): number {
  switch (end.reason) {
    case 'shutdown':
    case 'reset':
    case 'stopped': {
      // A signal keeps its own status: whoever sent it looks for that.
      const code = end.reason === 'stopped' ? ending.exitCode : EXIT_OK;
      if (end.panicked !== true) return code;
      host.say('the guest panicked');
      return code === EXIT_OK ? EXIT_PANIC : code;
    }
    case 'crash':
      host.say(`the guest crashed\n${end.report.trimEnd()}`);
      return EXIT_CRASH;
    case 'failure':
      throw end.error;
  }
}

/** The user's wish to end the VM: by signal or by key. The first stops it in order, the second does not wait. */
class Ending {
  private readonly host: Host;
  private readonly listeners: (readonly [EndingSignal, () => void])[];
  private vm: RunnableVm | undefined;
  private by: EndingSignal | undefined;
  private deadline: NodeJS.Timeout | undefined;
  requested = false;

  constructor(host: Host) {
    this.host = host;
    this.listeners = (Object.keys(SIGNAL_EXITS) as EndingSignal[]).map((signal) => [
      signal,
      () => {
        this.request(signal);
      },
    ]);
    for (const [signal, listener] of this.listeners) host.onSignal(signal, listener);
  }

  get exitCode(): number {
    return this.by === undefined ? EXIT_OK : SIGNAL_EXITS[this.by];
  }

  setVm(vm: RunnableVm): void {
    this.vm = vm;
    if (this.requested) this.stop(vm);
  }

  /** Asks for the end, by `signal`, or by the escape key when undefined. */
  request(signal: EndingSignal | undefined): void {
    if (this.requested) {
      // SIGHUP and SIGTERM often come in pairs, from the terminal and from the shell; only a person repeats Ctrl-C.
      if (signal === undefined || signal === 'SIGINT') this.host.die(signal);
      return;
    }
    this.requested = true;
    this.by = signal;
    this.deadline = setTimeout(() => {
      this.host.say(`the VM did not stop within ${STOP_LIMIT_MS / 1000} s, which is a bug; ending the process`);
      this.host.die(undefined);
    }, STOP_LIMIT_MS);
    if (this.vm !== undefined) this.stop(this.vm);
  }

  close(): void {
    clearTimeout(this.deadline);
    for (const [signal, listener] of this.listeners) this.host.offSignal(signal, listener);
  }

  private stop(vm: RunnableVm): void {
    // How it ended, and whether that failed, is what `exited` says.
    vm.stop().catch(() => undefined);
  }
}
