// The documents as tests see them.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The repository; this file runs from dist/test/docs. */
const ROOT = new URL('../../../', import.meta.url);

/** The text of a file of the repository. */
export function readDocument(path: string): string {
  return readFileSync(fileURLToPath(new URL(path, ROOT)), 'utf8');
}

/** The rows of the Markdown table whose first heading is `heading`, cell by cell. Throws when there is none. */
export function tableRows(document: string, heading: string): string[][] {
  const lines = document.split('\n');
  const start = lines.findIndex((line) => line.startsWith(`| ${heading} |`));
  if (start < 0) throw new Error(`there is no table that begins with "${heading}"`);
  const rest = lines.slice(start + 2);
  const length = rest.findIndex((line) => !line.startsWith('|'));
  return rest.slice(0, length < 0 ? undefined : length).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}
