// A jest reporter for test/run.mjs: says which test files are running, so that one that hangs can be named, and how many
// tests have passed and failed so far. It says so in a file, for jest cannot be trusted to live: a test that blocks its
// thread blocks jest with it.

import { renameSync, writeFileSync } from 'node:fs';
import { relative } from 'node:path';

const file = process.env.TSVMM_TEST_PROGRESS;

export default class ProgressReporter {
  #running = new Set();
  #counts = { passed: 0, failed: 0, skipped: 0 };

  onTestFileStart({ path }) {
    this.#running.add(nameOf(path));
    this.#tell();
  }

  onTestCaseResult() {
    this.#tell();
  }

  onTestFileResult({ path }, result) {
    this.#running.delete(nameOf(path));
    this.#counts.passed += result.numPassingTests;
    // A file that cannot be loaded has no tests to fail, and is a failure all the same.
    this.#counts.failed += result.numFailingTests + (result.testExecError === undefined ? 0 : 1);
    this.#counts.skipped += result.numPendingTests + result.numTodoTests;
    this.#tell();
  }

  onRunComplete() {
    this.#tell(true);
  }

  #tell(done = false) {
    if (file === undefined) return;
    // Renamed into place: it is never seen half written.
    writeFileSync(
      `${file}.new`,
      JSON.stringify({ at: Date.now(), running: [...this.#running], counts: this.#counts, done }),
    );
    renameSync(`${file}.new`, file);
  }
}

function nameOf(path) {
  return relative(process.cwd(), path);
}
