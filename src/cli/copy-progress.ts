// How far a copy is: a line on a terminal that is drawn anew in its place. Main thread.

import type { CopyProgress } from '../agent/copy.js';
import { formatBytes } from '../platform/units.js';

/** The part of `process.stderr` that is used. */
export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const ERASE_LINE = '\r\u001b[K';
const DEFAULT_COLUMNS = 80;
/** Often enough for the eye. */
const REDRAW_MS = 100;
/** Copies that are over so soon need no line. */
const FIRST_DRAW_MS = 300;

export class CopyProgressLine {
  private readonly stream: ProgressStream;
  private readonly label: string;
  private readonly total: number | undefined;
  private readonly now: () => number;
  private readonly begin: number;
  private drawnAt: number | undefined;

  /** `total`: the bytes that there will be, where that is known before. `now` gives milliseconds. */
  constructor(stream: ProgressStream, label: string, total?: number, now: () => number = () => performance.now()) {
    this.stream = stream;
    this.label = printable(label);
    this.total = total;
    this.now = now;
    this.begin = now();
  }

  /** To be given to `copyIn` or `copyOut`. */
  readonly show = (progress: CopyProgress): void => {
    const now = this.now();
    if (this.stream.isTTY !== true || now - this.begin < FIRST_DRAW_MS) return;
    if (this.drawnAt !== undefined && now - this.drawnAt < REDRAW_MS) return;
    this.drawnAt = now;
    const text = `${this.label}: ${this.describe(progress, now)}`;
    this.stream.write(`${ERASE_LINE}${text.slice(0, (this.stream.columns ?? DEFAULT_COLUMNS) - 1)}`);
  };

  /** Takes the line away, if there is one. */
  clear(): void {
    if (this.drawnAt !== undefined) this.stream.write(ERASE_LINE);
    this.drawnAt = undefined;
  }

  private describe({ bytes, total = this.total }: CopyProgress, now: number): string {
    const seconds = (now - this.begin) / 1000;
    const rate = `${formatBytes(Math.round(bytes / seconds))}/s`;
    if (total === undefined) return `${formatBytes(bytes)}, ${rate}`;
    // A file may have grown since.
    const percent = total === 0 ? 100 : Math.min(100, Math.floor((100 * bytes) / total));
    return `${percent} %, ${formatBytes(bytes)} of ${formatBytes(total)}, ${rate}`;
  }
}

/** A name is not to move the cursor of this terminal. */
function printable(text: string): string {
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}
