// docs/reference is what `npm run docs` makes of the docstrings, and nothing public is without one.

import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const COMMITTED = join(ROOT, 'docs', 'reference');

/** By the names of files, what is in them. */
function pagesIn(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.includes('.'));
  return Object.fromEntries(names.sort().map((name) => [name, readFileSync(join(folder, name), 'utf8')]));
}

describe('docs/reference', () => {
  const committed = pagesIn(COMMITTED);
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'tsvmm-reference-'));
  });
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  test('is what `npm run docs` makes of the docstrings; nothing public lacks one', async () => {
    const typedoc = join(ROOT, 'node_modules', 'typedoc', 'bin', 'typedoc');
    // Whatever is missing is a warning, by which typedoc fails; `message` has them.
    await promisify(execFile)(process.execPath, [typedoc, '--out', folder], { cwd: ROOT });
    // When this fails: run `npm run docs` and commit what it changes.
    expect(committed).toEqual(pagesIn(folder));
  }, 60_000);

  test('has a page for every subject of the library', () => {
    const config = readFileSync(join(ROOT, 'typedoc.config.mjs'), 'utf8');
    const subjects = readdirSync(join(ROOT, 'src', 'library')).filter((name) => name.endsWith('.ts'));
    const index = readFileSync(join(ROOT, 'src', 'index.ts'), 'utf8');
    expect(subjects.filter((name) => !config.includes(`'src/library/${name}'`))).toEqual([]);
    expect(subjects.filter((name) => !index.includes(`./library/${name.replace('.ts', '.js')}'`))).toEqual([]);
  });

  test('says the same wherever and whenever it is made: no paths, addresses or dates', () => {
    const text = Object.values(committed).join('\n');
    expect(text).not.toContain(ROOT);
    expect(text).not.toMatch(/https?:\/\/(?!127\.0\.0\.1)/);
    expect(text).not.toMatch(/\b20\d\d-\d\d-\d\d\b/);
  });

  test('shows no type as `any`', () => {
    expect(Object.keys(committed).filter((name) => /`any`|[:<] ?any[;,)>[]/.test(committed[name] ?? ''))).toEqual([]);
  });

  test('its links lead somewhere', () => {
    const broken = Object.entries(committed).flatMap(([name, text]) =>
      [...text.matchAll(/\]\(([^)#]+)(#[^)]*)?\)/g)]
        .map(([, path = '']) => join(dirname(join(COMMITTED, name)), path))
        .filter((path) => !existsSync(path)),
    );
    expect(broken).toEqual([]);
  });
});
