// How a user ends a VM, or everything: by a signal or by a key.

import { type EndingSignal, EXIT_OK, SIGNAL_EXITS } from './exit-codes.js';
import type { Host } from './host.js';

/** How long the VM may take to stop. It bounds its own steps well below this; beyond it, something is broken. */
export const STOP_LIMIT_MS = 15_000;

/** What is to be ended. */
export interface Stoppable {
  stop(): Promise<void>;
}

/** The user's wish to end the VM: by signal or by key. The first stops it in order, the second does not wait. */
export class Ending {
  private readonly host: Host;
  private readonly listeners: (readonly [EndingSignal, () => void])[];
  private vm: Stoppable | undefined;
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

  setVm(vm: Stoppable): void {
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

  private stop(vm: Stoppable): void {
    // How it ended, and whether that failed, is what `exited` says.
    vm.stop().catch(() => undefined);
  }
}
