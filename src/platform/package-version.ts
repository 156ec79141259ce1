// The version of the package that this file belongs to.

import { readFileSync } from 'node:fs';

interface Manifest {
  readonly name: string;
  readonly version: string;
}

function manifest(): Manifest {
  return JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as Manifest;
}

/** `0.1.0`. */
export function packageVersion(): string {
  return manifest().version;
}
