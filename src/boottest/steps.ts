// The steps of a boot test, one kind after the other. Main thread.
//
// Each is given a signal: its reason is a Finding (the step's time is up, the guest is in trouble, the run was stopped),
// which is what the step then fails with.

import { setTimeout as delay } from 'node:timers/promises';
import { AgentError } from '../agent/errors.js';
import { ConsoleError, showPattern } from '../vmm/consoles/console-error.js';
import { ConsoleReader } from '../vmm/consoles/console-reader.js';
import type { Vm, VmExit } from '../vmm/vm.js';
import { VsockError, type VsockErrorCode } from '../vsock/in-process/errors.js';
import type { VsockStream } from '../vsock/in-process/stream.js';
import { Finding } from './result.js';
import type { ExecStep, ExitReason, Step, VsockStep } from './spec.js';
import { matches } from './values.js';

/** How soon a service that is not there yet is tried again. */
const RETRY_MS = 100;
/** How much of a program's output a report shows. */
const SHOWN_OUTPUT_BYTES = 16_384;
/** How much of an answer a message shows. */
const SHOWN_BYTES = 1024;

/** What the steps of one test share. */
export interface Session {
  readonly vm: Vm;
  /** Settles when the guest has said that its kernel panicked. */
  readonly panicked: Promise<void>;
  /** Where on the console the next expectation begins. */
  position: number;
}

/** Carries out one step. Rejects with Finding. */
export async function runStep(step: Step, session: Session, signal: AbortSignal): Promise<void> {
  try {
    if (step.expect !== undefined) await expectOutput(step.expect, session, signal);
    else if (step.send !== undefined) await unlessAborted(session.vm.console.write(Buffer.from(step.send)), signal);
    else if (step.exec !== undefined) await execute(step.exec, session.vm, signal);
    else if (step.vsock !== undefined) await talk(step.vsock, session.vm, signal);
    else if (step.powerButton !== undefined) session.vm.powerButton();
    else if (step.exit !== undefined) await expectExit(step.exit, session, signal);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw error;
  }
}

/** A step as messages name it. */
export function describeStep(step: Step): string {
  if (step.expect !== undefined) return `expect ${showPattern(step.expect)}`;
  if (step.send !== undefined) return `send ${JSON.stringify(step.send)}`;
  if (step.exec !== undefined) return `exec ${step.exec.run.join(' ')}`;
  if (step.vsock !== undefined) return `vsock port ${step.vsock.port}`;
  if (step.powerButton !== undefined) return 'powerButton';
  return `exit ${step.exit ?? ''}`;
}

function hasPanicked(exit: VmExit): boolean {
  return exit.reason !== 'crash' && exit.reason !== 'failure' && exit.panicked === true;
}

/** What the end of a VM says when nobody expected it to end, or not like that. */
export function findingOf(exit: VmExit, wanted: string): Finding {
  switch (exit.reason) {
    case 'failure':
      return new Finding('error', `the monitor failed: ${exit.error.message}`, { cause: exit.error });
    case 'crash':
      return new Finding('crashed', `the guest crashed: ${exit.report.split('\n')[0]}`, { detail: exit.report });
    default: {
      if (exit.panicked === true) return new Finding('crashed', 'the guest panicked');
      const how = { shutdown: 'shut down', reset: 'reset', stopped: 'was stopped' }[exit.reason];
      return new Finding('failed', `the guest ${how} instead of: ${wanted}`);
    }
  }
}

async function expectOutput(pattern: string | RegExp, session: Session, signal: AbortSignal): Promise<void> {
  const { vm, position } = session;
  try {
    session.position = (await vm.console.waitFor(pattern, { from: position, signal })).end;
  } catch (error) {
    if (!(error instanceof ConsoleError)) throw error;
    if (error.code === 'ENDED') throw findingOf(await vm.exited, `expect ${showPattern(pattern)}`);
    throw new Finding('error', error.message, { cause: error });
  }
}

