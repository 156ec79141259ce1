// One boot test from the making of its VM to its verdict. Main thread.
//
// The first finding decides: a step that fails, the test's time, the monitor, the user. A guest in trouble comes before
// them all but the last two, since it is why the rest went wrong. When its console tells of trouble the test goes on for
// a second, so that the log has the stack that follows.

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { markValid } from '../config/valid-config.js';
import type { VmConfig } from '../config/vm-config.js';
import { Vm, type VmExit } from '../vmm/vm.js';
import { ConsoleLog } from './console-log.js';
import { FaultWatch } from './fault-watch.js';
import { overlaidDisk } from './overlay.js';
import type { PlannedTest } from './plan.js';
import { Finding, type TestResult } from './result.js';
import { describeStep, findingOf, runStep, type Session } from './steps.js';
import { showDuration } from './values.js';

/** How long a kernel in trouble may go on to print. */
const TRACE_MS = 1000;
/** How much of the output a result has. */
const OUTPUT_BYTES = 64 * 1024;

export interface TestContext {
  /** Its reason is what is said of tests that are stopped by it. */
  readonly signal: AbortSignal;
  /** Where the logs of this test go, without the ending `.log`; undefined: nowhere. */
  readonly logPath: string | undefined;
}

/** Runs the test; whatever happens is in the result, and nothing of the VM is left. */
export async function runTest(test: PlannedTest, context: TestContext): Promise<TestResult> {
  const begin = performance.now();
  const run = new TestRun(test, context);
  const finding = await run.finish();
  const durationMs = Math.round(performance.now() - begin);
  return { test, verdict: finding?.verdict ?? 'passed', finding, durationMs, output: run.output, logs: run.logs };
}

class TestRun {
  output = '';
  readonly logs: string[] = [];
  private readonly test: PlannedTest;
  private readonly context: TestContext;
  private readonly interrupt = new AbortController();
  /** What the guest's own trouble is. */
  private fault: Finding | undefined;
  /** What makes the test worthless: the log cannot be written. */
  private hostFailure: Finding | undefined;
  private readonly timers: NodeJS.Timeout[] = [];
  private readonly panicked = withResolvers();

  constructor(test: PlannedTest, context: TestContext) {
    this.test = test;
    this.context = context;
  }

  async finish(): Promise<Finding | undefined> {
    const { signal } = this.context;
    const cancel = (): void => {
      this.interrupt.abort(new Finding('cancelled', 'the run was stopped'));
    };
    if (signal.aborted) cancel();
    signal.addEventListener('abort', cancel);
    let folder: string | undefined;
    try {
      if (this.interrupt.signal.aborted) return this.interrupt.signal.reason as Finding;
      if (this.test.overlaid.length > 0) folder = mkdtempSync(join(tmpdir(), 'tsvmm-test-'));
      return await this.runMachine(this.configIn(folder));
    } catch (error) {
      return asFinding(error);
    } finally {
      for (const timer of this.timers) clearTimeout(timer);
      signal.removeEventListener('abort', cancel);
      if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
    }
  }

  private configIn(folder: string | undefined): VmConfig {
    const { config, overlaid } = this.test;
    if (folder === undefined) return config;
    const disks = config.disks?.map((disk, index) =>
      overlaid.includes(index) ? overlaidDisk(disk, index, folder) : disk,
    );
    return markValid({ ...config, ...(disks === undefined ? {} : { disks }) });
  }

  private async runMachine(config: VmConfig): Promise<Finding | undefined> {
    const logs: ConsoleLog[] = [];
    try {
      const vm = await Vm.create(config);
      let found: Finding | undefined;
      let exit: VmExit;
      const watches: FaultWatch[] = [];
      try {
        this.watchConsoles(vm, logs, watches);
        found = await this.runSteps(vm);
      } catch (error) {
        found = asFinding(error);
      } finally {
        await vm.stop();
        exit = await vm.exited;
      }
      for (const watch of watches) watch.end();
      this.output = vm.console.tail(OUTPUT_BYTES);
      return this.decide(found, exit);
    } finally {
      for (const log of logs) log.close();
    }
  }

