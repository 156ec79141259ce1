// Finding text in the output of a console, which grows. Main thread.
//
// A string is looked for as bytes (UTF-8), and only where it was not yet. A RegExp may match over any stretch: it is tried
// on everything that is kept once, and then on what is new together with the 64 KiB before it, so that waiting for one
// costs the same however much was printed. Output is decoded as UTF-8; what is none becomes U+FFFD.

import { isUtf8 } from 'node:buffer';
import { KIB } from '../../platform/units.js';
import type { OutputHistory } from './output-history.js';

/** How far back of what is new a match may begin. */
export const LOOK_BACK_BYTES = 64 * KIB;

/** Something that was found in the output. Positions count bytes since the first that was printed. */
export interface ConsoleMatch {
  /** What matched, decoded as UTF-8. */
  readonly text: string;
  /** What the RegExp's groups captured, in order. */
  readonly captures: readonly (string | undefined)[];
  /** The named ones among them. */
  readonly groups: Readonly<Record<string, string | undefined>>;
  /** Position of its first byte. */
  readonly start: number;
  /** Position behind its last byte: the `from` of the next wait. */
  readonly end: number;
}

/** One search, which goes on where it was each time it is asked. */
export class OutputSearch {
  private readonly history: OutputHistory;
  private readonly from: number;
  private readonly bytes: Buffer | undefined;
  private readonly regexp: RegExp | undefined;
  /** Everything before was looked at. */
  private seen: number;

  /** Looks for `pattern` from position `from` on. */
  constructor(history: OutputHistory, pattern: string | RegExp, from: number) {
    this.history = history;
    this.from = from;
    this.seen = from;
    if (typeof pattern === 'string') this.bytes = Buffer.from(pattern);
    // A copy of ours, so that nobody else's `lastIndex` is moved.
    else this.regexp = new RegExp(pattern.source, `${pattern.flags.replaceAll(/[gy]/g, '')}g`);
  }

  /** The first match in what was printed so far. */
  next(): ConsoleMatch | undefined {
    const { history, bytes, regexp } = this;
    const match = bytes === undefined ? this.findRegExp(regexp) : this.findBytes(bytes);
    this.seen = Math.max(this.seen, history.end);
    return match;
  }

  private findBytes(bytes: Buffer): ConsoleMatch | undefined {
    const begin = this.firstByte(Math.max(0, bytes.length - 1));
    const index = this.history.view(begin).indexOf(bytes);
    if (index < 0) return undefined;
    const start = begin + index;
    return { text: bytes.toString(), captures: [], groups: {}, start, end: start + bytes.length };
  }

  private findRegExp(regexp: RegExp | undefined): ConsoleMatch | undefined {
    if (regexp === undefined) return undefined;
    const begin = this.characterStart(this.firstByte(LOOK_BACK_BYTES));
    const view = this.history.view(begin);
    // A character that is not there as a whole yet is left for the next time.
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(view, { stream: true });
    // The first character of a text that is not the beginning is there for what looks behind itself: ^, \b.
    regexp.lastIndex = begin > this.from ? 1 : 0;
    const match = regexp.exec(text);
    if (match === null) return undefined;
    const [found, ...captures] = match;
    return {
      text: found,
      captures,
      groups: match.groups ?? {},
      start: begin + byteLength(view, text, match.index),
      end: begin + byteLength(view, text, match.index + found.length),
    };
  }

  /** Where to begin looking, when a match may begin `lookBack` bytes before what is new. */
  private firstByte(lookBack: number): number {
    return Math.max(this.from, this.history.start, this.seen - lookBack);
  }

  /** `position`, or the beginning of the next character when it is inside one. */
  private characterStart(position: number): number {
    if (position === this.from) return position;
    const inside = this.history.view(position, position + 3).findIndex((byte) => (byte & 0xc0) !== 0x80);
    return position + Math.max(0, inside);
  }
}

/** How many bytes of `view` the first `length` characters of `text`, which is `view` decoded, came from. */
function byteLength(view: Buffer, text: string, length: number): number {
  const encoded = Buffer.byteLength(text.slice(0, length));
  if (encoded <= view.length && isUtf8(view.subarray(0, encoded))) return encoded;
  // Bytes that are no UTF-8 stand as U+FFFD, which is longer than they are: looks for the longest beginning of `view` that
  // makes no more characters.
  let low = 0;
  let high = view.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    const decoded = new TextDecoder('utf-8', { ignoreBOM: true }).decode(view.subarray(0, middle));
    if (decoded.length <= length) low = middle;
    else high = middle - 1;
  }
  return low;
}
