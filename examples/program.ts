// What every example does around its work: --help, an end by Ctrl-C that leaves nothing behind, errors in one line.

import { setMaxListeners } from 'node:events';
import { constants } from 'node:os';

/** Options that cannot be: shown with the usage, exit status 2. */
export class UsageError extends Error {}

/**
 * Runs an example as the process that it is; `run` is the whole of it, and returns the exit status. Its signal is aborted
 * by the first SIGINT or SIGTERM: the example then takes its VMs down, as after any failure, and the process ends with the
 * shell's code for that signal. A second one does not wait.
 */
export async function runProgram(usage: string, run: (signal: AbortSignal) => Promise<number>): Promise<void> {
  if (process.argv.includes('--help')) {
    process.stdout.write(usage);
    return;
  }
  const stop = new AbortController();
  // As many may wait for something at the same time as like.
  setMaxListeners(0, stop.signal);
  let endedBy: 'SIGINT' | 'SIGTERM' | undefined;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      endedBy = signal;
      stop.abort(new Error(`ended by ${signal}`));
    });
  }
  try {
    process.exitCode = await run(stop.signal);
  } catch (error) {
    process.exitCode = isUsageError(error) ? 2 : 1;
    // The failure that a signal brought about is no news.
    if (!stop.signal.aborted) console.error(isUsageError(error) ? `${error.message}\n\n${usage}` : describe(error));
  }
  if (endedBy !== undefined) process.exitCode = 128 + constants.signals[endedBy];
}

/** A whole number from an option. Throws UsageError. */
export function wholeNumber(name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new UsageError(`--${name}: "${text}" is not a whole number from ${least} to ${most}`);
}

function isUsageError(error: unknown): error is Error {
  // What node:util's parseArgs throws has a code that begins like this.
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return error instanceof UsageError || code.startsWith('ERR_PARSE_ARGS');
}

/** Errors of tsvmm say what was wrong and what to do. Of others, a stack is the best that there is. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.name === 'Error' || error.name === 'TypeError' ? (error.stack ?? error.message) : error.message;
}
