// --help and --version. yargs lays the help out from the same tables that the parser reads; it takes 40 ms to load, so
// nothing else imports this file statically.

import { readFileSync } from 'node:fs';
import yargs from 'yargs';
import { VM_OPTION_GROUPS, VM_OPTIONS } from '../config/vm-options.js';
import { EXIT_CODES, RUN_EXIT_CODES } from './exit-codes.js';
import {
  COMMAND_OPTIONS,
  type CommandOption,
  CP,
  CTL,
  EXEC,
  RUN,
  type Subcommand,
  SUBCOMMANDS,
  TEST,
} from './options.js';

const MAX_WIDTH = 110;

/** The whole help text, laid out for a terminal of `columns`. */
export async function helpText(columns = 80): Promise<string> {
  // English whatever the locale: messages and option help are, and the two are not to be mixed.
  const cli = yargs([]).scriptName('tsvmm').help(false).version(false).detectLocale(false).locale('en');
  cli.usage('$0 [options]\n$0 COMMAND ...\n\nRuns a microVM. Without --kernel, the guest built into tsvmm runs.');
  for (const { title, options } of VM_OPTION_GROUPS) {
    for (const { name, usage, help, defaultText } of options) {
      const initially = defaultText === undefined ? '' : ` (default: ${defaultText})`;
      cli.option(name, { group: `${title}:`, describe: describe(`${usage}${initially}`, help) });
    }
  }
  for (const { name, alias, usage, help } of COMMAND_OPTIONS) {
    cli.option(name, { group: 'General:', describe: describe(usage, help), ...(alias === undefined ? {} : { alias }) });
  }
  const width = Math.min(columns, MAX_WIDTH);
  cli.wrap(width);
  return `${await cli.getHelp()}\n\n${commandsText(width)}\n\n${keysText(width)}\n\n${REST}\n\n${exitCodesText()}\n`;
}

/** The name and version of the package that this file belongs to. */
export function versionText(): string {
  const manifest = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
    readonly name: string;
    readonly version: string;
  };
  return `${manifest.name} ${manifest.version}\n`;
}

function describe(usage: string, help: string): string {
  return usage === '' ? help : `${usage}\n${help}`;
}

function commandsText(columns: number): string {
  const all: Readonly<Record<string, Subcommand>> = {
    run: RUN,
    exec: EXEC,
    cp: CP,
    ...SUBCOMMANDS,
    ctl: CTL,
    test: TEST,
  };
  const commands = Object.entries(all).flatMap(([name, { args, help, options = [] }]) => [
    `  ${[name, ...args].join(' ')}`,
    ...wrap(help, columns - 6).map((line) => `      ${line}`),
    ...options.flatMap((option) => keyLines(optionUsage(option), wrap(option.help, columns - KEY_WIDTH - 6))),
  ]);
  return ['Commands:', ...commands].join('\n');
}

function optionUsage({ name, usage }: CommandOption): string {
  return usage === '' ? `--${name}` : `--${name} ${usage}`;
}

/** The width of the column of keys; the help of a longer one goes below it. */
const KEY_WIDTH = 26;

function keysText(columns: number): string {
  const keyed = [...VM_OPTIONS, ...COMMAND_OPTIONS].filter(({ keys = [] }) => keys.length > 0);
  const lines = keyed.flatMap(({ name, keys = [] }) => [
    '',
    `  --${name}`,
    ...keys.flatMap(({ usage, help }) => keyLines(usage, wrap(help, columns - KEY_WIDTH - 6))),
  ]);
  return ['Keys (separated by commas; a value with a comma goes in double quotes):', ...lines].join('\n');
}

function keyLines(usage: string, help: readonly string[]): string[] {
  const indent = ' '.repeat(KEY_WIDTH + 6);
  if (usage.length > KEY_WIDTH) return [`    ${usage}`, ...help.map((line) => `${indent}${line}`)];
  const [first = '', ...rest] = help;
  return [`    ${usage.padEnd(KEY_WIDTH)}  ${first}`, ...rest.map((line) => `${indent}${line}`)];
}

/** `text` in lines of at most `width`, but for words that are longer. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

function exitCodesText(): string {
  return [
    'Exit status:',
    ...[...EXIT_CODES, ...RUN_EXIT_CODES].map(([code, meaning]) => `  ${String(code).padStart(3)}  ${meaning}`),
  ].join('\n');
}

const REST = `In the terminal:
  Ctrl-A x  ends the VM        Ctrl-A h  prints these keys
  Ctrl-A a  types a Ctrl-A     Ctrl-C    interrupts the built-in guest;
                                         other guests get it typed

Examples:
  tsvmm --vsock cid=3,socket=/tmp/ch.vsock
  tsvmm --config vm.yaml --memory size=2G
  tsvmm --kernel vmlinux --initramfs initramfs.cpio --cmdline 'console=ttyS0' --memory size=1G`;