async function expectExit(wanted: ExitReason, { vm, panicked }: Session, signal: AbortSignal): Promise<void> {
  const ended = vm.exited.then((exit) => exit);
  if (wanted === 'panic') {
    const exit = await unlessAborted(Promise.race([panicked.then(() => undefined), ended]), signal);
    // Its last words may be on their way when it ends.
    if (exit === undefined || hasPanicked(exit)) return;
    const saidSo = await Promise.race([panicked.then(() => true), delay(RETRY_MS, false)]);
    if (saidSo) return;
    throw findingOf(exit, 'exit panic');
  }
  const exit = await unlessAborted(ended, signal);
  if (exit.reason === wanted && !hasPanicked(exit)) return;
  throw findingOf(exit, `exit ${wanted}`);
}

async function talk({ port, send, expect }: VsockStep, vm: Vm, signal: AbortSignal): Promise<void> {
  const stream = await connect(port, vm, signal);
  const reader = new ConsoleReader();
  const broken = new Promise<never>((_resolve, reject) => {
    stream.on('error', reject);
  });
  // Somebody may not wait for it any more.
  broken.catch(() => undefined);
  try {
    stream.on('data', (piece: Buffer) => {
      reader.append(piece);
    });
    stream.on('end', () => {
      reader.end();
    });
    if (send !== undefined) stream.write(send);
    if (expect === undefined) {
      const finished = new Promise<void>((resolve) => stream.end(resolve));
      await unlessAborted(Promise.race([finished, broken]), signal);
    } else {
      await Promise.race([reader.waitFor(expect, { signal }), broken]);
      stream.end();
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (error instanceof ConsoleError && expect !== undefined) {
      const heard = JSON.stringify(reader.tail(SHOWN_BYTES));
      throw new Finding('failed', `vsock port ${port} closed after ${heard} instead of: ${showPattern(expect)}`);
    }
    throw await vsockFinding(error, vm);
  } finally {
    stream.destroy();
  }
}

async function execute(step: ExecStep, vm: Pick<Vm, 'agent' | 'exited'>, signal: AbortSignal): Promise<void> {
  const { run, exitCode = 0, expect, stdin, ...rest } = step;
  try {
    await vm.agent.waitReady({ signal });
    const input = stdin === undefined ? {} : { stdin: Buffer.from(stdin) };
    const result = await vm.agent.run(run, { ...rest, ...input, signal });
    const detail = [result.stdout, result.stderr]
      .map((bytes) => bytes.subarray(-SHOWN_OUTPUT_BYTES).toString())
      .filter((text) => text !== '')
      .join('\n');
    if (result.exitCode !== exitCode) {
      const how =
        result.exitCode === null ? `was ended by ${result.signal ?? 'a signal'}` : `exited with ${result.exitCode}`;
      throw new Finding('failed', `${run[0]} ${how} instead of ${exitCode}`, { detail });
    }
    if (expect !== undefined && !matches(expect, result.stdout.toString())) {
      throw new Finding('failed', `${run[0]} has not printed ${showPattern(expect)}`, { detail });
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (!(error instanceof AgentError)) throw error;
    const exit = error.code === 'GUEST_GONE' ? await Promise.race([vm.exited, delay(RETRY_MS, undefined)]) : undefined;
    throw exit === undefined ? new Finding('failed', error.message, { cause: error }) : findingOf(exit, error.message);
  }
}

/** What may pass: the driver or the service is not up yet. */
const TRANSIENT: ReadonlySet<VsockErrorCode> = new Set(['REFUSED', 'TIMED_OUT', 'RESET']);

async function connect(port: number, vm: Vm, signal: AbortSignal): Promise<VsockStream> {
  for (;;) {
    try {
      return await vm.vsock.connect(port, { waitForDriver: true, signal });
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (!(error instanceof VsockError && TRANSIENT.has(error.code))) throw await vsockFinding(error, vm);
      await delay(RETRY_MS, undefined, { signal });
    }
  }
}

/** A stream breaks when the VM ends: then that is what happened. */
async function vsockFinding(error: unknown, vm: Vm): Promise<Error> {
  if (!(error instanceof VsockError)) return error instanceof Error ? error : new Error(String(error));
  const exit = await Promise.race([vm.exited, delay(RETRY_MS, undefined)]);
  return exit === undefined ? new Finding('failed', error.message, { cause: error }) : findingOf(exit, error.message);
}

/** `promise`, or the signal's reason when that is first. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let abort: (() => void) | undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    abort = () => {
      reject(signal.reason as Error);
    };
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort);
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    if (abort !== undefined) signal.removeEventListener('abort', abort);
  }
}
