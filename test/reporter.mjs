// A jest reporter for test/run.mjs: says which test files are running, so that one that hangs can be named, and at the
// end how many tests passed and failed. Both go to a file, for jest cannot be trusted to live: a test that blocks its
// thread blocks jest with it.

import { renameSync, writeFileSync } from 'node:fs';
import { relative } from 'node:path';

const file = process.env.TSVMM_TEST_PROGRESS;

export default class ProgressReporter {
  #running = new Set();

  onTestFileStart({ path }) {
    this.#running.add(relative(process.cwd(), path));
    this.#tell();
  }

  onTestCaseResult() {
    this.#tell();
  }

  onTestFileResult({ path }) {
    this.#running.delete(relative(process.cwd(), path));
    this.#tell();
  }

  onRunComplete(_contexts, results) {
    this.#tell({
      passed: results.numPassedTests,
      // A file that cannot be loaded has no tests to fail, and is a failure all the same.
      failed: results.numFailedTests + results.numRuntimeErrorTestSuites,
      skipped: results.numPendingTests + results.numTodoTests,
    });
  }

  #tell(counts) {
    if (file === undefined) return;
    // Renamed into place: it is never seen half written.
    writeFileSync(`${file}.new`, JSON.stringify({ at: Date.now(), running: [...this.#running], counts }));
    renameSync(`${file}.new`, file);
  }
}
