// The command line: the VM's options from the config table, and those of the command itself. Parsed by yargs-parser,
// the part of yargs that reads arguments; yargs proper costs 40 ms to load, and is loaded for --help only (help.ts).

import parser from 'yargs-parser';
import { ConfigError } from '../config/config-error.js';
import type { OptionTexts } from '../config/parse-options.js';
import type { KeyHelp } from '../config/option-spec.js';
import { unknownOption } from '../config/unknown-option.js';
import { VM_OPTIONS } from '../config/vm-options.js';
import { type ApiSocket, parseApiSocket } from './api-socket.js';
import { DOCTOR_OPTIONS } from './doctor.js';
import { CP_OPTIONS, EXEC_OPTIONS, RUN_OPTIONS } from './guest-options.js';
import { IMAGE_OPTIONS } from './image-options.js';
import { type EventTarget, parseEventTarget } from './event-target.js';
import { DEFAULT_LEVELS, type LogLevels, parseLogLevels } from './log-levels.js';
import { LOG_FORMATS, type LogFormat } from './logging.js';
import { readRestore, RESTORE, type RestoreRequest } from './restore.js';

/** How a command option is given: with a value, once, or any number of times for more of it. */
type CommandOptionKind = 'value' | 'flag' | 'count';

export interface CommandOption {
  readonly name: string;
  readonly alias?: string;
  readonly kind: CommandOptionKind;
  readonly usage: string;
  readonly help: string;
  readonly keys?: readonly KeyHelp[];
  /** Cloud Hypervisor's keys that do not exist here, each with the reason. */
  readonly notSupported?: Readonly<Record<string, string>>;
}

/** The options that are not about the VM. */
export const COMMAND_OPTIONS: readonly CommandOption[] = [
  {
    name: 'config',
    kind: 'value',
    usage: 'FILE',
    help: 'Read the configuration from a JSON or YAML file; options override what is in it',
  },
  {
    name: 'api-socket',
    kind: 'value',
    usage: 'path=PATH',
    help: 'Serve the HTTP API at this Unix socket (fd=N: at one that is handed over); without a VM, wait there for one',
  },
  {
    name: RESTORE.name,
    kind: 'value',
    usage: RESTORE.usage,
    help: RESTORE.help,
    keys: RESTORE.keys,
    notSupported: RESTORE.notSupported,
  },
  {
    name: 'no-shutdown',
    kind: 'flag',
    usage: '',
    help: 'With --api-socket: go on without a VM when the guest ends, until vmm.shutdown or a signal',
  },
  {
    name: 'shutdown-timeout',
    kind: 'value',
    usage: 'SECONDS',
    help: 'Time that a signal gives the guest to shut down after its power button was pressed (0: stopped at once)',
  },
  {
    name: 'event-monitor',
    kind: 'value',
    usage: 'path=FILE|fd=N',
    help: 'Write what happens to the VM there as JSON, an event a line; vsock connections too where the log shows details',
  },
  {
    name: 'log-file',
    kind: 'value',
    usage: 'PATH',
    help: 'Append the log to this file instead of writing it to stderr; SIGUSR1 opens it again',
  },
  {
    name: 'log-level',
    kind: 'value',
    usage: 'LEVEL,NAME=LEVEL',
    help: 'What is logged, of all and of single components: error, warn (as without -v), info, debug or silly',
  },
  { name: 'log-format', kind: 'value', usage: 'text|json', help: 'Lines of text, or a JSON object a line (text)' },
  { name: 'v', kind: 'count', usage: '', help: 'Log more: -v what happens, -vv details, -vvv everything' },
  { name: 'version', alias: 'V', kind: 'flag', usage: '', help: 'Print the version' },
  { name: 'help', alias: 'h', kind: 'flag', usage: '', help: 'Print this help' },
];

const SEVERAL_VALUES = new Set(VM_OPTIONS.filter(({ repeatable }) => repeatable).map(({ name }) => `--${name}`));

