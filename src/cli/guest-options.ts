// The options of `tsvmm run`, `tsvmm exec` and `tsvmm cp` that are not the VM's: for parsing and help, and what they say.
// Main thread.

import { resolve } from 'node:path';
import { ConfigError } from '../config/config-error.js';
import type { ImageSource } from '../image/build.js';
import type { CommandOption } from './options.js';
import { type GivenOption, onlyValue, readSubcommandOptions } from './subcommand-options.js';

const VSOCK: CommandOption = {
  name: 'vsock',
  kind: 'value',
  usage: 'SOCKET',
  help: "Path of the running monitor's vsock socket (or the environment variable TSVMM_VSOCK)",
};
const QUIET: CommandOption = { name: 'quiet', kind: 'flag', usage: '', help: 'Do not show how far copies are' };

const PROGRAM_OPTIONS: readonly CommandOption[] = [
  {
    name: 'env',
    kind: 'value',
    usage: 'NAME[=VALUE]',
    help: 'A variable for the program; NAME alone takes its value from here. Any number of times',
  },
  { name: 'cwd', kind: 'value', usage: 'DIR', help: 'Folder of the guest to run it in' },
  {
    name: 'user',
    kind: 'value',
    usage: 'USER[:GROUP]',
    help: "Who it runs as, by name or number, as the guest's /etc/passwd and /etc/group say (root)",
  },
  { name: 'timeout', kind: 'value', usage: 'SECONDS', help: 'Kill it after this time; the exit status is 124 then' },
];

export const RUN_OPTIONS: readonly CommandOption[] = [
  {
    name: 'init',
    kind: 'value',
    usage: 'agent|guest',
    help: "Whether tsvmm's agent is the init, in any root (agent), or the guest has one, which starts the agent (guest)",
  },
  { name: 'program', kind: 'value', usage: 'NAME|PATH', help: 'Put this program of the host into the root' },
  { name: 'folder', kind: 'value', usage: 'DIR', help: 'Put what is in this folder into the root' },
  {
    name: 'docker-archive',
    kind: 'value',
    usage: 'FILE',
    help: 'Put the container image of docker save into the root, and run it as it says',
  },
  { name: 'oci-layout', kind: 'value', usage: 'DIR', help: 'The same with a container image of an OCI layout' },
  { name: 'image', kind: 'value', usage: 'NAME', help: 'Which container image, where there are several' },
  {
    name: 'modules',
    kind: 'value',
    usage: 'DIR|none',
    help: "Kernel modules for the agent to load: /lib/modules/VERSION, or a root with that (the kernel's, where this host has them)",
  },
  { name: 'module', kind: 'value', usage: 'NAME', help: 'One more of those modules; any number of times' },
  { name: 'entrypoint', kind: 'value', usage: 'PROGRAM', help: "In place of the container image's own" },
  ...PROGRAM_OPTIONS,
  {
    name: 'boot-timeout',
    kind: 'value',
    usage: 'SECONDS',
    help: 'How long the guest may take until its agent answers (60)',
  },
  {
    name: 'copy-in',
    kind: 'value',
    usage: 'HOST:GUEST',
    help: 'Copy a file or folder into the guest before the program runs. Any number of times',
  },
  {
    name: 'copy-out',
    kind: 'value',
    usage: 'GUEST:HOST',
    help: 'Copy a file or folder out of the guest after the program, also when that failed. Any number of times',
  },
  QUIET,
];
export const EXEC_OPTIONS: readonly CommandOption[] = [VSOCK, ...PROGRAM_OPTIONS];
export const CP_OPTIONS: readonly CommandOption[] = [VSOCK, QUIET];

const DEFAULT_BOOT_SECONDS = '60';
/** As long as Node's timers go. */
const MAX_SECONDS = 2_000_000;

/** How a program is to be run. */
export interface ProgramOptions {
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string | undefined;
  readonly user: string | undefined;
  /** Milliseconds. */
  readonly timeout: number | undefined;
}

