// How a user ends a VM, or everything: by a signal or by a key.

import { type EndingSignal, EXIT_OK, SIGNAL_EXITS } from './exit-codes.js';
import type { Host } from './host.js';

/** How long the VM may take to stop. It bounds its own steps well below this; beyond it, something is broken. */
export const STOP_LIMIT_MS = 15_000;

/** What is to be ended. */
export interface Stoppable {
  /** With `graceMs` the guest may shut down before it is stopped; another call without it does not wait for that. */
  stop(options?: { readonly graceMs?: number }): Promise<void>;
}

/**
 * The user's wish to end the VM: by signal or by key. The first stops it in order, the second does not wait. Where signals
 * give the guest time to shut down, the second takes that back, and only the one after it does not wait.
 */
export class Ending {
  private readonly host: Host;
  private readonly graceMs: number;
  private readonly listeners: (readonly [EndingSignal, () => void])[];
  private vm: Stoppable | undefined;
  private by: EndingSignal | undefined;
  private deadline: NodeJS.Timeout | undefined;
  /** Whether the guest has time to shut down. */
  private graceful = false;
  private diversion: ((signal: EndingSignal) => boolean) | undefined;
  requested = false;

  /** `graceMs`: what signals give the guest. */
  constructor(host: Host, graceMs = 0) {
    this.host = host;
    this.graceMs = graceMs;
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

  /** Offers signals to `take` before they end anything: one for which it returns true does not. Undefined ends that. */
  divert(take: ((signal: EndingSignal) => boolean) | undefined): void {
    this.diversion = take;
  }

  /** Asks for the end, by `signal`, or by the escape key when undefined. */
  request(signal: EndingSignal | undefined): void {
    if (!this.requested) {
      if (signal !== undefined && this.diversion?.(signal) === true) return;
      this.requested = true;
      this.by = signal;
      this.graceful = this.graceMs > 0 && signal !== undefined;
      this.begin();
      return;
    }
    // SIGHUP and SIGTERM often come in pairs, from the terminal and from the shell; only a person repeats Ctrl-C.
    const meant = signal === undefined || signal === 'SIGINT';
    if (this.graceful && (meant || signal === this.by)) {
      this.graceful = false;
      this.begin();
    } else if (meant) this.host.die(signal);
  }

  close(): void {
    clearTimeout(this.deadline);
    for (const [signal, listener] of this.listeners) this.host.offSignal(signal, listener);
  }

  private begin(): void {
    clearTimeout(this.deadline);
    const limit = STOP_LIMIT_MS + (this.graceful ? this.graceMs : 0);
    this.deadline = setTimeout(() => {
      this.host.say(`the VM did not stop within ${limit / 1000} s, which is a bug; ending the process`);
      this.host.die(undefined);
    }, limit);
    if (this.vm !== undefined) this.stop(this.vm);
  }

  private stop(vm: Stoppable): void {
    // How it ended, and whether that failed, is what `exited` says.
    vm.stop(this.graceful ? { graceMs: this.graceMs } : {}).catch(() => undefined);
  }
}