/** What the command is asked to do. */
export type Command =
  | { readonly action: 'help' | 'version' }
  /** Its arguments are for src/cli/ctl to read. */
  | { readonly action: 'ctl'; readonly args: readonly string[] }
  /** Boot tests, which have a command line of their own (test-options.ts). */
  | { readonly action: 'test'; readonly args: readonly string[] }
  /** A program in a guest: options of the VM, `--`, then the program (guest-program.ts). */
  | { readonly action: 'program'; readonly args: readonly string[] }
  /** A program or a copy in a guest that runs already (guest-commands.ts). */
  | { readonly action: 'exec' | 'cp'; readonly args: readonly string[] }
  | { readonly action: 'subcommand'; readonly name: SubcommandName; readonly args: readonly string[] }
  | {
      readonly action: 'run';
      /** The VM's options, not read any further. */
      readonly options: OptionTexts;
      readonly configFile: string | undefined;
      /** Where the API is served, if it is. */
      readonly apiSocket: ApiSocket | undefined;
      /** Whether anything is said about a VM; else there is none to run, but the built-in one. */
      readonly hasVm: boolean;
      /** A saved VM to go on with instead of a new one. */
      readonly restore: RestoreRequest | undefined;
      /** Whether the API goes on when the VM has ended. */
      readonly noShutdown: boolean;
      /** What a signal gives the guest to shut down. */
      readonly graceMs: number;
      readonly eventMonitor: EventTarget | undefined;
      readonly verbosity: number;
      readonly logFile: string | undefined;
      readonly logLevels: LogLevels;
      readonly logFormat: LogFormat;
    };

export interface Subcommand {
  /** What follows the name, each one argument. */
  readonly args: readonly string[];
  readonly help: string;
  /** Options of its own, which it reads itself (subcommand-options.ts); then there are no `args`. */
  readonly options?: readonly CommandOption[];
}

/** What the command does besides running a VM: its first argument is `ctl` or a name of these. */
export const SUBCOMMANDS = {
  'convert-config': {
    args: ['FILE'],
    help: "Print Firecracker's configuration in FILE (its --config-file) as a configuration for --config",
  },
  'config-schema': { args: [], help: 'Print the JSON Schema of configuration files' },
  doctor: {
    args: [],
    help: 'Check what this host can do, KVM first, by doing it; say how to mend what it cannot. Exit status 3: no VM can run',
    options: DOCTOR_OPTIONS,
  },
  image: {
    args: [],
    help: 'Build an initramfs or an ext4 root without root: of folders, programs, container images, one over the other',
    options: IMAGE_OPTIONS,
  },
} as const satisfies Readonly<Record<string, Subcommand>>;

/** `tsvmm ctl` as help shows it. */
export const CTL: Subcommand = {
  args: ['COMMAND', '...'],
  help: 'Control a running VM through its API socket; tsvmm ctl --help lists the commands',
};

/** `tsvmm test` as help shows it. */
export const TEST: Subcommand = {
  args: ['[options]', 'SPEC...'],
  help: 'Run the boot tests that the specs describe; tsvmm test --help lists the options',
};

/** `tsvmm run` as help shows it. */
export const RUN: Subcommand = {
  args: ['[options]', '--', 'PROGRAM', '...'],
  help: 'Boot a Linux guest, run a program in it with stdin and stdout here, and exit as it does; beside the options of a VM:',
  options: RUN_OPTIONS,
};

/** `tsvmm exec` as help shows it. */
export const EXEC: Subcommand = {
  args: ['[options]', '--', 'PROGRAM', '...'],
  help: "Run a program in a guest that runs already and has tsvmm's agent, with stdin and stdout here, and exit as it does",
  options: EXEC_OPTIONS,
};

/** `tsvmm cp` as help shows it. */
export const CP: Subcommand = {
  args: ['[options]', 'FROM', 'TO'],
  help: 'Copy files and folders to and from a guest that runs already; its paths are written guest:/path',
  options: CP_OPTIONS,
};

export type SubcommandName = keyof typeof SUBCOMMANDS;

const VM_FLAGS: readonly string[] = VM_OPTIONS.filter(({ takesValue }) => !takesValue).map(({ name }) => name);
const VALUED: readonly string[] = [
  ...VM_OPTIONS.filter(({ takesValue }) => takesValue).map(({ name }) => name),
  ...COMMAND_OPTIONS.filter(({ kind }) => kind === 'value').map(({ name }) => name),
];
/** All names, for suggesting one; without the aliases, which are too short to be what was meant. */
const KNOWN: readonly string[] = [...new Set([...VALUED, ...VM_FLAGS, ...COMMAND_OPTIONS.map(({ name }) => name)])];
const NAMES: readonly string[] = [
  ...KNOWN,
  ...COMMAND_OPTIONS.flatMap(({ alias }) => (alias === undefined ? [] : [alias])),
];

/**
 * Reads the command line (without node and script); throws ConfigError. `others` are names of options that were taken out
 * of it before, and may have been meant.
 */
