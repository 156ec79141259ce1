// `tsvmm run`: boots a guest, or restores one, runs one program in it through its agent with this process's streams, and ends
// as it ended. Main thread.

import { AgentError } from '../agent/errors.js';
import type { GuestAgent } from '../agent/guest-agent.js';
import type { ConfigBase } from '../config/assembly.js';
import { ConfigError } from '../config/config-error.js';
import { type OptionTexts, parseVmOptions } from '../config/parse-options.js';
import type { VmConfig } from '../config/vm-config.js';
import type { ContainerRunConfig } from '../image/run-config.js';
import { describeEnd, type VmEnd } from './attend.js';
import { vmConfigOf } from './config.js';
import { Ending } from './ending.js';
import { EXIT_OK, EXIT_RUN_FAILED } from './exit-codes.js';
import { type CopyContext, copyIntoGuest, copyOutOfGuest } from './guest-copies.js';
import {
  type CopyPaths,
  isContainer,
  NO_MODULES,
  readRunOptions,
  RUN_OPTIONS,
  type RunOptions,
  takeOptions,
} from './guest-options.js';
import { attachProgram, programExitCode, type ProgramRequest, type ProgramStreams } from './guest-session.js';
import type { Host } from './host.js';
import type { LogOptions } from './logging.js';
import { parseCommandLine } from './options.js';
import type { RestoreRequest } from './restore.js';
import { RunFolder } from './run-folder.js';

/** Nobody chose a context id; one VM's guest cannot see another's, so all may have the same. */
const DEFAULT_CID = 3;
const KERNEL_VARIABLE = 'TSVMM_KERNEL';
/** How long the guest may take to write its disks at the end. */
const SYNC_LIMIT_MS = 30_000;
/** What is shown of the console of a guest that did not come up or went down. */
const CONSOLE_LINES = 20;
const CONSOLE_BYTES = 16_384;

type Environment = Readonly<Record<string, string | undefined>>;

export interface GuestProgramCommand {
  readonly options: OptionTexts;
  readonly configFile: string | undefined;
  readonly restore: RestoreRequest | undefined;
  readonly log: LogOptions;
  /** Empty where a container image says what is run. */
  readonly argv: readonly string[];
  readonly run: RunOptions;
}

/** Reads what follows `run`; throws ConfigError. */
export function parseGuestProgram(
  args: readonly string[],
  environment: Environment = process.env,
): GuestProgramCommand | 'help' | 'version' {
  const dashes = args.indexOf('--');
  const { given, rest } = takeOptions(dashes < 0 ? args : args.slice(0, dashes), RUN_OPTIONS);
  const command = parseCommandLine(
    rest,
    RUN_OPTIONS.map(({ name }) => name),
  );
  if (command.action === 'help' || command.action === 'version') return command.action;
  const argv = dashes < 0 ? [] : args.slice(dashes + 1);
  const run = readRunOptions(given, environment);
  const hasCommand = run.sources.some(isContainer) && (argv.length === 0 || argv[0] !== '');
  if (command.action !== 'run' || (!hasCommand && (argv.length === 0 || argv[0] === ''))) {
    throw mistake('run', 'MISSING_VALUE', 'no program is named', 'Write tsvmm run [options] -- PROGRAM [argument...].');
  }
  const { options, configFile, restore, verbosity, logFile, logLevels, logFormat } = command;
  for (const name of ['api-socket', 'event-monitor', 'shutdown-timeout']) {
    if (options.has(name)) throw mistake(`--${name}`, 'CONFLICT', 'is not for tsvmm run', 'Leave it out.');
  }
  refuseUnusedRoot(run, restore !== undefined);
  const log = { verbosity, levels: logLevels, file: logFile, format: logFormat };
  return { options, configFile, restore, log, argv, run };
}

