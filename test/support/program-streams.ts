// What stands for this process in tests of commands that run a program: streams, signals, lines for the user.

import { PassThrough } from 'node:stream';
import type { EndingSignal } from '../../src/cli/exit-codes.js';
import type { ProgramStreams } from '../../src/cli/guest-session.js';
import type { Host } from '../../src/cli/host.js';

export class ProgramProcess {
  readonly stdin = new PassThrough();
  readonly stdout = new PassThrough();
  readonly stderr = new PassThrough();
  readonly streams: ProgramStreams = this;
  /** What was said to the user. */
  readonly said: string[] = [];
  readonly signals = new Map<EndingSignal, () => void>();
  readonly deaths: (EndingSignal | undefined)[] = [];
  readonly host: Host = {
    stdin: { isTTY: false } as unknown as Host['stdin'],
    say: (line) => this.said.push(line),
    onSignal: (signal, listener) => this.signals.set(signal, listener),
    offSignal: (signal) => this.signals.delete(signal),
    die: (signal) => this.deaths.push(signal),
  };

  send(signal: EndingSignal): void {
    this.signals.get(signal)?.();
  }
}
