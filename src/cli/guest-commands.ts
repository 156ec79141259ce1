// `tsvmm exec` and `tsvmm cp`: programs and copies in a guest that runs already, through the vsock socket of its monitor.
// Main thread.

import { AgentError } from '../agent/errors.js';
import { agentAt, type DistantAgent } from '../agent/unix-transport.js';
import { ConfigError } from '../config/config-error.js';
import { unknownOption } from '../config/unknown-option.js';
import { Ending } from './ending.js';
import { EXIT_INTERNAL, EXIT_OK } from './exit-codes.js';
import { type CopyContext, copyIntoGuest, copyOutOfGuest } from './guest-copies.js';
import {
  CP_OPTIONS,
  EXEC_OPTIONS,
  type CopyPaths,
  keepSlash,
  readProgramOptions,
  takeOptions,
  vsockSocketOf,
} from './guest-options.js';
import { attachProgram, programExitCode, type ProgramRequest, type ProgramStreams } from './guest-session.js';
import type { Host } from './host.js';

type Environment = Readonly<Record<string, string | undefined>>;

const GUEST_PREFIX = 'guest:';

export interface ExecCommand {
  readonly socket: string;
  readonly program: ProgramRequest;
}

export interface CpCommand {
  readonly socket: string;
  readonly direction: 'in' | 'out';
  readonly paths: CopyPaths;
  readonly quiet: boolean;
}

/** Reads what follows `exec`; throws ConfigError. */
export function parseExec(args: readonly string[], environment: Environment): ExecCommand {
  const dashes = args.indexOf('--');
  const argv = dashes < 0 ? [] : args.slice(dashes + 1);
  const { given, rest } = takeOptions(dashes < 0 ? args : args.slice(0, dashes), EXEC_OPTIONS);
  refuseUnknown(rest, EXEC_OPTIONS);
  if (argv.length === 0 || argv[0] === '' || rest.length > 0) {
    const problem = rest.length > 0 ? `${JSON.stringify(rest[0])} belongs to no option` : 'no program is named';
    const mend = 'Write tsvmm exec --vsock SOCKET [options] -- PROGRAM [argument...].';
    throw mistake('exec', rest.length > 0 ? 'UNEXPECTED_ARGUMENT' : 'MISSING_VALUE', problem, mend);
  }
  return {
    socket: vsockSocketOf(given, environment),
    program: { argv, ...readProgramOptions(given, environment) },
  };
}

/** Reads what follows `cp`; throws ConfigError. */
export function parseCp(args: readonly string[], environment: Environment): CpCommand {
  const { given, rest } = takeOptions(args, CP_OPTIONS);
  refuseUnknown(rest, CP_OPTIONS);
  const [from = '', to = ''] = rest;
  const inGuest = [from, to].filter((path) => path.startsWith(GUEST_PREFIX)).length;
  const mend = `Write tsvmm cp --vsock SOCKET ./file ${GUEST_PREFIX}/path, or ${GUEST_PREFIX}/path ./file.`;
  if (rest.length !== 2 || from === '' || to === '') {
    throw mistake('cp', 'MISSING_VALUE', `there are ${rest.length} paths in place of two`, mend);
  }
  if (inGuest !== 1) {
    const problem = inGuest === 0 ? `neither path begins with ${GUEST_PREFIX}` : 'both paths are of the guest';
    throw mistake('cp', 'CONFLICT', problem, mend);
  }
  const direction = to.startsWith(GUEST_PREFIX) ? 'in' : 'out';
  const [host, guest] = direction === 'in' ? [from, to] : [to, from];
  const path = guest.slice(GUEST_PREFIX.length);
  if (!path.startsWith('/')) throw mistake('cp', 'SYNTAX', `${guest} is not absolute`, mend);
  return {
    socket: vsockSocketOf(given, environment),
    direction,
    paths: { host: keepSlash(host), guest: path },
    quiet: given.some(({ name }) => name === 'quiet'),
  };
}

/** Runs the program and returns the exit status that stands for its end. */
export async function runExec(
  { socket, program }: ExecCommand,
  streams: ProgramStreams,
  host: Host,
  agent: Pick<DistantAgent, 'exec'> = agentAt(socket),
): Promise<number> {
  return attend(host, async (ending, signal) => {
    try {
      return await attachProgram(agent, { ...program, signal }, streams, ending);
    } catch (error) {
      if (!(error instanceof AgentError) || ending.requested) throw error;
      host.say(error.message);
      return programExitCode(error, program);
    }
  });
}

/** Copies, and returns the exit status. */
export async function runCp(
  { socket, direction, paths, quiet }: CpCommand,
  stderr: CopyContext['stderr'],
  host: Host,
  agent: Pick<DistantAgent, 'copyIn' | 'copyOut'> = agentAt(socket),
): Promise<number> {
  return attend(host, async (ending, signal) => {
    const context = { agent, stderr, quiet, signal };
    try {
      await (direction === 'in' ? copyIntoGuest(paths, context) : copyOutOfGuest(paths, context));
      return EXIT_OK;
    } catch (error) {
      if (!(error instanceof AgentError) || ending.requested) throw error;
      host.say(error.message);
      return EXIT_INTERNAL;
    }
  });
}

/** Does the work; a signal that ends it, ends it in order, and gives the exit status. */
async function attend(host: Host, work: (ending: Ending, signal: AbortSignal) => Promise<number>): Promise<number> {
  const abort = new AbortController();
  const ending = new Ending(host);
  ending.setVm({
    stop: () => {
      abort.abort();
      return Promise.resolve();
    },
  });
  try {
    return await work(ending, abort.signal);
  } catch (error) {
    if (ending.requested) return ending.exitCode;
    throw error;
  } finally {
    ending.close();
  }
}

function refuseUnknown(rest: readonly string[], table: readonly { readonly name: string }[]): void {
  const unknown = rest.find((argument) => argument.startsWith('-') && argument !== '-');
  if (unknown === undefined) return;
  throw unknownOption(
    unknown.split('=', 1)[0] ?? unknown,
    table.map(({ name }) => name),
  );
}

function mistake(label: string, code: ConfigError['code'], problem: string, mend: string): ConfigError {
  return new ConfigError({ option: label, label }, { code, problem, mend });
}
