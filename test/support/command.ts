// Programs as a user runs them, for end-to-end tests: `endCommands` leaves none behind.

import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { errorCode } from '../../src/config/error-code.js';

const OUTPUT_LIMIT_MS = 20_000;

const running = new Set<Command>();

/** Kills what is still running, with all that it has started, and waits for its end. */
export async function endCommands(): Promise<void> {
  for (const command of running) command.killGroup();
  await Promise.all([...running].map(({ status }) => status));
}

/** A program run as a shell runs it, in a process group of its own, and what it has printed so far. */
export class Command {
  readonly output = { stdout: '', stderr: '' };
  /** The exit status, or the name of the signal that ended it, once all its output has come. */
  readonly status: Promise<number | string | null>;
  private readonly child: ChildProcessWithoutNullStreams;
  private wakeUps: (() => void)[] = [];

  constructor(program: string, args: readonly string[], environment: NodeJS.ProcessEnv = {}) {
    const env = { ...process.env, ...environment };
    const child = spawn(program, args, { env, stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    this.child = child;
    // It may end before it has read everything.
    child.stdin.on('error', () => undefined);
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].on('data', (bytes: Buffer) => {
        this.output[name] += bytes.toString('latin1');
        this.wake();
      });
    }
    running.add(this);
    this.status = (async () => {
      const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
      running.delete(this);
      this.wake();
      return code ?? signal;
    })();
  }

  get pid(): number {
    return this.child.pid ?? Number.NaN;
  }

  /** Resolves when `pattern` is found in what was printed to `stream`; fails when that can no longer happen. */
  async waitFor(stream: 'stdout' | 'stderr', pattern: RegExp, limitMs = OUTPUT_LIMIT_MS): Promise<void> {
    const deadline = performance.now() + limitMs;
    while (!pattern.test(this.output[stream])) {
      const left = deadline - performance.now();
      if (left <= 0 || !running.has(this)) {
        throw new Error(`no ${String(pattern)} in ${stream} of ${JSON.stringify(this.output)}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.wakeUps.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  type(text: string): void {
    this.child.stdin.write(text);
  }

  endInput(): void {
    this.child.stdin.end();
  }

  /** What `| head` does: nobody reads what comes from here on. */
  closeStdout(): void {
    this.child.stdout.destroy();
  }

  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  killGroup(): void {
    if (this.hasGroup()) process.kill(-this.pid, 'SIGKILL');
  }

  /** Whether a process that this one started, or itself, is still there. */
  hasGroup(): boolean {
    try {
      process.kill(-this.pid, 0);
      return true;
    } catch (error) {
      if (errorCode(error) === 'ESRCH') return false;
      throw error;
    }
  }

  private wake(): void {
    for (const wakeUp of this.wakeUps.splice(0)) wakeUp();
  }
}
