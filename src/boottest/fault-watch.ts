// Reads what a guest prints, line by line, for what a kernel says when it is in trouble. Main thread.
//
// Linux begins such a line itself, after its time stamp if it prints one, so a program that prints "WARNING: ..." behind
// something else is not meant. Lines that match an allowed pattern are passed over.

import { StringDecoder } from 'node:string_decoder';
import { matches } from './values.js';

export interface Fault {
  /** Whether it is the kernel's last word. */
  readonly isPanic: boolean;
  /** The line that told of it. */
  readonly line: string;
}

/** The beginning of a line, or a time stamp with perhaps a caller: `[    1.234567][    T1] `. */
const BEGIN = String.raw`(?:^|\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? )`;

const PANIC = 'Kernel panic - not syncing';
const TROUBLE = [
  String.raw`(?:watchdog: )?BUG: `,
  'WARNING: ',
  'Oops[: ]',
  'UBSAN: ',
  'general protection fault',
  'Internal error: ',
  'Unable to handle kernel ',
  String.raw`[a-z -]+: [0-9a-f]{4} \[#\d+\]`,
  String.raw`(?:rcu: )?(?:INFO: )?\w+ (?:self-)?detected stalls?`,
  'INFO: task .+ blocked for more than ',
].map((text) => new RegExp(BEGIN + text));

/** What a terminal is told between the letters: colours, cursor positions. */
const ESCAPES = /\u001b\[[0-9;?]*[A-Za-z]/g;
/** A line that does not end is looked at in pieces of this length. */
const MAX_LINE = 8192;

export class FaultWatch {
  private readonly allow: readonly (string | RegExp)[];
  private readonly onFault: (fault: Fault) => void;
  private readonly decoder = new StringDecoder('utf8');
  private line = '';

  /** `onFault` hears of every line that is not allowed. */
  constructor(allow: readonly (string | RegExp)[], onFault: (fault: Fault) => void) {
    this.allow = allow;
    this.onFault = onFault;
  }

  feed(bytes: Uint8Array): void {
    this.line += this.decoder.write(bytes);
    const lines = this.line.split(/\r*\n/);
    this.line = lines.pop() ?? '';
    for (const line of lines) this.look(line);
    if (this.line.length > MAX_LINE) this.end();
  }

  /** Looks at what has come of the last line. */
  end(): void {
    this.look(this.line);
    this.line = '';
  }

  private look(raw: string): void {
    const line = raw.replaceAll(ESCAPES, '');
    const isPanic = line.includes(PANIC);
    if (!isPanic && !TROUBLE.some((pattern) => pattern.test(line))) return;
    if (this.allow.some((pattern) => matches(pattern, line))) return;
    this.onFault({ isPanic, line: line.trim() });
  }
}
