// The fenced code blocks of a Markdown document with the comments that stand before them. Knows of Markdown what the
// repository's documents use: fences of backticks, also indented in lists, and HTML comments on lines of their own.

export interface Comment {
  /** Without the marks, on one line. */
  readonly text: string;
  /** The line on which it begins, from 1 on. */
  readonly line: number;
}

export interface CodeBlock {
  /** The line of the opening fence, from 1 on. */
  readonly line: number;
  /** What follows the fence: `sh`, or nothing. */
  readonly language: string;
  /** The content, without the fence's indentation, every line ended by a line feed. */
  readonly text: string;
}

/** Comments and blocks in their order; `prose` stands for anything else between them. */
export type Part =
  | { readonly kind: 'comment'; readonly comment: Comment }
  | { readonly kind: 'block'; readonly block: CodeBlock }
  | { readonly kind: 'prose' };

/** Throws when a fence or a comment does not end. */
export function readMarkdown(text: string): Part[] {
  const parts: Part[] = [];
  const lines = text.split('\n');
  for (let at = 0; at < lines.length; at++) {
    const fence = /^(\s*)(`{3,})(.*)$/.exec(lines[at]);
    if (fence !== null) {
      const [, indentation, ticks, language] = fence;
      const end = lines.findIndex((line, index) => index > at && line.trim() === ticks);
      if (end < 0) throw new Error(`line ${at + 1}: the code block does not end`);
      const content = lines.slice(at + 1, end).map((line) => withoutIndentation(line, indentation.length));
      const body = content.map((line) => `${line}\n`).join('');
      parts.push({ kind: 'block', block: { line: at + 1, language: language.trim(), text: body } });
      at = end;
    } else if (/^\s*<!--/.test(lines[at])) {
      const end = lines.findIndex((line, index) => index >= at && line.includes('-->'));
      if (end < 0) throw new Error(`line ${at + 1}: the comment does not end`);
      const whole = lines.slice(at, end + 1).join(' ');
      const content = whole.replace(/^\s*<!--\s*/, '').replace(/\s*-->.*$/, '');
      parts.push({ kind: 'comment', comment: { text: content, line: at + 1 } });
      at = end;
    } else if (lines[at].trim() !== '' && parts.at(-1)?.kind !== 'prose') parts.push({ kind: 'prose' });
  }
  return parts;
}

function withoutIndentation(line: string, count: number): string {
  return line.slice(0, count).trim() === '' ? line.slice(count) : line;
}
