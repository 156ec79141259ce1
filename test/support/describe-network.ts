// For tests that need taps in a network namespace (net-namespace.ts): skipped with a message where those cannot be made,
// failed where nothing may be skipped.

import { execFileSync } from 'node:child_process';
import { describe, test } from '@jest/globals';
import { errorCode } from '../../src/config/error-code.js';
import { TUN_PATH } from '../../src/platform/tap.js';

/** Whether nothing may be skipped. */
export const requireAll = process.env['CI'] === 'true' || process.env['TSVMM_REQUIRE_ALL'] === '1';

/** `describe` for tests that make taps. */
export function describeNetwork(name: string, body: () => void): void {
  const problem = networkProblem();
  if (problem === undefined) describe(name, body);
  else if (requireAll) {
    describe(name, () => {
      test('network namespaces and taps can be made', () => {
        throw new Error(`they are needed here, and ${problem}`);
      });
    });
  } else describe.skip(`${name} (skipped: ${problem})`, body);
}

/** What keeps this process from making network namespaces and taps in them, if anything does. */
export function networkProblem(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root can make network namespaces';
  try {
    execFileSync('unshare', ['-n', 'sh', '-c', `ip tuntap add dev tap0 mode tap`], { stdio: 'pipe' });
    return undefined;
  } catch (error) {
    return `a tap in a namespace (unshare, ip, ${TUN_PATH}) fails: ${errorCode(error) ?? String(error)}`;
  }
}
