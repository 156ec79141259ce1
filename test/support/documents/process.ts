// A process of a session: in a process group of its own, with everything that it prints, and ended with all it has started.

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { errorCode } from '../../../src/config/error-code.js';

/** How long a process that was asked to end may take; it is killed then. */
const END_LIMIT_MS = 15_000;

export interface Place {
  readonly cwd: string;
  readonly env: NodeJS.ProcessEnv;
}

export class SessionProcess {
  output = '';
  /** The exit status, 128 and the number for a signal, as a shell tells it; once all output has come. */
  readonly status: Promise<number>;
  ended = false;
  private readonly child: ChildProcessWithoutNullStreams;
  private wakeUps: (() => void)[] = [];

  constructor(command: readonly string[], { cwd, env }: Place) {
    const [program = '', ...args] = command;
    const child = spawn(program, args, { cwd, env, stdio: 'pipe', detached: true });
    this.child = child;
    // It may end before it has read everything.
    child.stdin.on('error', () => undefined);
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
        this.wake();
      });
    }
    this.status = (async () => {
      const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
      this.ended = true;
      this.wake();
      return code ?? (signal === 'SIGINT' ? 130 : 137);
    })();
  }

  type(text: string): void {
    this.child.stdin.write(text);
  }

  endInput(text = ''): void {
    this.child.stdin.end(text);
  }

  /** Resolves when `condition` holds of what was printed from position `from` on; rejects when it can no longer. */
  async until(what: string, condition: (output: string) => boolean, limitMs: number, from = 0): Promise<void> {
    const deadline = performance.now() + limitMs;
    while (!condition(this.output.slice(from))) {
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`${what}: not within ${limitMs} ms; printed was:\n${this.output}`);
      if (this.ended)
        throw new Error(`${what}: not before it ended (${await this.status}); printed was:\n${this.output}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.wakeUps.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** The status, when it ends by itself within the limit; it is killed otherwise. */
  async finish(limitMs: number): Promise<number> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(resolve, limitMs, undefined);
    });
    const status = await Promise.race([this.status, late]);
    clearTimeout(timer);
    if (status !== undefined) return status;
    await this.kill();
    throw new Error(`did not end within ${limitMs} ms; printed was:\n${this.output}`);
  }

  /** What Ctrl-C does, typed into the terminal where it has one, or what is typed instead; returns the status. */
  async interrupt(onTerminal: boolean, typed = '\x03'): Promise<number> {
    if (onTerminal) this.type(typed);
    else this.signalGroup('SIGINT');
    return await this.finish(END_LIMIT_MS);
  }

  /** With all that it has started. */
  async kill(): Promise<void> {
    this.signalGroup('SIGKILL');
    // A terminal's group is one of its own; the hang-up ends it.
    this.child.stdin.destroy();
    if (!this.ended) await this.status;
  }

  private signalGroup(signal: NodeJS.Signals): void {
    try {
      if (this.child.pid !== undefined) process.kill(-this.child.pid, signal);
    } catch (error) {
      if (errorCode(error) !== 'ESRCH') throw error;
    }
  }

  private wake(): void {
    for (const wakeUp of this.wakeUps.splice(0)) wakeUp();
  }
}
