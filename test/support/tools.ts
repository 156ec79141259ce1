// For tests that need a program of the host: skipped with a message where it is not installed, failed where nothing may
// be skipped.

import { spawnSync } from 'node:child_process';
import { describe, test } from '@jest/globals';

const requireAll = process.env['CI'] === 'true' || process.env['TSVMM_REQUIRE_ALL'] === '1';

/** `describe` for tests that run `program`, which is part of the Debian package `debianPackage`. */
export function describeWithTool(name: string, program: string, debianPackage: string, body: () => void): void {
  const found = spawnSync('sh', ['-c', 'command -v "$1"', 'sh', program]).status === 0;
  const problem = `${program} is not installed (Debian package ${debianPackage})`;
  if (found) describe(name, body);
  else if (requireAll) {
    describe(name, () => {
      test(`${program} is installed`, () => {
        throw new Error(problem);
      });
    });
  } else describe.skip(`${name} (skipped: ${problem})`, body);
}