/** A copy's source and final name, before it is known whether the name is of a folder to copy into. */
export interface CopyPaths {
  readonly host: string;
  readonly guest: string;
}

export interface RunOptions {
  readonly init: 'agent' | 'guest';
  readonly sources: readonly ImageSource[];
  readonly modules: ModuleOptions;
  readonly entrypoint: string | undefined;
  readonly program: ProgramOptions;
  /** Milliseconds. */
  readonly bootTimeout: number;
  readonly copyIn: readonly CopyPaths[];
  readonly copyOut: readonly CopyPaths[];
  readonly quiet: boolean;
}

/** Which kernel modules go into the root. */
export interface ModuleOptions {
  /** Where they are, or `none`; undefined for where this host has those of the kernel, if it has any. */
  readonly path: string | undefined;
  /** More of them, by name. */
  readonly names: readonly string[];
}

export const NO_MODULES = 'none';

type Environment = Readonly<Record<string, string | undefined>>;

/** Takes the options of `table` out of `args`; the rest, in its order, is for others. Throws ConfigError. */
export function takeOptions(
  args: readonly string[],
  table: readonly CommandOption[],
): { readonly given: readonly GivenOption[]; readonly rest: readonly string[] } {
  const rest: string[] = [];
  const ours: string[] = [];
  for (let index = 0; index < args.length; index++) {
    const argument = args[index] ?? '';
    const name = /^--([^=]+)/.exec(argument)?.[1];
    const option = table.find((each) => each.name === name);
    if (option === undefined) {
      rest.push(argument);
      continue;
    }
    if (
      option.kind === 'value' &&
      !argument.includes('=') &&
      index + 1 < args.length &&
      !args[index + 1].startsWith('--')
    ) {
      index++;
      ours.push(`${argument}=${args[index] ?? ''}`);
    } else ours.push(argument);
  }
  return { given: readSubcommandOptions(ours, table), rest };
}

/** What the options of `tsvmm run` say; throws ConfigError. */
export function readRunOptions(given: readonly GivenOption[], environment: Environment): RunOptions {
  const init = onlyValue(given, 'init') ?? 'agent';
  if (init !== 'agent' && init !== 'guest') {
    throw mistake('--init', 'WRONG_TYPE', `${JSON.stringify(init)} is neither`, 'Use agent or guest.');
  }
  const sources = sourcesOf(given);
  const entrypoint = onlyValue(given, 'entrypoint');
  if (entrypoint !== undefined && !sources.some(isContainer)) {
    const mend = 'Write the program and its arguments behind --.';
    throw mistake('--entrypoint', 'CONFLICT', 'there is no container image whose entrypoint it could be', mend);
  }
  return {
    init,
    sources,
    modules: modulesOf(given),
    entrypoint,
    program: readProgramOptions(given, environment),
    bootTimeout: secondsOf('--boot-timeout', onlyValue(given, 'boot-timeout') ?? DEFAULT_BOOT_SECONDS),
    copyIn: valuesOf(given, 'copy-in').map((text) => copyPaths('--copy-in', text)),
    copyOut: valuesOf(given, 'copy-out').map((text) => copyPaths('--copy-out', text)),
    quiet: given.some(({ name }) => name === 'quiet'),
  };
}

/** What the options about a program say; throws ConfigError. */
export function readProgramOptions(given: readonly GivenOption[], environment: Environment): ProgramOptions {
  const timeout = onlyValue(given, 'timeout');
  const cwd = onlyValue(given, 'cwd');
  if (cwd?.startsWith('/') === false) {
    throw mistake('--cwd', 'WRONG_TYPE', `${cwd} is not absolute`, 'Begin it with a slash.');
  }
  return {
    env: Object.fromEntries(valuesOf(given, 'env').flatMap((text) => variableOf(text, environment))),
    cwd,
    user: onlyValue(given, 'user'),
    timeout: timeout === undefined ? undefined : secondsOf('--timeout', timeout),
  };
}

