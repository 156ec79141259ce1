// For tests that need a real /dev/kvm: skipped with a message where there is none, failed where nothing may be skipped.

import { closeSync, openSync } from 'node:fs';
import { describe, test } from '@jest/globals';
import { errorCode } from '../../src/config/error-code.js';

const problem = kvmProblem();
// The same rule as in test/run.mjs, which skips whole groups; this one also holds for jest run by hand.
const requireAll = process.env['CI'] === 'true' || process.env['TSVMM_REQUIRE_ALL'] === '1';

/** `describe` for tests that start virtual machines. */
export function describeKvm(name: string, body: () => void): void {
  if (problem === undefined) describe(name, body);
  else if (requireAll) {
    describe(name, () => {
      test('/dev/kvm is usable', () => {
        throw new Error(`KVM is needed here, and ${problem}`);
      });
    });
  } else describe.skip(`${name} (skipped: ${problem})`, body);
}

function kvmProblem(): string | undefined {
  try {
    closeSync(openSync('/dev/kvm', 'r+'));
    return undefined;
  } catch (error) {
    const code = errorCode(error) ?? String(error);
    return code === 'ENOENT' ? 'there is no /dev/kvm' : `/dev/kvm cannot be opened (${code})`;
  }
}