  private decide(found: Finding | undefined, exit: VmExit): Finding | undefined {
    if (found?.verdict === 'cancelled' || found?.verdict === 'error') return found;
    if (exit.reason === 'failure') return findingOf(exit, '');
    return this.hostFailure ?? this.fault ?? found;
  }

  /** Logs and watches every console that the machine has. */
  private watchConsoles(vm: Vm, logs: ConsoleLog[], watches: FaultWatch[]): void {
    const present = Object.entries(vm.consoles).filter(([, console]) => console !== undefined);
    for (const [name, console] of present) {
      const log = this.openLog(present.length > 1 ? `.${name}` : '');
      if (log !== undefined) logs.push(log);
      const watch = new FaultWatch(this.test.allow, ({ isPanic, line }) => {
        if (isPanic) this.panicked.resolve();
        this.report(line);
      });
      watches.push(watch);
      (console as Vm['console']).onOutput((bytes) => {
        log?.write(bytes);
        watch.feed(bytes);
      });
    }
    vm.events.on('panicked', () => {
      this.panicked.resolve();
      this.report('the guest panicked');
    });
  }

  private openLog(which: string): ConsoleLog | undefined {
    const { logPath } = this.context;
    if (logPath === undefined) return undefined;
    const path = `${logPath}${which}.log`;
    mkdirSync(dirname(path), { recursive: true });
    const log = new ConsoleLog(path, (finding) => {
      this.hostFailure ??= finding;
      this.interrupt.abort(finding);
    });
    this.logs.push(path);
    return log;
  }

  /** The guest has told of trouble in this line. A test that waits for a panic takes all that comes with it. */
  private report(line: string): void {
    if (this.fault !== undefined || this.test.steps.at(-1)?.step.exit === 'panic') return;
    const finding = new Finding('crashed', line);
    this.fault = finding;
    this.timers.push(
      setTimeout(() => {
        this.interrupt.abort(finding);
      }, TRACE_MS),
    );
  }

  private async runSteps(vm: Vm): Promise<Finding | undefined> {
    const { steps, timeoutMs } = this.test;
    const session: Session = { vm, panicked: this.panicked.promise, position: 0 };
    this.timers.push(
      setTimeout(() => {
        this.interrupt.abort(new Finding('timed-out', `the test took longer than ${showDuration(timeoutMs)}`));
      }, timeoutMs),
    );
    if (!this.interrupt.signal.aborted) await vm.start();
    for (const [index, { step, timeoutMs: limitMs }] of steps.entries()) {
      const place = `step ${index + 1} (${describeStep(step)})`;
      try {
        await this.within(limitMs, (signal) => runStep(step, session, signal));
      } catch (error) {
        const finding = asFinding(error);
        if (finding.verdict === 'cancelled') return finding;
        const { verdict, message, detail, cause } = finding;
        return new Finding(verdict, `${place}: ${message}`, { detail, cause });
      }
    }
    return undefined;
  }

  /** `action` with a signal that fires after `limitMs`, or when the whole test is interrupted. */
  private async within(limitMs: number, action: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const { signal: interrupted } = this.interrupt;
    const controller = new AbortController();
    const passOn = (): void => {
      controller.abort(interrupted.reason);
    };
    const timer = setTimeout(() => {
      controller.abort(new Finding('timed-out', `nothing of the kind within ${showDuration(limitMs)}`));
    }, limitMs);
    interrupted.addEventListener('abort', passOn);
    if (interrupted.aborted) passOn();
    try {
      controller.signal.throwIfAborted();
      await action(controller.signal);
    } finally {
      clearTimeout(timer);
      interrupted.removeEventListener('abort', passOn);
    }
  }
}

/** What is not a finding yet is the monitor's or the host's trouble. */
function asFinding(error: unknown): Finding {
  if (error instanceof Finding) return error;
  return new Finding('error', error instanceof Error ? error.message : String(error), { cause: error });
}

interface Resolvers {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
}

function withResolvers(): Resolvers {
  let resolve: (() => void) | undefined;
  const promise = new Promise<void>((settle) => {
    resolve = settle;
  });
  return { promise, resolve: () => resolve?.() };
}
