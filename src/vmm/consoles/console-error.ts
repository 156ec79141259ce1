// What can go wrong for whoever reads a console of the guest.

/** Why a wait or a stream of a console failed. */
export type ConsoleErrorCode =
  /** What was waited for did not come within the caller's `timeout`. */
  | 'TIMED_OUT'
  /** The VM has ended without printing what was waited for. */
  | 'ENDED'
  /** The caller's AbortSignal fired. */
  | 'ABORTED'
  /** A stream was read so slowly that what comes next for it is no longer kept. */
  | 'FELL_BEHIND'
  /** The VM has no console. */
  | 'NO_CONSOLE';

/** How much of the output an error carries, in bytes. */
export const TAIL_BYTES = 4096;

/** A wait that was in vain, or a stream that broke. `message` ends with the `tail`. */
export class ConsoleError extends Error {
  /** For those who cannot use `instanceof`. */
  override readonly name = 'ConsoleError';
  /** What went wrong, for programs. */
  readonly code: ConsoleErrorCode;
  /** What was waited for, if that was it. */
  readonly pattern: string | RegExp | undefined;
  /** What the guest printed last, at most 4 KiB of it. */
  readonly tail: string;

  /** @internal */
  constructor(
    code: ConsoleErrorCode,
    problem: string,
    details: { readonly pattern?: string | RegExp; readonly tail?: string; readonly cause?: unknown } = {},
  ) {
    const { pattern, tail = '', cause } = details;
    super(tail === '' ? problem : `${problem}; the output ends with:\n${tail}`, cause === undefined ? {} : { cause });
    this.code = code;
    this.pattern = pattern;
    this.tail = tail;
  }
}

/** A pattern as messages show it. */
export function showPattern(pattern: string | RegExp): string {
  return typeof pattern === 'string' ? JSON.stringify(pattern) : String(pattern);
}
