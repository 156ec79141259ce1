// The consoles of a test as files: written as the guest prints, so that they are there whatever happens next. Main thread.

import { closeSync, openSync, writeSync } from 'node:fs';
import { Finding } from './result.js';

export class ConsoleLog {
  readonly path: string;
  private readonly fd: number;
  private readonly onFailure: (finding: Finding) => void;
  private failed = false;

  /** Makes or empties the file. Throws Finding; `onFailure` hears of later trouble, once. */
  constructor(path: string, onFailure: (finding: Finding) => void) {
    this.path = path;
    this.onFailure = onFailure;
    try {
      this.fd = openSync(path, 'w');
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  write(bytes: Uint8Array): void {
    if (this.failed) return;
    try {
      for (let written = 0; written < bytes.length;) written += writeSync(this.fd, bytes, written);
    } catch (error) {
      this.failed = true;
      this.onFailure(unwritable(this.path, error));
    }
  }

  close(): void {
    closeSync(this.fd);
  }
}

function unwritable(path: string, cause: unknown): Finding {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new Finding('error', `the console log ${path} cannot be written (${reason})`, { cause });
}
