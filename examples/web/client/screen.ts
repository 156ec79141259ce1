// What a guest prints, as lines of plain text. Browser; no DOM in here.
//
// The guest is not trusted: its bytes never become markup, nor anything that acts. Of a terminal there is what a line editor
// needs: CR, LF, backspace, tab and "erase to the end of the line"; all other escape sequences are dropped. What else is not
// to be seen, or would reorder what is, is shown as a sign in its place.

/** Lines that are kept; older ones are dropped. */
export const MAX_LINES = 1000;
/** A longer line goes on in the next one. */
const MAX_COLUMNS = 1000;
const TAB = 8;

const ESCAPE = 0x1b;
const DELETE = 0x7f;
/** What an endless "escape sequence" may swallow before text counts again. */
const MAX_SEQUENCE = 256;

type Mode = 'text' | 'escape' | 'control' | 'string';

/** Changed lines, for whoever draws them. */
export interface ScreenChanges {
  /** So many of the oldest lines are gone. */
  readonly dropped: number;
  /** The number of the first changed line among those that are left; all after it may have changed. */
  readonly first: number;
}

/** The last lines of a console. */
export class Screen {
  readonly lines: string[] = [''];
  private decoder = new TextDecoder();
  private column = 0;
  private mode: Mode = 'text';
  private sequence = '';
  private dropped = 0;
  private firstChanged = 0;

  /** Takes the next bytes; a character may be cut by their end. */
  write(bytes: Uint8Array): void {
    for (const character of this.decoder.decode(bytes, { stream: true })) this.take(character);
  }

  /** Shows a line of our own, set apart from what the guest prints. */
  note(text: string): void {
    if (this.current !== '') this.newLine();
    this.setCurrent(`[${text}]`);
    this.newLine();
  }

  clear(): void {
    this.dropped += this.lines.length;
    this.lines.splice(0, Infinity, '');
    this.column = 0;
    this.mode = 'text';
    this.decoder = new TextDecoder();
    this.firstChanged = 0;
  }

  /** What changed since the last call. */
  takeChanges(): ScreenChanges {
    const changes = { dropped: this.dropped, first: this.firstChanged };
    this.dropped = 0;
    this.firstChanged = this.lines.length;
    return changes;
  }

  private get current(): string {
    return this.lines[this.lines.length - 1];
  }

  private setCurrent(text: string): void {
    this.lines[this.lines.length - 1] = text;
    this.firstChanged = Math.min(this.firstChanged, this.lines.length - 1);
  }

  private take(character: string): void {
    if (this.mode === 'text') this.takeText(character);
    else this.takeSequence(character);
  }

  private takeText(character: string): void {
    switch (character) {
      case '\n':
        this.newLine();
        return;
      case '\r':
        this.column = 0;
        return;
      case '\b':
        this.column = Math.max(0, this.column - 1);
        return;
      case '\t':
        do this.put(' ');
        while (this.column % TAB !== 0);
        return;
      case '\x07':
        return;
      case '\x1b':
        this.mode = 'escape';
        this.sequence = '';
        return;
      default:
        this.put(visible(character));
    }
  }

  /** ECMA-48: ESC and one character; CSI parameters and a final character; or a string up to BEL or ESC. */
  private takeSequence(character: string): void {
    const code = character.codePointAt(0) ?? 0;
    this.sequence += character;
    if (this.sequence.length > MAX_SEQUENCE) this.mode = 'text';
    else if (code === ESCAPE) this.beginSequence();
    else if (this.mode === 'escape') {
      if (character === '[') this.mode = 'control';
      else if (']PX^_'.includes(character)) this.mode = 'string';
      else this.mode = code >= 0x20 && code < 0x30 ? 'escape' : 'text';
    } else if (this.mode === 'string') {
      if (code === 0x07) this.mode = 'text';
    } else if (code < 0x20) {
      // Not within a sequence: a broken one must not hide a line's end.
      this.mode = 'text';
      this.takeText(character);
    } else if (code >= 0x40 && code < DELETE) {
      if (/^\[0?K$/.test(this.sequence)) this.setCurrent(this.current.slice(0, this.column));
      this.mode = 'text';
    }
  }

  private beginSequence(): void {
    this.mode = 'escape';
    this.sequence = '';
  }

  private put(character: string): void {
    if (this.column >= MAX_COLUMNS) this.newLine();
    const { current, column } = this;
    this.setCurrent(current.slice(0, column) + character + current.slice(column + 1));
    this.column++;
  }

  private newLine(): void {
    this.lines.push('');
    this.column = 0;
    if (this.lines.length > MAX_LINES) {
      this.lines.shift();
      this.dropped++;
      this.firstChanged = Math.max(0, this.firstChanged - 1);
    }
    this.firstChanged = Math.min(this.firstChanged, this.lines.length - 1);
  }
}

/** A sign for what cannot be seen: control characters, and those that change the direction of text or hide in it. */
function visible(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === DELETE) return '\u2421';
  // One column is one UTF-16 unit here, which is all that a guest's console needs.
  if (code > 0xffff || /[\p{C}\p{Zl}\p{Zp}\p{M}]/u.test(character)) return '\ufffd';
  return character;
}
