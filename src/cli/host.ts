// The process that a VM runs in, as the command sees it.

import type { EndingSignal } from './exit-codes.js';
import type { InputStream } from './terminal.js';

/** The process that the VM runs in; a test has its own. */
export interface Host {
  readonly stdin: InputStream;
  /** Writes a line, prefixed with the program's name, to stderr. */
  readonly say: (line: string) => void;
  readonly onSignal: (signal: EndingSignal, listener: () => void) => void;
  readonly offSignal: (signal: EndingSignal, listener: () => void) => void;
  /** Dies at once, by `signal` if given: for when stopping in order does not work, or is not waited for. */
  readonly die: (signal: EndingSignal | undefined) => void;
}
