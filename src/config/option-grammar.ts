// The text form of an option's value, as Cloud Hypervisor has it: `key=value,key=value,word`. Commas inside "quotes"
// or [brackets] do not separate; a quote inside quotes is written twice. Knows nothing of which keys exist.

/** One comma-separated part: `key=value`, or a lone word, whose value is then undefined. */
export interface Part {
  readonly key: string;
  /** The value with its quotes still on, since a list must be split before its elements are unquoted. */
  readonly value: string | undefined;
}

/** Text that the grammar cannot read. `problem` and `mend` are halves of the message that the caller completes. */
export class GrammarError extends Error {
  override readonly name = 'GrammarError';
  readonly problem: string;
  readonly mend: string;

  constructor(problem: string, mend: string) {
    super(`${problem}. ${mend}`);
    this.problem = problem;
    this.mend = mend;
  }
}

/** `text` cut at the commas that stand outside quotes and brackets. Quotes and brackets stay in the pieces. */
export function splitAtCommas(text: string): string[] {
  const pieces: string[] = [];
  let start = 0;
  let depth = 0;
  let quoted = false;
  for (let index = 0; index < text.length; index++) {
    const character = text[index];
    if (character === '"') quoted = !quoted;
    else if (quoted) continue;
    else if (character === '[') depth++;
    else if (character === ']' && --depth < 0) throw new GrammarError('a "]" has no "[" before it', QUOTE_BRACKETS);
    else if (character === ',' && depth === 0) {
      pieces.push(text.slice(start, index));
      start = index + 1;
    }
  }
  if (quoted) throw new GrammarError('a double quote is not closed', 'Close it; a quote inside quotes is written "".');
  if (depth > 0) throw new GrammarError('a "[" is not closed', QUOTE_BRACKETS);
  pieces.push(text.slice(start));
  return pieces;
}

const QUOTE_BRACKETS = 'Balance the brackets, or put the value in double quotes if they belong to it.';

/** The parts of an option's value, in order. Empty text has none. */
export function parseParts(text: string): Part[] {
  if (text.trim() === '') return [];
  return splitAtCommas(text).map((piece) => {
    const equals = piece.indexOf('=');
    const key = (equals === -1 ? piece : piece.slice(0, equals)).trim();
    if (key === '') throw new GrammarError('there is an empty part', 'Take out the extra comma, or name the key.');
    return { key, value: equals === -1 ? undefined : piece.slice(equals + 1).trim() };
  });
}

/** `text` without its quotes; `""` inside quotes becomes one quote. The quotes must balance. */
export function unquote(text: string): string {
  let result = '';
  let quoted = false;
  for (let index = 0; index < text.length; index++) {
    const character = text.charAt(index);
    if (character !== '"') result += character;
    else if (quoted && text[index + 1] === '"') {
      result += '"';
      index++;
    } else quoted = !quoted;
  }
  return result;
}

/** `value` in quotes, whatever it holds. */
export function quoted(value: string): string {
  return `"${value.replaceAll('"', '""')}"`;
}

/** `value` as one value of the grammar: quoted when it holds anything that would be read otherwise. */
export function quote(value: string): string {
  const plain = value !== '' && value === value.trim() && !/[",[\]]/.test(value);
  return plain ? value : quoted(value);
}

/** The elements of `[a,b,"c,d"]`, unquoted. The brackets may be left out around a single element. */
export function parseList(text: string): string[] {
  const inner = text.startsWith('[') && text.endsWith(']') ? text.slice(1, -1) : text;
  if (inner.trim() === '') return [];
  return splitAtCommas(inner).map((element) => unquote(element.trim()));
}
