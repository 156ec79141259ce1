// The commands of `tsvmm ctl`: the one table behind what it does, its help and docs/api.md.

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parse as parseYaml } from 'yaml';
import { ConfigError } from '../../config/config-error.js';
import { errorCode } from '../../config/error-code.js';
import { quoted } from '../../config/option-grammar.js';
import { byteSize, ValueError } from '../../config/values.js';
import type { ApiClient } from './client.js';
import { attachConsole, connectVsock, type Streams } from './streams.js';
import { countersTable, infoTable, pingTable } from './table.js';

/** The options that commands may have. */
export interface CtlOptions {
  readonly balloon?: string | undefined;
  readonly resume?: boolean | undefined;
  readonly diff?: boolean | undefined;
  readonly overrides?: string | undefined;
}

export interface CtlCommand {
  /** One or two words. */
  readonly name: string;
  /** What follows them, each one argument. */
  readonly args: readonly string[];
  readonly options: readonly (keyof CtlOptions)[];
  readonly help: string;
  /** Returns the API's answer, if there is one. Rejects with CtlError or ConfigError. */
  readonly run: (client: ApiClient, call: CtlCall) => Promise<unknown>;
  /** The answer for people. */
  readonly show?: (answer: unknown) => string;
}

export interface CtlCall {
  readonly args: readonly string[];
  readonly options: CtlOptions;
  readonly streams: Streams;
}

function command(name: string, help: string, run: CtlCommand['run'], more: Partial<CtlCommand> = {}): CtlCommand {
  return { name, args: [], options: [], help, run, ...more };
}

/** A request that takes no body. */
function order(name: string, endpoint: string, help: string): CtlCommand {
  return command(name, help, (client) => client.put(endpoint));
}

export const CTL_COMMANDS: readonly CtlCommand[] = [
  command('ping', 'Say whether the monitor answers, and which it is', (client) => client.get('vmm.ping'), {
    show: pingTable,
  }),
  command('info', 'Show state and configuration of the VM', (client) => client.get('vm.info'), { show: infoTable }),
  command('counters', 'Show what its devices have counted', (client) => client.get('vm.counters'), {
    show: countersTable,
  }),
  command(
    'create',
    'Give the monitor the configuration in FILE (JSON or YAML, - for standard input)',
    (client, { args }) => client.put('vm.create', readConfig(args[0])),
    { args: ['FILE'] },
  ),
  order('boot', 'vm.boot', 'Boot the VM that was created'),
  order('pause', 'vm.pause', 'Hold the guest'),
  order('resume', 'vm.resume', 'Let a paused guest go on'),
  order('reboot', 'vm.reboot', 'Reset the machine'),
  order('shutdown', 'vm.shutdown', 'End the VM as pulling the plug does; the monitor stays'),
  order('power-button', 'vm.power-button', 'Press the power button: most guests shut down'),
  order('nmi', 'vm.nmi', 'Interrupt every vCPU with an NMI'),
  order('delete', 'vm.delete', 'Make the monitor forget the VM, after shutting it down'),
  order('shutdown-vmm', 'vmm.shutdown', 'End the VM and the monitor'),
  command(
    'snapshot',
    'Save the paused VM into the folder DIR; with --diff only what has changed since it was restored',
    (client, { args, options }) =>
      client.put('vm.snapshot', {
        destination_url: fileUrl(args[0]),
        ...(options.diff === true ? { diff: true } : {}),
      }),
    { args: ['DIR'], options: ['diff'] },
  ),
  command(
    'restore',
    'Bring the VM in DIR back, paused unless --resume; --overrides JSON goes over its configuration',
    (client, { args, options }) =>
      client.put('vm.restore', {
        source_url: fileUrl(args[0]),
        resume: options.resume === true,
        ...(options.overrides === undefined ? {} : { overrides: jsonOption('--overrides', options.overrides) }),
      }),
    { args: ['DIR'], options: ['resume', 'overrides'] },
  ),
  command(
    'coredump',
    'Write the memory and registers of the guest to the new file FILE, an ELF core',
    (client, { args }) => client.put('vm.coredump', { destination_url: fileUrl(args[0]) }),
    { args: ['FILE'] },
  ),
  command(
    'resize',
    'Ask the guest to give up --balloon SIZE of memory in all',
    (client, { options }) => client.put('vm.resize', { desired_balloon: sizeOption('--balloon', options.balloon) }),
    { options: ['balloon'] },
  ),
  command(
    'vsock connect',
    'Join standard input and output to port PORT of the guest',
    (client, { args, streams }) => connectVsock(client, portOf(args[0]), streams),
    { args: ['PORT'] },
  ),
  command(
    'console',
    'Join the terminal to the console of the VM, if it is at a pty or a socket',
    (client, { streams }) => attachConsole(client, streams),
  ),
];

function fileUrl(path = ''): string {
  return path.startsWith('file:') ? path : pathToFileURL(resolve(path)).href;
}

function readConfig(path = ''): unknown {
  let text: string;
  try {
    text = readFileSync(path === '-' ? 0 : path, 'utf8');
  } catch (error) {
    const problem = `${JSON.stringify(path)} cannot be read (${errorCode(error) ?? String(error)})`;
    throw mistake('create', path, 'UNUSABLE_FILE', problem, 'Name a file that you may read.');
  }
  try {
    // JSON is YAML, too. What the configuration may be is for the monitor to say.
    return parseYaml(text) as unknown;
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error);
    throw mistake('create', path, 'SYNTAX', `${path} is neither JSON nor YAML: ${reason}`, 'Correct it.');
  }
}

function jsonOption(option: string, text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw mistake(
      option,
      text,
      'SYNTAX',
      `${text} is not JSON`,
      `Write ${option} '{"vsock":{"socket":"/tmp/b.vsock"}}'.`,
    );
  }
}

function sizeOption(option: string, text: string | undefined): number {
  if (text === undefined)
    throw mistake(option, text, 'MISSING_KEY', 'missing', `Write ${option} SIZE, for instance 64M.`);
  try {
    return byteSize.parse(quoted(text));
  } catch (error) {
    if (error instanceof ValueError) throw new ConfigError({ option, value: text, label: option }, error.complaint);
    throw error;
  }
}

function portOf(text = ''): number {
  const port = Number(text);
  if (/^[0-9]{1,10}$/.test(text) && port < 2 ** 32 - 1) return port;
  throw mistake('vsock connect', text, 'OUT_OF_RANGE', `${JSON.stringify(text)} is no port`, 'Use 0 to 4294967294.');
}

function mistake(
  option: string,
  value: unknown,
  code: ConfigError['code'],
  problem: string,
  mend: string,
): ConfigError {
  return new ConfigError({ option, value, label: option }, { code, problem, mend });
}
