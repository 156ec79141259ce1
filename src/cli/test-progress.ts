// What `tsvmm test` shows while it runs, on stderr: a line for each test that is through, and on a terminal one below them
// that says what runs now.

import type { PlannedTest } from '../boottest/plan.js';
import type { TestResult, Verdict } from '../boottest/result.js';
import { showDuration } from '../boottest/values.js';

/** The part of `process.stderr` that is used. */
export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const WORDS: Readonly<Record<Verdict, string>> = {
  passed: 'ok',
  failed: 'FAILED',
  crashed: 'CRASHED',
  'timed-out': 'TIMED OUT',
  error: 'ERROR',
  cancelled: 'not run',
};
/** How many lines of the console are shown of a test that did not pass. */
const OUTPUT_LINES = 10;
const ERASE_LINE = '\r\u001b[K';
const DEFAULT_COLUMNS = 80;

export class TestProgress {
  private readonly stream: ProgressStream;
  private readonly count: number;
  private readonly running = new Set<PlannedTest>();
  private readonly results: TestResult[] = [];
  private statusShown = false;

  constructor(stream: ProgressStream, count: number) {
    this.stream = stream;
    this.count = count;
  }

  started(test: PlannedTest): void {
    this.running.add(test);
    this.showStatus();
  }

  finished(result: TestResult): void {
    this.running.delete(result.test);
    this.results.push(result);
    this.clearStatus();
    this.stream.write(`${linesOf(result).join('\n')}\n`);
    this.showStatus();
  }

  /** The last line: how many of which kind. */
  summary(durationMs: number): void {
    this.clearStatus();
    const counts = (Object.keys(WORDS) as Verdict[]).flatMap((verdict) => {
      const count = this.results.filter((result) => result.verdict === verdict).length;
      return count === 0 && verdict !== 'passed' ? [] : [`${count} ${verdict === 'cancelled' ? 'not run' : verdict}`];
    });
    this.stream.write(`${counts.join(', ')} of ${this.count} in ${showDuration(durationMs)}\n`);
  }

  private showStatus(): void {
    if (this.stream.isTTY !== true || this.running.size === 0) return;
    const names = [...this.running].map(({ name }) => name).join(', ');
    const text = `[${this.results.length}/${this.count}] ${printable(names)}`;
    this.stream.write(`${ERASE_LINE}${text.slice(0, (this.stream.columns ?? DEFAULT_COLUMNS) - 1)}`);
    this.statusShown = true;
  }

  private clearStatus(): void {
    if (this.statusShown) this.stream.write(ERASE_LINE);
    this.statusShown = false;
  }
}

function linesOf({ test, verdict, finding, durationMs, output, logs }: TestResult): string[] {
  const line = `${WORDS[verdict]}  ${test.suite}: ${test.name} (${showDuration(durationMs)})`;
  if (finding === undefined || verdict === 'cancelled') return [line];
  const last = output
    .split(/\r*\n/)
    .filter((text) => text !== '')
    .slice(-OUTPUT_LINES);
  return [
    line,
    ...`${finding.message}\n${finding.detail}`
      .split('\n')
      .filter((text) => text !== '')
      .map((text) => `    ${printable(text)}`),
    ...last.map((text) => `    | ${printable(text)}`),
    ...logs.map((path) => `    console log: ${path}`),
  ];
}

/** A guest's output is not to move the cursor of this terminal. */
function printable(text: string): string {
  return text.replaceAll(/\u001b\[[0-9;?]*[A-Za-z]/g, '').replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, '');
}
