// What is run of the documents: their blocks in order, gathered into sessions, which share a folder and what runs in it.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type ExpectedOutput, isOutputMode, OUTPUT_MODES } from './expected-output.js';
import { type Directive, readDirective, type TestDirective } from './directive.js';
import type { GroupName } from './groups.js';
import { type CodeBlock, readMarkdown } from './markdown.js';

/** The checkout; this file runs from dist/test/support/documents. */
export const CHECKOUT = fileURLToPath(new URL('../../../../', import.meta.url)).replace(/\/$/, '');

const FOLDERS = ['docs', 'examples', 'firmware', 'test', 'bench'];

const KINDS: Readonly<Record<string, StepKind>> = {
  sh: 'shell',
  bash: 'shell',
  js: 'sample',
  ts: 'sample',
  json: 'data',
  yaml: 'data',
};

export type StepKind = 'shell' | 'sample' | 'data';

/** One block, or a directive that runs or types something without one. */
export interface Step {
  readonly line: number;
  readonly kind: StepKind;
  readonly language: string;
  readonly text: string;
  readonly directive: TestDirective;
  /** What it prints, if the document says so. */
  readonly output?: ExpectedOutput;
}

export interface Session {
  readonly document: string;
  readonly name: string;
  readonly group: GroupName;
  readonly steps: readonly Step[];
}

export interface Untested {
  readonly block: CodeBlock;
  readonly reason: string;
}

export interface DocumentPlan {
  readonly sessions: readonly Session[];
  readonly untested: readonly Untested[];
  /** What is wrong with the directives, each with its line. */
  readonly problems: readonly string[];
}

/** Every Markdown file of the checkout that somebody writes, by its path in it. */
export function documentPaths(): string[] {
  const below = FOLDERS.flatMap((folder) =>
    readdirSync(join(CHECKOUT, folder), { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name)),
  );
  const names = [...readdirSync(CHECKOUT), ...below].filter((name) => name.endsWith('.md'));
  // What is in docs/reference is made of docstrings, whose examples test/library compiles.
  return names.filter((name) => !name.includes('node_modules') && !name.startsWith(join('docs', 'reference'))).sort();
}

export function planDocument(path: string): DocumentPlan {
  return planText(path, readFileSync(join(CHECKOUT, path), 'utf8'));
}

/** `text` is that of the document at `path`. */
export function planText(path: string, text: string): DocumentPlan {
  const sessions = new Map<string, Session & { readonly steps: Step[] }>();
  const untested: Untested[] = [];
  const problems: string[] = [];
  /** The directive that waits for its block. */
  let waiting: { readonly directive: Directive; readonly line: number } | undefined;
  /** What an output would be of: the last step, while no other block has followed it. */
  let last: Step | undefined;

  const complain = (line: number, problem: string): void => {
    problems.push(`${path}:${line}: ${problem}`);
  };
  const add = (step: Step): void => {
    const { group, values } = step.directive;
    const name = values.session ?? `line ${step.line}`;
    const session = sessions.get(name) ?? { document: path, name, group, steps: [] };
    sessions.set(name, session);
    if (session.group !== group) complain(step.line, `session ${name} is of group ${session.group}, not ${group}`);
    session.steps.push(step);
    last = step;
  };
  const endOfWaiting = (): void => {
    if (waiting !== undefined) complain(waiting.line, 'no code block follows this comment');
    waiting = undefined;
  };

  /** What follows `$` is a command, and the rest its output. */
  const addTranscript = ({ line, text: both }: CodeBlock, directive: TestDirective): void => {
    const { output: how = 'whole' } = directive.values;
    const [command = '', ...output] = both.replace(/^\$ /, '').split(/(?<!\\)\n/);
    if (!isOutputMode(how)) complain(line, `output=${how}: there are ${OUTPUT_MODES.join(', ')}`);
    else {
      const expected = { text: output.join('\n'), how, language: '' };
      add({ line, kind: 'shell', language: 'sh', text: `${command}\n`, directive, output: expected });
    }
  };

  for (const part of readMarkdown(text)) {
    if (part.kind === 'prose') {
      endOfWaiting();
      continue;
    }
    if (part.kind === 'comment') {
      const directive = tryRead(part.comment.text, (problem) => {
        complain(part.comment.line, problem);
      });
      if (directive === undefined) continue;
      endOfWaiting();
      const { line } = part.comment;
      if (directive.kind === 'test' && directive.values.run !== undefined) {
        add({ line, kind: 'shell', language: 'sh', text: `${directive.values.run}\n`, directive });
      } else if (directive.kind === 'test' && (directive.values.type ?? directive.values.end) !== undefined) {
        add({ line, kind: 'shell', language: '', text: '', directive });
      } else waiting = { directive, line };
      continue;
    }
    const { block } = part;
    const directive = waiting?.directive;
    waiting = undefined;
    if (directive?.kind === 'output') {
      if (last === undefined || last.output !== undefined) complain(block.line, 'this output follows no tested block');
      else
        replaceLast(sessions, last, {
          ...last,
          output: { text: block.text, how: directive.how, language: block.language },
        });
      last = undefined;
      continue;
    }
    last = undefined;
    const isTranscript = block.language === '' && block.text.startsWith('$ ');
    if (directive === undefined) {
      if (block.language !== '' || isTranscript) complain(block.line, missing(block));
    } else if (directive.kind === 'not tested') untested.push({ block, reason: directive.reason });
    else if (isTranscript) addTranscript(block, directive);
    else if (!Object.hasOwn(KINDS, block.language) && directive.values.file === undefined) {
      complain(block.line, `a block of "${block.language}" cannot be tested but by file=`);
    } else {
      const { line, language } = block;
      add({ line, kind: KINDS[language] ?? 'data', language, text: block.text, directive });
    }
  }
  endOfWaiting();
  return { sessions: [...sessions.values()], untested, problems };
}

function tryRead(comment: string, complain: (problem: string) => void): Directive | undefined {
  try {
    return readDirective(comment);
  } catch (error) {
    complain(error instanceof Error ? error.message : String(error));
    return undefined;
  }
}

function replaceLast(sessions: ReadonlyMap<string, { readonly steps: Step[] }>, last: Step, next: Step): void {
  for (const { steps } of sessions.values()) {
    const at = steps.indexOf(last);
    if (at >= 0) steps[at] = next;
  }
}

function missing({ language }: CodeBlock): string {
  return (
    `this block of ${language === '' ? 'a command' : language} is not tested; write <!-- test: unit|kvm|linux [options] --> or ` +
    '<!-- not tested: REASON --> before it (CONTRIBUTING.md, "Documents")'
  );
}
