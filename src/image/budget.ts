// What an image may grow to while it is put together: a small archive can unpack to any size.

import { formatBytes, GIB } from '../platform/units.js';
import { ImageError } from './errors.js';

/** More than any root that is sent around as an archive. */
export const DEFAULT_MAX_BYTES = 32 * GIB;
/** Ten times what a desktop installation has; each takes some hundred bytes of memory. */
const MAX_ENTRIES = 4_000_000;

/** Counts down. One for each stream or tree that must end. */
export class Budget {
  readonly maxBytes: number;
  private bytes = 0;
  private entries = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** Throws ImageError too-large. `what` completes "...has more than". */
  takeBytes(count: number, file: string): void {
    this.bytes += count;
    if (this.bytes > this.maxBytes) {
      throw new ImageError(
        'too-large',
        file,
        `there is more than ${formatBytes(this.maxBytes)} in it`,
        'allow more (--max-size, maxBytes) if that is as it should be',
      );
    }
  }

  /** Throws ImageError too-large. */
  takeEntry(file: string): void {
    if (++this.entries > MAX_ENTRIES) {
      const mend = 'build the image of fewer files';
      throw new ImageError('too-large', file, `there are more than ${MAX_ENTRIES} entries in it`, mend);
    }
  }
}