/** The socket that `--vsock` or the environment names; throws ConfigError. */
export function vsockSocketOf(given: readonly GivenOption[], environment: Environment): string {
  const path = onlyValue(given, 'vsock') ?? environment['TSVMM_VSOCK'];
  const inKeys = /(?:^|,)socket=([^,]+)/.exec(path ?? '')?.[1];
  if (inKeys !== undefined) {
    throw mistake('--vsock', 'SYNTAX', 'the VM is running already', `Name its socket alone: --vsock ${inKeys}.`);
  }
  if (path !== undefined && path !== '') return path;
  const mend = 'Write --vsock SOCKET, the path that the monitor was given by socket=, or set TSVMM_VSOCK.';
  throw mistake('--vsock', 'MISSING_VALUE', 'not given', mend);
}

export function isContainer({ kind }: ImageSource): boolean {
  return kind === 'docker-archive' || kind === 'oci-layout';
}

function sourcesOf(given: readonly GivenOption[]): ImageSource[] {
  const image = onlyValue(given, 'image');
  const sources = given.flatMap(({ name, value }): ImageSource[] => {
    if (name === 'folder' || name === 'program') return [{ kind: name, path: value }];
    if (name === 'docker-archive' || name === 'oci-layout') return [{ kind: name, path: value, image }];
    return [];
  });
  const containers = sources.filter(isContainer).length;
  if (image !== undefined && containers !== 1) {
    const mend = 'Give it with one --docker-archive or --oci-layout.';
    throw mistake('--image', 'CONFLICT', `there are ${containers} places to look for ${image}`, mend);
  }
  return sources;
}

function modulesOf(given: readonly GivenOption[]): ModuleOptions {
  const path = onlyValue(given, 'modules');
  const names = valuesOf(given, 'module');
  if (path !== NO_MODULES || names.length === 0) return { path, names };
  throw mistake('--module', 'CONFLICT', 'there are to be no modules', `Leave it out, or --modules ${NO_MODULES}.`);
}

function variableOf(text: string, environment: Environment): [string, string][] {
  const equals = text.indexOf('=');
  const name = equals < 0 ? text : text.slice(0, equals);
  if (name === '') throw mistake('--env', 'SYNTAX', `${JSON.stringify(text)} has no name`, 'Write NAME=VALUE or NAME.');
  const value = equals < 0 ? environment[name] : text.slice(equals + 1);
  // One that is not set here is not set there.
  return value === undefined ? [] : [[name, value]];
}

function secondsOf(option: string, text: string): number {
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (seconds > 0 && seconds <= MAX_SECONDS) return Math.ceil(seconds * 1000);
  const problem = `${JSON.stringify(text)} is not a number of seconds`;
  throw mistake(option, 'OUT_OF_RANGE', problem, `Use a number above 0 and up to ${MAX_SECONDS}.`);
}

/** `HOST:GUEST` is cut before the guest's first slash, `GUEST:HOST` at its first colon: paths of the host may have colons. */
function copyPaths(option: '--copy-in' | '--copy-out', text: string): CopyPaths {
  const into = option === '--copy-in';
  const cut = into ? text.lastIndexOf(':/') : text.indexOf(':');
  const first = text.slice(0, Math.max(cut, 0));
  const second = text.slice(cut + 1);
  const [host, guest] = into ? [first, second] : [second, first];
  if (cut > 0 && host !== '' && guest.startsWith('/')) return { host: keepSlash(host), guest };
  const mend = into ? 'Write ./file:/path/in/the/guest.' : 'Write /path/in/the/guest:./file.';
  throw mistake(option, 'SYNTAX', `${JSON.stringify(text)} does not name a path of each side`, mend);
}

/** An absolute path, which ends with a slash if `path` does. */
export function keepSlash(path: string): string {
  const whole = resolve(path);
  return path.endsWith('/') && whole !== '/' ? `${whole}/` : whole;
}

function valuesOf(given: readonly GivenOption[], name: string): string[] {
  return given.filter((option) => option.name === name).map(({ value }) => value);
}

function mistake(label: string, code: ConfigError['code'], problem: string, mend: string): ConfigError {
  return new ConfigError({ option: label, label }, { code, problem, mend });
}
