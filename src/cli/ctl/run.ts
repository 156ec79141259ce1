// `tsvmm ctl`, also installed as tsvmm-remote: controls a running VM through its API socket. Loaded only for that.

import { parseArgs } from 'node:util';
import { ConfigError } from '../../config/config-error.js';
import { parseApiSocket } from '../api-socket.js';
import { ApiClient, CtlError } from './client.js';
import { CTL_COMMANDS, type CtlCommand, type CtlOptions } from './commands.js';
import type { Streams } from './streams.js';

/** What `tsvmm ctl` exits with; docs/api.md has the same. */
export const CTL_EXIT_CODES: readonly (readonly [code: number, meaning: string])[] = [
  [0, 'done'],
  [1, 'the API answered with an error, or the guest with none'],
  [2, 'a mistake on the command line'],
  [3, 'the monitor cannot be reached: no socket, nobody listening, no permission'],
];
const EXIT_REFUSED = 1;
const EXIT_USAGE = 2;
const EXIT_UNREACHABLE = 3;

const SOCKET_VARIABLE = 'TSVMM_API_SOCKET';

export const CTL_OPTIONS = {
  'api-socket': { type: 'string' },
  json: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
  balloon: { type: 'string' },
  resume: { type: 'boolean' },
  diff: { type: 'boolean' },
  overrides: { type: 'string' },
} as const;

/** Runs one command and returns the exit status. */
export async function runCtl(
  args: readonly string[],
  streams: Streams,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<number> {
  try {
    const { values, positionals } = parse(args);
    if (values.help === true) {
      streams.stdout.write(ctlHelp());
      return 0;
    }
    const { balloon, resume, diff, overrides } = values;
    const options: CtlOptions = { balloon, resume, diff, overrides };
    const { command, rest } = commandOf(positionals);
    refuseForeign(command, options);
    const client = new ApiClient(socketPath(values['api-socket'] ?? environment[SOCKET_VARIABLE]));
    const answer = await command.run(client, { args: rest, options, streams });
    if (answer !== undefined)
      streams.stdout.write(values.json === true ? asJson(answer) : (command.show ?? asJson)(answer));
    return 0;
  } catch (error) {
    if (error instanceof CtlError || error instanceof ConfigError) {
      streams.say(error.message);
      if (error instanceof ConfigError) return EXIT_USAGE;
      return error.kind === 'unreachable' ? EXIT_UNREACHABLE : EXIT_REFUSED;
    }
    throw error;
  }
}

function asJson(answer: unknown): string {
  return `${JSON.stringify(answer, undefined, 2)}\n`;
}

export function ctlHelp(): string {
  const commands = CTL_COMMANDS.flatMap((command) => [`  ${usageOf(command)}`, `      ${command.help}`]);
  const codes = CTL_EXIT_CODES.map(([code, meaning]) => `  ${code}  ${meaning}`);
  return `${[
    'tsvmm ctl --api-socket PATH [--json] COMMAND ...',
    '',
    `Controls a VM that runs with --api-socket. ${SOCKET_VARIABLE} stands in for the option.`,
    'Answers are tables; with --json they are as the API gives them.',
    '',
    'Commands:',
    ...commands,
    '',
    'Exit status:',
    ...codes,
  ].join('\n')}\n`;
}

export function usageOf({ name, args, options }: CtlCommand): string {
  const optional = options.map((option) =>
    CTL_OPTIONS[option].type === 'boolean' ? `[--${option}]` : optionUsage(option),
  );
  return [name, ...args, ...optional].join(' ');
}

function optionUsage(option: keyof CtlOptions): string {
  return option === 'balloon' ? '--balloon SIZE' : `[--${option} JSON]`;
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: CTL_OPTIONS, allowPositionals: true, strict: true });
  } catch (error) {
    // Node's first sentence says what is wrong; the rest is advice for programmers.
    const [problem = ''] = error instanceof Error ? error.message.split(/\. |\n/) : [];
    throw usageError(problem);
  }
}

function commandOf(positionals: readonly string[]): { command: CtlCommand; rest: readonly string[] } {
  if (positionals.length === 0) throw usageError('no command given');
  const command = CTL_COMMANDS.find(({ name }) => name.split(' ').every((word, index) => positionals[index] === word));
  if (command === undefined) throw usageError(`there is no command ${JSON.stringify(positionals[0])}`);
  const rest = positionals.slice(command.name.split(' ').length);
  if (rest.length !== command.args.length) {
    throw usageError(
      rest.length < command.args.length ? 'an argument is missing' : 'there are too many arguments',
      command,
    );
  }
  return { command, rest };
}

function refuseForeign(command: CtlCommand, options: CtlOptions): void {
  for (const option of Object.keys(options) as (keyof CtlOptions)[]) {
    if (options[option] !== undefined && !command.options.includes(option)) {
      throw usageError(`--${option} does not go with ${command.name}`, command);
    }
  }
}

function socketPath(text: string | undefined): string {
  if (text === undefined || text === '') {
    throw new ConfigError(
      { option: '--api-socket', label: '--api-socket' },
      { code: 'MISSING_KEY', problem: 'missing', mend: `Name the socket of the VM, or set ${SOCKET_VARIABLE}.` },
    );
  }
  const socket = parseApiSocket(text);
  if ('path' in socket) return socket.path;
  throw usageError('--api-socket of a client is a path');
}

function usageError(problem: string, command?: CtlCommand): ConfigError {
  const mend = command === undefined ? 'tsvmm ctl --help lists what there is.' : `Write tsvmm ctl ${usageOf(command)}.`;
  return new ConfigError({ option: 'ctl', label: 'ctl' }, { code: 'SYNTAX', problem, mend });
}
