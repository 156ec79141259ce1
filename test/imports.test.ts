// The import directions of ARCHITECTURE.md: a folder may import only what stands below it.

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';

const SRC = fileURLToPath(new URL('../../src', import.meta.url));
const EXAMPLES = fileURLToPath(new URL('../../examples', import.meta.url));

const ALLOWED: Record<string, readonly string[]> = {
  platform: [],
  config: ['platform'],
  boot: ['platform'],
  devices: ['platform'],
  image: ['platform', 'boot'],
  vsock: ['platform', 'devices'],
  agent: ['platform', 'vsock'],
  vmm: ['platform', 'config', 'boot', 'devices', 'vsock', 'agent'],
  api: ['platform', 'config', 'vmm'],
  boottest: ['platform', 'config', 'vmm', 'vsock', 'agent'],
  cli: ['platform', 'config', 'boot', 'image', 'agent', 'vmm', 'boottest', 'api'],
  jest: ['platform', 'config', 'vmm', 'boottest'],
  library: ['config', 'boot', 'image', 'vmm', 'vsock', 'agent'],
  // src/index.ts
  '.': ['library'],
};

interface Import {
  readonly file: string;
  readonly from: string;
  readonly to: string;
  readonly specifier: string;
}

function folderOf(path: string): string {
  const [first, ...rest] = relative(SRC, path).split('/');
  return rest.length === 0 ? '.' : first;
}

function importsOf(file: string): Import[] {
  const text = readFileSync(file, 'utf8');
  const specifiers = [...text.matchAll(/(?:from|import\(?)\s*'([^']+)'/g)].map((match) => match[1]);
  return specifiers.map((specifier) => ({
    file: relative(SRC, file),
    from: folderOf(file),
    to: specifier.startsWith('.') ? folderOf(resolve(dirname(file), specifier)) : specifier,
    specifier,
  }));
}

const imports = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .flatMap((name) => importsOf(join(SRC, name)));
const internal = imports.filter(({ specifier }) => specifier.startsWith('.'));

describe('import directions', () => {
  test('the scan finds imports', () => {
    expect(internal.length).toBeGreaterThan(50);
  });

  test('every folder imports only what ARCHITECTURE.md lets it', () => {
    const offenders = internal.filter(({ from, to }) => from !== to && !(ALLOWED[from] ?? []).includes(to));
    expect(offenders).toEqual([]);
  });

  test('examples use what the library exports, and each other', () => {
    const files = readdirSync(EXAMPLES).filter((name) => name.endsWith('.ts'));
    const specifiers = files.flatMap((name) => importsOf(join(EXAMPLES, name)).map(({ specifier }) => specifier));
    expect(specifiers).toContain('../src/index.js');
    const others = specifiers.filter((each) => each.startsWith('.') && !each.startsWith('./'));
    expect(new Set(others)).toEqual(new Set(['../src/index.js']));
  });

  test('only src/platform calls koffi', () => {
    expect(imports.filter(({ specifier, from }) => specifier === 'koffi' && from !== 'platform')).toEqual([]);
  });
});
