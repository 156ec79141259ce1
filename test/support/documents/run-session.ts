// Runs a session: its steps in order, as a user at one shell (or several terminals) would, in a folder of its own. At its
// end everything that still runs is ended with Ctrl-C, as documents tell their readers to, and has to end as it should.

import { checkData } from './check-data.js';
import { sampleCommand, shellCommand, takeShellState } from './commands.js';
import { containsText, type ExpectedOutput, matchesOutput } from './expected-output.js';
import type { GroupName } from './groups.js';
import { SessionProcess } from './process.js';
import type { Session, Step } from './sessions.js';
import { commandsOf, replaced } from './step-text.js';
import { Surroundings } from './surroundings.js';

/** How long one step may take where others keep the machine busy. */
export const STEP_LIMIT_MS: Readonly<Record<GroupName, number>> = { unit: 90_000, kvm: 240_000, linux: 240_000 };
/** Of a command that stayed in the background: it has ended, or Ctrl-C has ended it. */
const ENDINGS = [0, 130];

interface Background {
  readonly step: Step;
  readonly process: SessionProcess;
}

/** Throws an error that names the document and the line of what went wrong. */
export async function runSession(session: Session): Promise<void> {
  const run = new SessionRun(session);
  let failed = true;
  try {
    await run.run();
    failed = false;
  } finally {
    await run.release(failed);
  }
}

class SessionRun {
  private readonly session: Session;
  private readonly around: Surroundings;
  private readonly processes: SessionProcess[] = [];
  private readonly limitMs: number;
  /** What has not been ended yet, the last first. */
  private background: Background[] = [];

  constructor(session: Session) {
    this.session = session;
    this.around = new Surroundings(session);
    this.limitMs = STEP_LIMIT_MS[session.group];
  }

  async run(): Promise<void> {
    await this.around.make(this.session);
    for (const step of this.session.steps) await this.located(step, () => this.runStep(step));
    for (const each of [...this.background]) await this.located(each.step, () => this.end(each));
  }

  async release(failed: boolean): Promise<void> {
    await Promise.all(this.processes.map((process) => process.kill()));
    // The folder of a session that failed can be kept, to look at.
    await this.around.release(failed && process.env['TSVMM_KEEP_SESSIONS'] !== undefined);
  }

  private async located(step: Step, body: () => Promise<void>): Promise<void> {
    try {
      await body();
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error);
      throw new Error(`${this.session.document}:${step.line}: ${problem}`, { cause: error });
    }
  }

  private async runStep(step: Step): Promise<void> {
    const { values, flags } = step.directive;
    if (values.check !== undefined) await checkData(values.check, step, this.around.scratch);
    else if (values.type !== undefined) await this.typeText(step, values.type);
    else if (values.end !== undefined) await this.end(this.named(values.end));
    // Files were written before the first step.
    else if (values.file !== undefined) return;
    else if (step.kind === 'data') throw new Error('say what is to be done with it: file=PATH or check=KIND');
    else {
      const text = replaced(step);
      const parts = flags.has('each') || values.in === 'guest' ? commandsOf(text) : [text];
      for (const part of parts) await (values.in === 'guest' ? this.runInGuest(step, part) : this.runText(step, part));
    }
  }

  private async runText(step: Step, text: string): Promise<void> {
    const { around } = this;
    const { values, flags } = step.directive;
    const number = this.processes.length;
    const command =
      step.kind === 'sample'
        ? sampleCommand(step, text, around.scratch)
        : shellCommand(step, text, number, around.scratch);
    const running = new SessionProcess(around.inNetwork(command), around.place);
    this.processes.push(running);
    if (flags.has('background')) {
      this.background.unshift({ step, process: running });
      await this.untilPrinted(step, running);
      if (values.until !== undefined || step.output !== undefined) takeShellState(step, number, around.scratch);
      return;
    }
    running.endInput(values.input);
    const status = await running.finish(this.limitMs);
    const printed = around.scratch.delocalize(running.output);
    if (status !== Number(values.exit ?? 0)) throw new Error(`exit status ${status}; printed was:\n${printed}`);
    if (values.until !== undefined && !containsText(printed, values.until)) {
      throw new Error(`"${values.until}" was not printed, but:\n${printed}`);
    }
    compare(step.output, printed);
  }

  /** Waits for what the directive and the document say; from position `from` of the output on. */
  private async untilPrinted({ directive, output }: Step, running: SessionProcess, from = 0): Promise<void> {
    const { until } = directive.values;
    const wait = (what: string, holds: (printed: string) => boolean): Promise<void> =>
      running.until(what, (printed) => holds(this.around.scratch.delocalize(printed)), this.limitMs, from);
    if (until !== undefined) await wait(`"${until}" is printed`, (printed) => containsText(printed, until));
    if (output !== undefined) {
      await wait(`the document's output is printed:\n${output.text}`, (printed) => matchesOutput(output, printed));
    }
  }

  private async runInGuest(step: Step, command: string): Promise<void> {
    const { guest } = this.around;
    if (guest === undefined) throw new Error('in=guest: a block of the session says guest=SOCKET');
    compare(step.output, await guest.run(command));
  }

  private async typeText(step: Step, text: string): Promise<void> {
    const { process } = this.named(step.directive.values.into);
    const from = text === '' ? 0 : process.output.length;
    process.type(text);
    await this.untilPrinted(step, process, from);
  }

  /** Ends what runs in the background, as its user would. */
  private async end(ended: Background): Promise<void> {
    this.background = this.background.filter((each) => each !== ended);
    const { step, process } = ended;
    const status = process.ended
      ? await process.status
      : await process.interrupt(step.directive.flags.has('pty'), step.directive.values.input);
    const { exit } = step.directive.values;
    if ((exit === undefined ? ENDINGS : [Number(exit)]).includes(status)) return;
    throw new Error(`exit status ${status} at its end; printed was:\n${process.output}`);
  }

  private named(name: string | undefined): Background {
    const found = this.background.find(({ step }) => name !== undefined && step.directive.values.name === name);
    if (found === undefined) throw new Error(`nothing that runs in the background has name=${name ?? ''}`);
    return found;
  }
}

function compare(output: ExpectedOutput | undefined, printed: string): void {
  if (output === undefined || matchesOutput(output, printed)) return;
  throw new Error(`the document shows:\n${output.text}\nand printed was:\n${printed}`);
}