export function parseCommandLine(args: readonly string[], others: readonly string[] = []): Command {
  if (args.at(0) === 'ctl') return { action: 'ctl', args: args.slice(1) };
  if (args.at(0) === 'test') return { action: 'test', args: args.slice(1) };
  if (args.at(0) === 'run') return { action: 'program', args: args.slice(1) };
  if (args.at(0) === 'exec') return { action: 'exec', args: args.slice(1) };
  if (args.at(0) === 'cp') return { action: 'cp', args: args.slice(1) };
  const { argv, error } = parser.detailed(oneValueEach(args), {
    string: [...VALUED],
    narg: Object.fromEntries(VALUED.map((name) => [name, 1])),
    boolean: [...namesOf('flag'), ...VM_FLAGS],
    count: namesOf('count'),
    alias: Object.fromEntries(
      COMMAND_OPTIONS.flatMap(({ name, alias }) => (alias === undefined ? [] : [[name, [alias]]])),
    ),
    configuration: {
      // Nothing is to be guessed: values are text for the option table, and what is unknown is to be named as given.
      'boolean-negation': false,
      'camel-case-expansion': false,
      'dot-notation': false,
      'duplicate-arguments-array': true,
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'unknown-options-as-args': true,
    },
  });
  // Asking for help is how one finds out what was wrong with the rest.
  if (argv['help'] !== undefined) return { action: 'help' };
  if (argv['version'] !== undefined) return { action: 'version' };
  const subcommand = parseSubcommand(args);
  if (subcommand !== undefined) return subcommand;
  refuseMissingValue(error);
  refuseStrayArguments(argv._, [...KNOWN, ...others]);
  // yargs-parser takes some spellings of a known name (--no-help, --help-) for an option of their own.
  const other = Object.keys(argv).find((name) => name !== '_' && !NAMES.includes(name));
  if (other !== undefined) throw unknownOption(`--${other}`, KNOWN);

  const texts = textsOf(argv);
  const configFile = onlyPath(texts, 'config');
  const logFile = onlyPath(texts, 'log-file');
  const socketText = onlyValue(texts, 'api-socket');
  const apiSocket = socketText === undefined ? undefined : parseApiSocket(socketText);
  const restoreText = onlyValue(texts, 'restore');
  const restore = restoreText === undefined ? undefined : readRestore(restoreText);
  if (restore !== undefined && configFile !== undefined) {
    throw mistake('--restore', 'CONFLICT', 'a saved VM has its configuration with it', 'Leave --config out.');
  }
  const hasVm = configFile !== undefined || restore !== undefined || VM_OPTIONS.some(({ name }) => texts.has(name));
  const verbosity = typeof argv['v'] === 'number' ? argv['v'] : 0;
  const eventText = onlyValue(texts, 'event-monitor');
  const eventMonitor = eventText === undefined ? undefined : parseEventTarget(eventText);
  const levels = onlyValue(texts, 'log-level');
  const logLevels = levels === undefined ? DEFAULT_LEVELS : parseLogLevels(levels);
  const logFormat = logFormatOf(onlyValue(texts, 'log-format'));
  const graceMs = graceOf(onlyValue(texts, 'shutdown-timeout'));
  const noShutdown = argv['no-shutdown'] !== undefined;
  if (noShutdown && apiSocket === undefined) {
    const mend = 'Add --api-socket, where the next VM is asked for, or leave it out.';
    throw mistake('--no-shutdown', 'CONFLICT', 'without the API, what goes on has no use', mend);
  }
  return {
    action: 'run',
    options: texts,
    configFile,
    restore,
    apiSocket,
    hasVm,
    noShutdown,
    graceMs,
    eventMonitor,
    verbosity,
    logFile,
    logLevels,
    logFormat,
  };
}

function logFormatOf(text = 'text'): LogFormat {
  const format = LOG_FORMATS.find((each) => each === text);
  if (format !== undefined) return format;
  throw mistake(
    '--log-format',
    'WRONG_TYPE',
    `there is no ${JSON.stringify(text)}`,
    `Use ${LOG_FORMATS.join(' or ')}.`,
  );
}

/** A day; whoever wants to wait longer wants no limit. */
const MAX_SHUTDOWN_SECONDS = 86_400;

function graceOf(text = '0'): number {
  const seconds = /^[0-9]+$/.test(text) ? Number(text) : Number.NaN;
  if (seconds <= MAX_SHUTDOWN_SECONDS) return seconds * 1000;
  const problem = `${JSON.stringify(text)} is not a number of seconds`;
  throw mistake('--shutdown-timeout', 'OUT_OF_RANGE', problem, `Use a whole number from 0 to ${MAX_SHUTDOWN_SECONDS}.`);
}