/** A root that nothing would boot from is a mistake. Throws ConfigError. */
function refuseUnusedRoot({ init, sources, modules }: RunOptions, restoring: boolean): void {
  const hasModules = (modules.path ?? NO_MODULES) !== NO_MODULES || modules.names.length > 0;
  if ((sources.length === 0 && !hasModules) || (init === 'agent' && !restoring)) return;
  const option = `--${sources[0]?.kind ?? 'modules'}`;
  const problem = restoring ? 'a restored guest has its root already' : 'the guest is to boot from a root of its own';
  throw mistake(option, 'CONFLICT', problem, 'Leave it out; --copy-in brings files into any guest.');
}

/**
 * The machine for it: with vsock, without a console on this terminal, which is the program's, and ended by a reset. Throws
 * ConfigError, or VmError SNAPSHOT.
 */
export async function guestProgramConfig(
  command: GuestProgramCommand,
  environment: Environment = process.env,
): Promise<VmConfig> {
  const config = command.restore === undefined ? await newConfigOf(command, environment) : await vmConfigOf(command);
  const { serial, console, vsock } = config;
  if (command.restore !== undefined && vsock === undefined) {
    const mend = 'Save a VM that has vsock and whose guest runs tsvmm-agent.';
    throw mistake('--restore', 'CONFLICT', 'the saved VM has no vsock, by which its agent could be reached', mend);
  }
  return {
    ...config,
    serial: serial.mode === 'Tty' ? { ...serial, mode: 'Null' } : serial,
    console: console.mode === 'Tty' ? { ...console, mode: 'Null' } : console,
    vsock: vsock ?? { cid: DEFAULT_CID },
    no_reboot: true,
  };
}

async function newConfigOf({ options, configFile }: GuestProgramCommand, environment: Environment): Promise<VmConfig> {
  let base: ConfigBase | undefined;
  if (configFile !== undefined) {
    const { readConfigFile } = await import('../config/config-file.js');
    base = await readConfigFile('--config', configFile);
  }
  if (options.has('kernel') || base?.config.payload.kernel !== undefined) return parseVmOptions(options, base);
  const kernel = environment[KERNEL_VARIABLE];
  if (kernel === undefined || kernel === '') {
    const mend = `Name a Linux kernel (bzImage or vmlinux) by --kernel or the environment variable ${KERNEL_VARIABLE}.`;
    throw mistake('run', 'MISSING_KEY', 'the built-in guest runs no programs', mend);
  }
  return parseVmOptions(new Map([...options, ['kernel', [kernel]]]), base);
}

