// Reading a console of the guest: what was printed so far, waiting for text, streams. Main thread.

import type { Duplex } from 'node:stream';
import { ConsoleError, type ConsoleErrorCode, showPattern, TAIL_BYTES } from './console-error.js';
import { ConsoleStream } from './console-stream.js';
import { OutputHistory } from './output-history.js';
import { type ConsoleMatch, OutputSearch } from './output-search.js';

/** What setTimeout takes. */
const MAX_TIMEOUT_MS = 0x7fff_ffff;

/** How long to wait for output, and where to look. */
export interface WaitOptions {
  /** Milliseconds until the wait fails with TIMED_OUT. Without it there is no such limit. */
  readonly timeout?: number | undefined;
  /** Aborts the wait with ABORTED. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Look only at what was printed from this byte on; 0, the first one ever printed, unless told. The `end` of a match is
   * where to look for the next.
   */
  readonly from?: number | undefined;
}

/** Hears of everything that is printed, and keeps the end of it. */
export class ConsoleReader {
  private readonly history = new OutputHistory();
  private readonly listeners = new Set<() => void>();
  private isEnded = false;
  private turnPlanned = false;

  get printed(): number {
    return this.history.end;
  }

  append(bytes: Uint8Array): void {
    this.history.append(bytes);
    if (this.listeners.size === 0 || this.turnPlanned) return;
    // Once a turn, however small the pieces are in which a guest prints.
    this.turnPlanned = true;
    setImmediate(() => {
      this.turnPlanned = false;
      this.tell();
    });
  }

  /** Nothing more will be printed. */
  end(): void {
    if (this.isEnded) return;
    this.isEnded = true;
    this.tell();
  }

  /** The last `bytes` that were printed, as text. */
  tail(bytes: number): string {
    const { history } = this;
    return history.view(Math.max(history.start, history.end - bytes)).toString();
  }

  waitFor(pattern: string | RegExp, { timeout, signal, from = 0 }: WaitOptions): Promise<ConsoleMatch> {
    return new Promise((resolve, reject) => {
      if (timeout !== undefined && !(timeout >= 0 && timeout <= MAX_TIMEOUT_MS)) {
        throw new RangeError(`timeout: ${timeout} is not a number of milliseconds from 0 to ${MAX_TIMEOUT_MS}`);
      }
      if (!(Number.isInteger(from) && from >= 0)) throw new RangeError(`from: ${from} is not the position of a byte`);
      const search = new OutputSearch(this.history, pattern, from);
      let timer: NodeJS.Timeout | undefined;
      const done = (): void => {
        this.listeners.delete(look);
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
      };
      const fail = (code: ConsoleErrorCode, problem: string, cause?: unknown): void => {
        done();
        reject(new ConsoleError(code, problem, { pattern, tail: this.tail(TAIL_BYTES), cause }));
      };
      const look = (): void => {
        const match = search.next();
        if (match !== undefined) {
          done();
          resolve(match);
        } else if (this.isEnded) {
          fail('ENDED', `the VM has ended without printing ${showPattern(pattern)}`);
        }
      };
      const abort = (): void => {
        fail('ABORTED', `nobody waits for ${showPattern(pattern)} any more`, signal?.reason);
      };
      if (signal?.aborted === true) {
        abort();
        return;
      }
      this.listeners.add(look);
      signal?.addEventListener('abort', abort);
      if (timeout !== undefined) {
        timer = setTimeout(() => {
          // It may have come in this very turn.
          look();
          if (this.listeners.has(look)) {
            fail('TIMED_OUT', `the guest has not printed ${showPattern(pattern)} within ${timeout} ms`);
          }
        }, timeout);
      }
      look();
    });
  }

  /** A stream over everything that is kept and that is still to come; what is written to it is typed by `write`. */
  stream(write: (bytes: Uint8Array) => Promise<void>): Duplex {
    const isEnded = (): boolean => this.isEnded;
    return new ConsoleStream({
      history: this.history,
      get ended() {
        return isEnded();
      },
      write,
      onChange: (listener) => {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
      },
    });
  }

  private tell(): void {
    for (const listener of [...this.listeners]) listener();
  }
}
