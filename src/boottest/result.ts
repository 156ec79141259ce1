// How a boot test went. Main thread.

import type { PlannedTest } from './plan.js';

export type Verdict =
  | 'passed'
  /** An expectation was not met: the guest ended too soon or otherwise, a service answered something else. */
  | 'failed'
  /** The guest panicked, crashed, or its kernel complained about itself. */
  | 'crashed'
  | 'timed-out'
  /** The monitor or the host failed: the test says nothing about the guest. */
  | 'error'
  /** Somebody stopped the run. */
  | 'cancelled';

/** What a verdict other than 'passed' rests on. Thrown by steps, and the reason when they are interrupted. */
export class Finding extends Error {
  override readonly name = 'Finding';
  readonly verdict: Exclude<Verdict, 'passed'>;
  /** More lines, for a report: registers, a stack. */
  readonly detail: string;

  constructor(
    verdict: Exclude<Verdict, 'passed'>,
    message: string,
    details: { detail?: string; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? {} : { cause: details.cause });
    this.verdict = verdict;
    this.detail = details.detail ?? '';
  }
}

export interface TestResult {
  readonly test: PlannedTest;
  readonly verdict: Verdict;
  readonly finding: Finding | undefined;
  readonly durationMs: number;
  /** The end of what the guest printed. */
  readonly output: string;
  /** Paths of the console logs that were kept. */
  readonly logs: readonly string[];
}
