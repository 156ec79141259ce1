// Compares what a block printed with what the document says. In the document `…` or `...` stands for what varies: within
// a line for any text without a line break, on a line of its own for any number of lines.

/** All of it; consecutive lines of it; all of it, but where the document has a number there may be another. */
export const OUTPUT_MODES = ['whole', 'part', 'numbers'] as const;
export type OutputMode = (typeof OUTPUT_MODES)[number];

export function isOutputMode(text: string): text is OutputMode {
  return (OUTPUT_MODES as readonly string[]).includes(text);
}

export interface ExpectedOutput {
  readonly text: string;
  readonly how: OutputMode;
  /** `json`: blanks between its words do not matter. */
  readonly language: string;
}

export function matchesOutput({ text, how, language }: ExpectedOutput, actual: string): boolean {
  return language === 'json' ? matches(dense(text), how, dense(actual)) : matches(text, how, actual);
}

/** JSON without blanks; what is none as it is. */
function dense(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return text;
  }
}

function matches(text: string, how: OutputMode, actual: string): boolean {
  const lines = plain(text).split('\n');
  const pattern = lines
    .map((line) => (/^\s*(…|\.\.\.)\s*$/.test(line) ? '(?:.*\\n)*' : `${anyText(line)}\\n`))
    .join('');
  const [start, end] = how === 'part' ? ['(^|\\n)', ''] : ['^', '$'];
  const whole = `${start}${how === 'numbers' ? pattern.replaceAll(/\d+/g, '\\d+') : pattern}${end}`;
  return new RegExp(whole).test(`${plain(actual)}\n`);
}

/** Whether `text`, which may have `…` in it, is somewhere in `actual`. */
export function containsText(actual: string, text: string): boolean {
  return new RegExp(anyText(plain(text))).test(plain(actual));
}

/** A regular expression for `text` in which `…` is anything. */
function anyText(text: string): string {
  const literal = (piece: string): string => piece.replaceAll(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
  return text
    .split(/…|\.\.\./)
    .map(literal)
    .join('.*');
}

/** Terminals end lines by CR LF; blanks at the end of a line, and empty lines at the end, are nobody's business. */
function plain(text: string): string {
  return text
    .replaceAll('\r', '')
    .replaceAll(/[ \t]+$/gm, '')
    .trimEnd();
}
