// `tsvmm run`: boots a guest, runs one program in it through its agent with this process's streams, and ends as it ended.

import type { Readable, Writable } from 'node:stream';
import { AgentError } from '../agent/errors.js';
import type { GuestAgent } from '../agent/guest-agent.js';
import type { TerminalSize } from '../agent/program.js';
import { ConfigError } from '../config/config-error.js';
import type { OptionTexts } from '../config/parse-options.js';
import type { VmConfig } from '../config/vm-config.js';
import { describeEnd, type VmEnd } from './attend.js';
import { vmConfigOf } from './config.js';
import { Ending } from './ending.js';
import { EXIT_RUN_FAILED, EXIT_RUN_NOT_EXECUTABLE, EXIT_RUN_NOT_FOUND, signalExit } from './exit-codes.js';
import type { Host } from './host.js';
import type { LogOptions } from './logging.js';
import { parseCommandLine } from './options.js';

/** Nobody chose a context id; one VM's guest cannot see another's, so all may have the same. */
const DEFAULT_CID = 3;

export interface GuestProgramCommand {
  readonly options: OptionTexts;
  readonly configFile: string | undefined;
  readonly log: LogOptions;
  readonly argv: readonly string[];
}

/** Reads what follows `run`; throws ConfigError. */
export function parseGuestProgram(args: readonly string[]): GuestProgramCommand | 'help' | 'version' {
  const dashes = args.indexOf('--');
  const command = parseCommandLine(dashes < 0 ? args : args.slice(0, dashes));
  if (command.action === 'help' || command.action === 'version') return command.action;
  const argv = dashes < 0 ? [] : args.slice(dashes + 1);
  if (command.action !== 'run' || argv.length === 0 || argv[0] === '') {
    throw mistake('run', 'MISSING_VALUE', 'no program is named', 'Write tsvmm run [options] -- PROGRAM [argument...].');
  }
  const { options, configFile, verbosity, logFile, logLevels, logFormat } = command;
  for (const name of ['api-socket', 'restore', 'event-monitor', 'shutdown-timeout']) {
    if (options.has(name)) throw mistake(`--${name}`, 'CONFLICT', 'is not for tsvmm run', 'Leave it out.');
  }
  const log = { verbosity, levels: logLevels, file: logFile, format: logFormat };
  return { options, configFile, log, argv };
}

/** The machine for it: with vsock, and without a console on this terminal, which is the program's. Throws ConfigError. */
export async function guestProgramConfig(command: GuestProgramCommand): Promise<VmConfig> {
  const config = await vmConfigOf(command);
  if (config.payload.kernel === undefined) {
    const mend = 'Name a Linux kernel, and an initramfs or a disk whose init starts tsvmm-agent (docs/agent.md).';
    throw mistake('run', 'MISSING_KEY', 'the built-in guest runs no programs', mend);
  }
  const { serial, console, vsock } = config;
  return {
    ...config,
    serial: serial.mode === 'Tty' ? { ...serial, mode: 'Null' } : serial,
    console: console.mode === 'Tty' ? { ...console, mode: 'Null' } : console,
    vsock: vsock ?? { cid: DEFAULT_CID },
  };
}

/** The part of src/vmm's Vm that is used: a test runs without one. */
export interface ProgramVm {
  readonly agent: Pick<GuestAgent, 'waitReady' | 'exec'>;
  readonly exited: Promise<VmEnd>;
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** The streams of this process; a test has its own. */
export interface ProgramStreams {
  readonly stdin: Readable & { readonly isTTY?: boolean; setRawMode?: (raw: boolean) => unknown };
  readonly stdout: Writable & { readonly isTTY?: boolean; readonly rows?: number; readonly columns?: number };
  readonly stderr: Writable;
}

/** Returns the program's exit status, or the one for why there is none. Throws what creating throws, or the VM's failure. */
export async function runGuestProgram(
  argv: readonly string[],
  createVm: () => Promise<ProgramVm>,
  streams: ProgramStreams,
  host: Host,
): Promise<number> {
  const ending = new Ending(host);
  let vm: ProgramVm | undefined;
  try {
    vm = await createVm();
    ending.setVm(vm);
    const ready = vm.agent.waitReady();
    ready.catch(() => undefined);
    if (!ending.requested) await vm.start();
    await ready;
    return await attachProgram(vm, argv, streams);
  } catch (error) {
    if (ending.requested) return ending.exitCode;
    if (!(error instanceof AgentError)) throw error;
    if (error.code === 'GUEST_GONE' && vm !== undefined) return await sayHowItEnded(vm, host);
    host.say(error.message);
    if (error.code === 'PROGRAM_NOT_FOUND') return EXIT_RUN_NOT_FOUND;
    return error.code === 'NOT_EXECUTABLE' ? EXIT_RUN_NOT_EXECUTABLE : EXIT_RUN_FAILED;
  } finally {
    await vm?.stop();
    ending.close();
  }
}

async function attachProgram(
  vm: ProgramVm,
  argv: readonly string[],
  { stdin, stdout, stderr }: ProgramStreams,
): Promise<number> {
  const onTerminal = stdin.isTTY === true && stdout.isTTY === true;
  const size = (): TerminalSize => ({ rows: stdout.rows ?? 24, columns: stdout.columns ?? 80 });
  const program = await vm.agent.exec(argv, { stdin: 'pipe', ...(onTerminal ? { tty: size() } : {}) });
  const onResize = (): void => {
    program.resize(size());
  };
  if (onTerminal) {
    stdin.setRawMode?.(true);
    stdout.on('resize', onResize);
  }
  try {
    stdin.pipe(program.stdin);
    const written = [forward(program.stdout, stdout), forward(program.stderr, stderr)];
    const { exitCode, signal } = await program.result;
    await Promise.all(written);
    return exitCode ?? signalExit(signal);
  } finally {
    stdout.off('resize', onResize);
    stdin.unpipe(program.stdin);
    if (onTerminal) stdin.setRawMode?.(false);
    // Nothing is to be read any more: what waits for it would keep the process from ending.
    stdin.destroy();
  }
}

/** Carries output on; a reader that has gone (`tsvmm run ... | head`) is no reason to hold the program up. */
async function forward(from: Readable, to: Writable): Promise<void> {
  const onError = (): void => {
    from.unpipe(to);
    from.resume();
  };
  to.on('error', onError);
  await new Promise<void>((resolve) => {
    from.on('end', resolve);
    from.on('close', resolve);
    // Standard output stays open: it is not this program's alone.
    from.pipe(to, { end: false });
  });
  to.off('error', onError);
}

async function sayHowItEnded(vm: ProgramVm, host: Host): Promise<number> {
  await vm.stop();
  const end = await vm.exited;
  if (end.reason === 'failure') throw end.error;
  host.say('the guest ended before the program did; --serial file=PATH keeps what it printed');
  for (const line of describeEnd(end)) host.say(line);
  return EXIT_RUN_FAILED;
}

function mistake(label: string, code: ConfigError['code'], problem: string, mend: string): ConfigError {
  return new ConfigError({ option: label, label }, { code, problem, mend });
}
