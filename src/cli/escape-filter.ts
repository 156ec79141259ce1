// Keys that are for the monitor rather than for the guest: Ctrl-A begins an escape sequence, as in QEMU. A pure state
// machine over bytes; who reads them and what the commands do is terminal.ts's business.

const CTRL_A = 0x01;
const CTRL_C = 0x03;

/** What the user typed, in order: bytes for the guest, or a command for the monitor. */
export type KeyEvent =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  /** Ctrl-A x: end the VM. */
  | { readonly kind: 'quit' }
  /** Ctrl-A h, or Ctrl-A ?: say which keys there are. */
  | { readonly kind: 'help' }
  /** Ctrl-C, where it is not for the guest. */
  | { readonly kind: 'interrupt' };

export interface EscapeFilterOptions {
  /** Ctrl-C is for the monitor: right for a guest that does nothing with it. */
  readonly interruptOnCtrlC: boolean;
}

/** Splits typed bytes into events. An escape sequence may come in pieces. */
export class EscapeFilter {
  private readonly interruptOnCtrlC: boolean;
  private afterCtrlA = false;

  constructor({ interruptOnCtrlC }: EscapeFilterOptions) {
    this.interruptOnCtrlC = interruptOnCtrlC;
  }

  /** The events that `input` makes. Runs of bytes for the guest are views of `input`. */
  push(input: Uint8Array): KeyEvent[] {
    const events: KeyEvent[] = [];
    let start = 0;
    const flush = (end: number): void => {
      if (end > start) events.push({ kind: 'bytes', bytes: input.subarray(start, end) });
    };
    for (let index = 0; index < input.length; index++) {
      const byte = input[index];
      if (byte === CTRL_C && this.interruptOnCtrlC) {
        flush(index);
        start = index + 1;
        this.afterCtrlA = false;
        events.push({ kind: 'interrupt' });
      } else if (this.afterCtrlA) {
        this.afterCtrlA = false;
        const command = commandOf(byte);
        // Ctrl-A a types a Ctrl-A: the second byte is taken for it. Of any other unknown pair, nothing is typed.
        if (command === 'literal') events.push({ kind: 'bytes', bytes: Uint8Array.of(CTRL_A) });
        else if (command !== undefined) events.push({ kind: command });
        start = index + 1;
      } else if (byte === CTRL_A) {
        flush(index);
        start = index + 1;
        this.afterCtrlA = true;
      }
    }
    flush(input.length);
    return events;
  }
}

function commandOf(byte: number): 'quit' | 'help' | 'literal' | undefined {
  switch (String.fromCharCode(byte).toLowerCase()) {
    case 'x':
      return 'quit';
    case 'h':
    case '?':
      return 'help';
    case 'a':
    // Ctrl-A twice, as in screen.
    case '\x01':
      return 'literal';
    default:
      return undefined;
  }
}
