// The links inside the repository lead somewhere: the file exists, and the heading where one is named.

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { CHECKOUT, documentPaths } from '../support/documents/sessions.js';

interface Link {
  readonly line: number;
  readonly target: string;
}

/** Links in prose, not those in code. */
function linksOf(document: string): Link[] {
  return withoutCode(document)
    .split('\n')
    .flatMap((text, index) => [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => ({ line: index + 1, target })))
    .filter(({ target }) => !/^[a-z]+:/.test(target));
}

/** The anchors of headings, as GitHub makes them. */
function anchorsOf(document: string): string[] {
  const headings = [...withoutCode(document, false).matchAll(/^#+ +(.*)$/gm)].map(([, heading]) => heading);
  const seen = new Map<string, number>();
  return headings.map((heading) => {
    const text = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
    const anchor = text.replaceAll(/[^\p{L}\p{N}\s_-]/gu, '').replaceAll(' ', '-');
    const count = seen.get(anchor) ?? 0;
    seen.set(anchor, count + 1);
    return count === 0 ? anchor : `${anchor}-${count}`;
  });
}

/** Blocks of code become empty lines, and code within lines goes where it is not wanted. */
function withoutCode(document: string, inline = true): string {
  const text = document.replaceAll(/^( *)```[^]*?^\1```$/gm, (block) => '\n'.repeat(block.split('\n').length - 1));
  return inline ? text.replaceAll(/`[^`\n]+`(?!\])/g, '') : text;
}

describe('the links of the documents', () => {
  test.each(documentPaths())('%s: every file and heading exists', (path) => {
    const document = readFileSync(join(CHECKOUT, path), 'utf8');
    const broken = linksOf(document).filter(({ target }) => {
      const [file, anchor] = target.split('#');
      const named = file === '' ? path : join(dirname(path), file);
      if (!existsSync(join(CHECKOUT, named))) return true;
      if (!target.includes('#')) return false;
      return !named.endsWith('.md') || !anchorsOf(readFileSync(join(CHECKOUT, named), 'utf8')).includes(anchor);
    });
    expect(broken).toEqual([]);
  });

  test('anchors are made as GitHub makes them', () => {
    expect(anchorsOf('# A `--b` c, d!\n## [E](f) g\n```\n# no\n```\n## E g\n')).toEqual(['a---b-c-d', 'e-g', 'e-g-1']);
  });
});
