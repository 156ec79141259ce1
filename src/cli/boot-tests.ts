// `tsvmm test`: reads the specs, runs their tests, reports. Loaded for that command only.

import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { junitXml } from '../boottest/junit.js';
import { type PlannedTest, planTests } from '../boottest/plan.js';
import type { TestResult } from '../boottest/result.js';
import { runAll } from '../boottest/run-all.js';
import { readSpec } from '../boottest/spec.js';
import { TapWriter } from '../boottest/tap.js';
import { ConfigError } from '../config/config-error.js';
import { MistakeList } from '../config/config-mistakes.js';
import { Ending } from './ending.js';
import {
  EXIT_CRASH,
  EXIT_INTERNAL,
  EXIT_OK,
  EXIT_TEST_FAILED,
  EXIT_TEST_TIMED_OUT,
  exitCodeFor,
} from './exit-codes.js';
import type { Host } from './host.js';
import type { TestCommand } from './test-options.js';
import { type ProgressStream, TestProgress } from './test-progress.js';

export interface BootTestHost {
  readonly host: Host;
  readonly stderr: ProgressStream;
  /** For TAP. */
  readonly print: (text: string) => void;
  /** Hears what stops everything. */
  readonly onStop: (stop: () => Promise<void>) => void;
}

/** Runs the tests and returns the exit status. Throws ConfigError about specs and options. */
export async function runBootTests(
  command: TestCommand,
  { host, stderr, print, onStop }: BootTestHost,
): Promise<number> {
  const { artifacts, junit, tap, jobs } = command;
  const tests = await readTests(command.specs);
  if (artifacts !== undefined) makeFolder('--artifacts', artifacts);
  if (junit !== undefined) makeFolder('--junit', dirname(junit));

  const controller = new AbortController();
  const ending = new Ending(host);
  try {
    const startedAt = new Date();
    const begin = performance.now();
    const progress = new TestProgress(stderr, tests.length);
    const points = tap ? new TapWriter(tests.length, print) : undefined;
    const running = runAll(tests, {
      jobs,
      artifacts,
      signal: controller.signal,
      onStart: (test) => {
        progress.started(test);
      },
      onResult: (result, index) => {
        progress.finished(result);
        points?.add(result, index);
      },
    });
    const stop = async (): Promise<void> => {
      controller.abort();
      await running;
    };
    ending.setVm({ stop });
    onStop(stop);
    const results = await running;
    if (ending.requested) points?.bailOut('the run was stopped');
    progress.summary(Math.round(performance.now() - begin));
    if (junit !== undefined) writeReport(junit, junitXml(results, startedAt));
    return ending.requested ? ending.exitCode : statusOf(results);
  } finally {
    ending.close();
  }
}

/** The tests of all specs. Throws ConfigError about all that is wrong with them. */
async function readTests(files: readonly string[]): Promise<PlannedTest[]> {
  const mistakes = new MistakeList();
  const specs = await Promise.all(
    files.map((file) =>
      readSpec(file).catch((error: unknown) => {
        mistakes.add(error);
      }),
    ),
  );
  const tests = specs.flatMap((spec) => (spec === undefined ? [] : (mistakes.try(() => planTests(spec)) ?? [])));
  mistakes.throwIfAny();
  return tests;
}

/** The worst that there is: the monitor's trouble, crashes, failures, timeouts. */
function statusOf(results: readonly TestResult[]): number {
  const error = results.find(({ verdict }) => verdict === 'error');
  if (error !== undefined) return exitCodeFor(error.finding?.cause ?? error.finding);
  const verdicts = new Set(results.map(({ verdict }) => verdict));
  if (verdicts.has('crashed')) return EXIT_CRASH;
  if (verdicts.has('failed')) return EXIT_TEST_FAILED;
  if (verdicts.has('timed-out')) return EXIT_TEST_TIMED_OUT;
  return verdicts.has('cancelled') ? EXIT_INTERNAL : EXIT_OK;
}

function makeFolder(option: string, path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw unwritable(option, path, error);
  }
}

/** Under its name there is never half of a report. */
function writeReport(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, text);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw unwritable('--junit', path, error);
  }
}

function unwritable(option: string, path: string, cause: unknown): ConfigError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new ConfigError(
    { option, value: path, label: option },
    { code: 'UNUSABLE_FILE', problem: `${path} cannot be written (${reason})`, mend: 'Name another place.' },
    { cause },
  );
}