/** The part of src/vmm's Vm that is used: a test runs without one. */
export interface ProgramVm {
  readonly agent: Pick<GuestAgent, 'waitReady' | 'exec' | 'copyIn' | 'copyOut' | 'sync'>;
  readonly exited: Promise<VmEnd>;
  readonly console: { tail(bytes: number): string };
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** A VM that can be started, and what is to be done in it. */
export interface PreparedRun {
  readonly program: ProgramRequest;
  readonly createVm: () => Promise<ProgramVm>;
  /** Whether the guest may have written to disks of the host. */
  readonly hasDisks: boolean;
}

export interface GuestRun extends Pick<RunOptions, 'bootTimeout' | 'copyIn' | 'copyOut' | 'quiet'> {
  /** Files of this run go to `folder`. Rejects with what is wrong, or the signal's reason. */
  readonly prepare: (folder: RunFolder, signal: AbortSignal) => Promise<PreparedRun>;
}

export type CreateProgramVm = (config: VmConfig, restoreFrom: string | undefined) => Promise<ProgramVm>;

/** What `command` asks for, with a root made for it if it needs one. Throws ConfigError, ImageError and AgentError. */
export async function prepareGuestRun(
  command: GuestProgramCommand,
  createVm: CreateProgramVm,
  folder: RunFolder,
  signal: AbortSignal,
  say: (line: string) => void,
): Promise<PreparedRun> {
  const { run, restore } = command;
  const config = await guestProgramConfig(command);
  const hasDisks = [...(config.disks ?? []), ...(config.pmem ?? [])].length > 0;
  if (restore !== undefined) {
    const { vsock } = config;
    // The socket of the VM that was saved may be in use: by that VM, or by another that was restored.
    const isOwn = command.options.has('vsock') || vsock?.socket === undefined;
    const own = isOwn ? config : { ...config, vsock: { ...vsock, socket: folder.place('vsock') } };
    const program = { ...run.program, argv: command.argv };
    return { program, createVm: () => createVm(own, restore.directory), hasDisks };
  }
  if (run.init === 'guest') {
    const program = { ...run.program, argv: command.argv };
    return { program, createVm: () => createVm(config, undefined), hasDisks };
  }
  const { prepareRoot } = await import('./guest-root.js');
  const request = { sources: run.sources, modules: run.modules, program: command.argv[0], signal };
  const root = await prepareRoot(config, request, folder);
  for (const note of root.notes) say(note);
  const program = programOf(command, root.program, root.runConfig);
  return {
    program,
    hasDisks,
    createVm: async () => {
      const vm = await createVm(root.config, undefined);
      // It is in the guest's memory now.
      folder.remove();
      return vm;
    },
  };
}

/** What is run, with what the container image says of it: as docker run has it. Throws ConfigError. */
export function programOf(
  { argv, run: { entrypoint, program } }: Pick<GuestProgramCommand, 'argv' | 'run'>,
  name: string | undefined,
  image: ContainerRunConfig | undefined,
): ProgramRequest {
  if (image === undefined) return { ...program, argv: [name ?? '', ...argv.slice(1)] };
  // Another entrypoint has no use for the arguments that were meant for the image's own.
  const own = argv.length > 0 || entrypoint !== undefined ? argv : image.command;
  const whole = [...(entrypoint === undefined ? image.entrypoint : [entrypoint]), ...own];
  if (whole.length === 0 || whole[0] === '') {
    const mend = 'Write it behind --.';
    throw mistake('run', 'MISSING_VALUE', 'the container image names no program', mend);
  }
  const variables = image.env.map((text) => /^([^=]+)=([^]*)$/.exec(text)).filter((match) => match !== null);
  const env = Object.fromEntries(variables.map(([, variable = '', value = '']) => [variable, value]));
  return {
    ...program,
    argv: whole,
    env: { ...env, ...program.env },
    cwd: program.cwd ?? (image.workingDir === '' ? undefined : image.workingDir),
    user: program.user ?? (image.user === '' ? undefined : image.user),
  };
}

/** Returns the program's exit status, or the one for why there is none. Throws what preparing and creating throw, or the VM's failure. */
export async function runGuestProgram(run: GuestRun, streams: ProgramStreams, host: Host): Promise<number> {
  const folder = new RunFolder();
  const abort = new AbortController();
  // Dying at once leaves no time for `finally`.
  const dying: Host = {
    get stdin() {
      return host.stdin;
    },
    say: host.say,
    onSignal: host.onSignal,
    offSignal: host.offSignal,
    die: (signal) => {
      folder.remove();
      host.die(signal);
    },
  };
  const ending = new Ending(dying);
  let vm: ProgramVm | undefined;
  const stop = async (): Promise<void> => {
    abort.abort();
    await vm?.stop();
  };
  ending.setVm({ stop });
  try {
    const prepared = await run.prepare(folder, abort.signal);
    abort.signal.throwIfAborted();
    vm = await prepared.createVm();
    abort.signal.throwIfAborted();
    await boot(vm, run.bootTimeout);
    return await useGuest(vm, prepared, { run, streams, host, ending, signal: abort.signal });
  } catch (error) {
    if (ending.requested) return ending.exitCode;
    if (!(error instanceof AgentError)) throw error;
    if (error.code === 'GUEST_GONE' && vm !== undefined) return await sayHowItEnded(vm, host);
    host.say(error.message);
    if (error.code === 'TIMEOUT' && vm !== undefined) sayLastWords(vm, host);
    return programExitCode(error, NO_LIMITS);
  } finally {
    await vm?.stop();
    folder.remove();
    ending.close();
  }
}

const NO_LIMITS = { env: {}, cwd: undefined, user: undefined, timeout: undefined };

async function boot(vm: ProgramVm, timeout: number): Promise<void> {
  const ready = vm.agent.waitReady({ timeout });
  ready.catch(() => undefined);
  await vm.start();
  try {
    await ready;
  } catch (error) {
    if (!(error instanceof AgentError) || error.code !== 'TIMEOUT') throw error;
    const problem = `no agent has called from the guest within ${timeout / 1000} s (--boot-timeout)`;
    throw new AgentError('TIMEOUT', problem, { cause: error });
  }
}

interface GuestUse {
  readonly run: GuestRun;
  readonly streams: ProgramStreams;
  readonly host: Host;
  readonly ending: Ending;
  readonly signal: AbortSignal;
}

/** Copies in, runs the program, copies out. Throws AgentError. */
async function useGuest(
  { agent }: ProgramVm,
  { program, hasDisks }: PreparedRun,
  { run, streams, host, ending, signal }: GuestUse,
): Promise<number> {
  const context: CopyContext = { agent, stderr: streams.stderr, quiet: run.quiet, signal };
  for (const paths of run.copyIn) await copyIntoGuest(paths, context);
  let status: number;
  try {
    status = await attachProgram(agent, { ...program, signal }, streams, ending);
  } catch (error) {
    // Only what has run may have left something to be copied.
    if (!(error instanceof AgentError) || error.code !== 'TIMEOUT' || program.timeout === undefined) throw error;
    host.say(error.message);
    status = programExitCode(error, program);
  }
  const copied = await copyAllOut(run.copyOut, context, host);
  if (hasDisks) await agent.sync({ timeout: SYNC_LIMIT_MS, signal });
  return status === EXIT_OK && !copied ? EXIT_RUN_FAILED : status;
}

/** Whether all copies were made; what is wrong with one is said, and the others are tried. */
async function copyAllOut(copies: readonly CopyPaths[], context: CopyContext, host: Host): Promise<boolean> {
  let made = true;
  for (const paths of copies) {
    try {
      await copyOutOfGuest(paths, context);
    } catch (error) {
      if (!(error instanceof AgentError) || error.code === 'GUEST_GONE' || error.code === 'ABORTED') throw error;
      host.say(error.message);
      made = false;
    }
  }
  return made;
}

async function sayHowItEnded(vm: ProgramVm, host: Host): Promise<number> {
  await vm.stop();
  const end = await vm.exited;
  if (end.reason === 'failure') throw end.error;
  host.say('the guest ended before the program did');
  for (const line of describeEnd(end)) host.say(line);
  sayLastWords(vm, host);
  return EXIT_RUN_FAILED;
}

/** The end of what the guest printed, if it printed anything. */
function sayLastWords(vm: ProgramVm, host: Host): void {
  const lines = vm.console
    .tail(CONSOLE_BYTES)
    .split(/[\r\n]+/)
    .map(printable)
    .filter((line) => line.trim() !== '')
    .slice(-CONSOLE_LINES);
  if (lines.length === 0) {
    host.say('it printed nothing on its console');
    return;
  }
  host.say('it printed last:');
  for (const line of lines) host.say(`| ${line}`);
}

/** A guest's output is not to move the cursor of this terminal. */
function printable(text: string): string {
  return text.replaceAll(/\u001b\[[0-9;?]*[A-Za-z]/g, '').replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, '');
}

function mistake(label: string, code: ConfigError['code'], problem: string, mend: string): ConfigError {
  return new ConfigError({ option: label, label }, { code, problem, mend });
}
