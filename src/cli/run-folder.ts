// A private folder for what one `tsvmm run` makes. Main thread.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export class RunFolder {
  private path: string | undefined;

  /** Where the file `name` goes; the folder is made with the first, for this user alone. */
  place(name: string): string {
    this.path ??= mkdtempSync(join(tmpdir(), 'tsvmm-run-'));
    return join(this.path, name);
  }

  /** Removes it with all that is in it. May be called again, and at any time. */
  remove(): void {
    if (this.path !== undefined) rmSync(this.path, { recursive: true, force: true });
    this.path = undefined;
  }
}
