// A console of the guest as a Node Duplex. Main thread.
//
// Reading begins with the first byte that is kept. A reader that is slow does not hold the guest up: it takes what it
// reads from the history, and fails (FELL_BEHIND) when that has dropped what comes next.

import { Duplex } from 'node:stream';
import { KIB } from '../../platform/units.js';
import { ConsoleError } from './console-error.js';
import type { OutputHistory } from './output-history.js';

/** The largest piece that a reader gets. */
const READ_BYTES = 64 * KIB;

/** What a stream uses of its console. */
export interface StreamSource {
  readonly history: OutputHistory;
  /** Nothing more is printed. */
  readonly ended: boolean;
  write(bytes: Uint8Array): Promise<void>;
  /** Calls `listener` when something was printed or the output has ended; returns the function that ends it. */
  onChange(listener: () => void): () => void;
}

export class ConsoleStream extends Duplex {
  private readonly source: StreamSource;
  private readonly unsubscribe: () => void;
  private position: number;
  private wanted = false;
  private endPushed = false;

  constructor(source: StreamSource) {
    super({ readableHighWaterMark: READ_BYTES });
    this.source = source;
    this.position = source.history.start;
    this.unsubscribe = source.onChange(() => {
      this.fill();
    });
  }

  override _read(): void {
    this.wanted = true;
    this.fill();
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.source.write(chunk).then(() => {
      callback();
    }, callback);
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.unsubscribe();
    callback(error);
  }

  private fill(): void {
    const { history } = this.source;
    while (this.wanted && !this.destroyed) {
      if (this.position < history.start) {
        this.destroy(
          new ConsoleError('FELL_BEHIND', `the console is ${history.end - this.position} bytes ahead of its reader`),
        );
        return;
      }
      if (this.position === history.end) {
        if (this.source.ended) this.pushEnd();
        return;
      }
      const piece = Buffer.from(history.view(this.position, this.position + READ_BYTES));
      this.position += piece.length;
      // `push` may call `_read`, whose wish must not be lost.
      this.wanted = false;
      if (this.push(piece)) this.wanted = true;
    }
  }

  private pushEnd(): void {
    if (this.endPushed) return;
    this.endPushed = true;
    this.push(null);
    // There is nobody left to type at.
    this.end();
  }
}
