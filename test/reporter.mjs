// A jest reporter that adds the numbers of one run to the file that test/run.mjs sums up.

import { writeFileSync } from 'node:fs';

export default class CountReporter {
  onRunComplete(_contexts, results) {
    const file = process.env.TSVMM_TEST_COUNTS;
    if (file === undefined) return;
    writeFileSync(
      file,
      JSON.stringify({
        passed: results.numPassedTests,
        // A file that cannot be loaded has no tests to fail, and is a failure all the same.
        failed: results.numFailedTests + results.numRuntimeErrorTestSuites,
        skipped: results.numPendingTests + results.numTodoTests,
        interrupted: results.wasInterrupted,
      }),
    );
  }
}
