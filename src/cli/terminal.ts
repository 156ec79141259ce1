// Standard input, for the guest's serial port: a terminal in raw mode, whose escape keys are for the monitor, or any
// other input, which goes to the guest as it is. The terminal's mode is put back on every path out of the process:
// by `detach`, and by an exit handler for paths that never reach it. (A signal that kills is Node's to handle.)

import { readFileSync } from 'node:fs';
import { EscapeFilter, type KeyEvent } from './escape-filter.js';

/** The part of `process.stdin` that is used. */
export interface InputStream {
  readonly isTTY?: boolean;
  setRawMode?(raw: boolean): unknown;
  on(event: 'data', listener: (bytes: Uint8Array) => void): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
  off(event: 'data', listener: (bytes: Uint8Array) => void): unknown;
  resume(): unknown;
  pause(): unknown;
  unref?(): unknown;
}

/** The part of `process` that is used. */
export interface ProcessEvents {
  on(event: 'exit' | 'SIGCONT', listener: () => void): unknown;
  off(event: 'exit' | 'SIGCONT', listener: () => void): unknown;
}

export interface TerminalOptions {
  /** Ctrl-C ends the VM instead of going to the guest. */
  readonly interruptOnCtrlC: boolean;
  /** The promise of typed bytes, if there is one, settles when they have been taken. */
  readonly onEvent: (event: KeyEvent) => Promise<void> | void;
  /** Whether this process may use its terminal now; a background job that does is stopped by the kernel. */
  readonly inForeground?: () => boolean;
  readonly process?: ProcessEvents;
}

export class Terminal {
  private readonly input: InputStream;
  private readonly options: TerminalOptions;
  private readonly events: ProcessEvents;
  private readonly filter: EscapeFilter;
  private reading = false;

  private constructor(input: InputStream, options: TerminalOptions) {
    this.input = input;
    this.options = options;
    this.events = options.process ?? process;
    this.filter = new EscapeFilter(options);
  }

  /** Starts to read `input`. The end of input is not the end of the VM: nothing more is typed, that is all. */
  static attach(input: InputStream, options: TerminalOptions): Terminal {
    const terminal = new Terminal(input, options);
    // A terminal that went away (EIO) brings SIGHUP as well, and other inputs that fail have merely ended.
    input.on('error', () => undefined);
    terminal.events.on('exit', terminal.restore);
    terminal.events.on('SIGCONT', terminal.engage);
    terminal.engage();
    return terminal;
  }

  /** Puts the terminal back and stops reading. May be called again. */
  detach(): void {
    this.events.off('exit', this.restore);
    this.events.off('SIGCONT', this.engage);
    this.restore();
    if (!this.reading) return;
    this.reading = false;
    this.input.off('data', this.receive);
    this.input.pause();
    // A pipe or terminal with a read under way would hold the process.
    this.input.unref?.();
  }

  /** Also when the process continues after a stop: the shell has set the terminal to its own liking meanwhile. */
  private readonly engage = (): void => {
    if (this.isTerminal()) {
      if (!this.mayUseTerminal()) return;
      this.input.setRawMode?.(true);
    }
    if (this.reading) return;
    this.reading = true;
    this.input.on('data', this.receive);
    this.input.resume();
  };

  private readonly restore = (): void => {
    // For a background job the mode is the shell's affair, and setting it would stop the job.
    if (this.reading && this.isTerminal() && this.mayUseTerminal()) this.input.setRawMode?.(false);
  };

  private readonly receive = (bytes: Uint8Array): void => {
    if (this.isTerminal()) for (const event of this.filter.push(bytes)) void this.options.onEvent(event);
    else void this.receiveFile(bytes);
  };

  /** Input without escape keys waits for the guest, so that an endless one does not pile up in memory. */
  private async receiveFile(bytes: Uint8Array): Promise<void> {
    this.input.pause();
    await this.options.onEvent({ kind: 'bytes', bytes });
    if (this.reading) this.input.resume();
  }

  private mayUseTerminal(): boolean {
    return (this.options.inForeground ?? isInForeground)();
  }

  private isTerminal(): boolean {
    return this.input.isTTY === true;
  }
}

/** Whether this process's group is the foreground group of its terminal: proc(5), fields pgrp and tpgid of stat. */
export function isInForeground(stat = readFileSync('/proc/self/stat', 'latin1')): boolean {
  // The second field is the program's name in parentheses, which may hold anything; fields are counted after it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [, , pgrp, , , tpgid] = fields;
  return pgrp === tpgid;
}

/** What Ctrl-A h prints. */
export function keysHelp(interruptOnCtrlC: boolean): string {
  const ctrlC = interruptOnCtrlC ? 'Ctrl-C or Ctrl-A x' : 'Ctrl-A x';
  return `${ctrlC} ends the VM, Ctrl-A a types a Ctrl-A, Ctrl-A h prints this`;
}