function parseSubcommand(all: readonly string[]): Command | undefined {
  const name = all.at(0);
  if (name === undefined || !isSubcommand(name)) return undefined;
  const args = all.slice(1);
  const { options }: Subcommand = SUBCOMMANDS[name];
  if (options !== undefined) return { action: 'subcommand', name, args };
  const wanted: readonly string[] = SUBCOMMANDS[name].args;
  if (args.length === wanted.length && !args.some((argument) => argument.startsWith('--'))) {
    return { action: 'subcommand', name, args };
  }
  const [code, problem] =
    args.length < wanted.length
      ? (['MISSING_VALUE', 'an argument is missing'] as const)
      : (['UNEXPECTED_ARGUMENT', `${JSON.stringify(args[wanted.length] ?? args[0])} is too much`] as const);
  throw mistake(name, code, problem, `Write tsvmm ${[name, ...wanted].join(' ')}.`);
}

function isSubcommand(name: string): name is SubcommandName {
  return Object.hasOwn(SUBCOMMANDS, name);
}

/** The value of an option that is given once at most and names a file. */
function onlyPath(texts: OptionTexts, name: string): string | undefined {
  const value = onlyValue(texts, name);
  if (value === '') throw mistake(`--${name}`, 'MISSING_VALUE', 'the path is empty', 'Name a file.');
  return value;
}

/** The value of an option that is given once at most. */
function onlyValue(texts: OptionTexts, name: string): string | undefined {
  const values = texts.get(name) ?? [];
  if (values.length > 1) throw mistake(`--${name}`, 'DUPLICATE', `given ${values.length} times`, 'Give it once.');
  return values.at(0);
}

/**
 * `--disk a b` as `--disk a --disk b`: as in Cloud Hypervisor, an option for one of several devices takes every value up
 * to the next option.
 */
function oneValueEach(args: readonly string[]): string[] {
  const result: string[] = [];
  let repeated: string | undefined;
  args.forEach((argument, index) => {
    if (argument.startsWith('-')) repeated = SEVERAL_VALUES.has(argument) ? argument : undefined;
    else if (repeated !== undefined && args[index - 1] !== repeated) result.push(repeated);
    result.push(argument);
  });
  return result;
}

function namesOf(kind: CommandOptionKind): string[] {
  return COMMAND_OPTIONS.filter((option) => option.kind === kind).map(({ name }) => name);
}

function textsOf(argv: Readonly<Record<string, unknown>>): OptionTexts {
  const texts = new Map<string, readonly string[]>();
  for (const name of VALUED) {
    const value = argv[name];
    if (value !== undefined) texts.set(name, (Array.isArray(value) ? value : [value]).map(String));
  }
  for (const name of VM_FLAGS) {
    // A flag that is not given is absent; what came behind a "=" is there in its place.
    const value = argv[name];
    if (value === undefined) continue;
    const given: unknown[] = Array.isArray(value) ? value : [value];
    if (given.some((each) => each !== true)) {
      throw mistake(`--${name}`, 'SYNTAX', 'takes no value', `Write --${name}, or leave it out.`);
    }
    texts.set(
      name,
      given.map(() => ''),
    );
  }
  return texts;
}

function refuseMissingValue(error: Error | null): void {
  if (error === null) return;
  const name = /following: (\S+)$/.exec(error.message)?.[1];
  if (name === undefined) throw error;
  const usage =
    VM_OPTIONS.find((option) => option.name === name)?.usage ??
    COMMAND_OPTIONS.find((option) => option.name === name)?.usage ??
    'VALUE';
  const mend = `Write --${name} ${usage}, or --${name}=... if the value begins with a dash.`;
  throw mistake(`--${name}`, 'MISSING_VALUE', 'no value given', mend);
}

function refuseStrayArguments(rest: readonly (string | number)[], known: readonly string[]): void {
  const stray = rest.at(0);
  if (stray === undefined) return;
  const text = String(stray);
  if (text.startsWith('-') && text !== '-') throw unknownOption(text.split('=', 1)[0] ?? text, known);
  throw mistake(
    JSON.stringify(text),
    'UNEXPECTED_ARGUMENT',
    'belongs to no option',
    'Every value follows an option; put one that has spaces in quotes.',
  );
}

function mistake(label: string, code: ConfigError['code'], problem: string, mend: string): ConfigError {
  return new ConfigError({ option: label, label }, { code, problem, mend });
}
