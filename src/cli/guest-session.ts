// A program in a guest with the streams, the terminal and the signals of this process: what `tsvmm run` and `tsvmm exec`
// have in common. Main thread.

import type { Readable, Writable } from 'node:stream';
import { AgentError } from '../agent/errors.js';
import type { GuestAgent } from '../agent/guest-agent.js';
import type { GuestProcess, TerminalSize } from '../agent/program.js';
import type { Ending } from './ending.js';
import {
  type EndingSignal,
  EXIT_RUN_FAILED,
  EXIT_RUN_NOT_EXECUTABLE,
  EXIT_RUN_NOT_FOUND,
  EXIT_RUN_TIMED_OUT,
  signalExit,
} from './exit-codes.js';
import type { ProgramOptions } from './guest-options.js';

/** What a program that was sent a signal has to end, before it is ended with its guest. */
const SIGNAL_GRACE_MS = 10_000;

/** The streams of this process; a test has its own. */
export interface ProgramStreams {
  readonly stdin: Readable & { readonly isTTY?: boolean; setRawMode?: (raw: boolean) => unknown };
  readonly stdout: Writable & { readonly isTTY?: boolean; readonly rows?: number; readonly columns?: number };
  readonly stderr: Writable & { readonly isTTY?: boolean; readonly columns?: number };
}

export interface ProgramRequest extends ProgramOptions {
  readonly argv: readonly string[];
  /** Kills the program. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Runs the program to its end and returns the exit status that stands for that. Signals of this process go to it; of what
 * does not end it, `ending` does the rest. Throws AgentError when it does not start, is aborted, or its guest is gone.
 */
export async function attachProgram(
  agent: Pick<GuestAgent, 'exec'>,
  request: ProgramRequest,
  { stdin, stdout, stderr }: ProgramStreams,
  ending: Ending,
): Promise<number> {
  const { argv, cwd, user, timeout, signal } = request;
  const onTerminal = stdin.isTTY === true && stdout.isTTY === true;
  const size = (): TerminalSize => ({ rows: stdout.rows ?? 24, columns: stdout.columns ?? 80 });
  // Which kind of terminal it is, only this side knows.
  const terminalType = onTerminal ? process.env['TERM'] : undefined;
  const env = { ...(terminalType === undefined ? {} : { TERM: terminalType }), ...request.env };
  const program = await agent.exec(argv, {
    stdin: 'pipe',
    env,
    ...(onTerminal ? { tty: size() } : {}),
    ...(cwd === undefined ? {} : { cwd }),
    ...(user === undefined ? {} : { user }),
    ...(timeout === undefined ? {} : { timeout }),
    ...(signal === undefined ? {} : { signal }),
  });
  const onResize = (): void => {
    program.resize(size());
  };
  if (onTerminal) {
    stdin.setRawMode?.(true);
    stdout.on('resize', onResize);
  }
  const relay = new SignalRelay(program, ending);
  try {
    stdin.pipe(program.stdin);
    const written = [forward(program.stdout, stdout), forward(program.stderr, stderr)];
    const { exitCode, signal: endedBy } = await program.result;
    await Promise.all(written);
    return exitCode ?? signalExit(endedBy);
  } finally {
    relay.close();
    stdout.off('resize', onResize);
    stdin.unpipe(program.stdin);
    if (onTerminal) stdin.setRawMode?.(false);
    // Nothing is to be read any more: what waits for it would keep the process from ending.
    stdin.destroy();
  }
}

/** The exit status for a program that did not come to an end of its own. */
export function programExitCode(error: AgentError, { timeout }: ProgramOptions): number {
  if (error.code === 'TIMEOUT' && timeout !== undefined) return EXIT_RUN_TIMED_OUT;
  if (error.code === 'PROGRAM_NOT_FOUND') return EXIT_RUN_NOT_FOUND;
  return error.code === 'NOT_EXECUTABLE' ? EXIT_RUN_NOT_EXECUTABLE : EXIT_RUN_FAILED;
}

/**
 * Sends the signals of this process on to the program. What does not end by the first is ended with its guest: by the same
 * signal again, by SIGINT, or when the time is over.
 */
class SignalRelay {
  private readonly program: Pick<GuestProcess, 'kill'>;
  private readonly ending: Ending;
  private first: EndingSignal | undefined;
  private timer: NodeJS.Timeout | undefined;

  constructor(program: Pick<GuestProcess, 'kill'>, ending: Ending) {
    this.program = program;
    this.ending = ending;
    ending.divert((signal) => this.take(signal));
  }

  close(): void {
    clearTimeout(this.timer);
    this.ending.divert(undefined);
  }

  private take(signal: EndingSignal): boolean {
    const { first } = this;
    // SIGHUP and SIGTERM often come in pairs, from the terminal and from the shell.
    if (first !== undefined && (signal === 'SIGINT' || signal === first)) return false;
    if (first === undefined) {
      this.first = signal;
      this.timer = setTimeout(() => {
        this.close();
        this.ending.request(signal);
      }, SIGNAL_GRACE_MS);
    }
    this.program.kill(signal);
    return true;
  }
}

/** Carries output on; a reader that has gone (`tsvmm run ... | head`) is no reason to hold the program up. */
async function forward(from: Readable, to: Writable): Promise<void> {
  const onError = (): void => {
    from.unpipe(to);
    from.resume();
  };
  to.on('error', onError);
  await new Promise<void>((resolve) => {
    from.on('end', resolve);
    from.on('close', resolve);
    // Standard output stays open: it is not this program's alone.
    from.pipe(to, { end: false });
  });
  to.off('error', onError);
}
