// --help and --version. yargs lays the help out from the same tables that the parser reads; it takes 40 ms to load, so
// nothing else imports this file statically.

import { readFileSync } from 'node:fs';
import yargs from 'yargs';
import { VM_OPTIONS } from '../config/vm-options.js';
import { EXIT_CODES } from './exit-codes.js';
import { COMMAND_OPTIONS } from './options.js';

const MAX_WIDTH = 110;

/** The whole help text, laid out for a terminal of `columns`. */
export async function helpText(columns = 80): Promise<string> {
  // English whatever the locale: messages and option help are, and the two are not to be mixed.
  const cli = yargs([]).scriptName('tsvmm').help(false).version(false).detectLocale(false).locale('en');
  cli.usage('$0 [options]\n\nRuns a microVM. Without --kernel, the guest built into tsvmm runs.');
  for (const { name, usage, help, defaultText } of VM_OPTIONS) {
    const initially = defaultText === undefined ? '' : ` (default: ${defaultText})`;
    cli.option(name, { group: 'Virtual machine:', describe: `${usage}${initially}\n${help}`, requiresArg: true });
  }
  for (const { name, alias, usage, help } of COMMAND_OPTIONS) {
    const describe = usage === '' ? help : `${usage}\n${help}`;
    cli.option(name, { group: 'General:', describe, ...(alias === undefined ? {} : { alias }) });
  }
  cli.wrap(Math.min(columns, MAX_WIDTH));
  return `${await cli.getHelp()}\n\n${keysText()}\n\n${REST}\n\n${exitCodesText()}\n`;
}

/** The name and version of the package that this file belongs to. */
export function versionText(): string {
  const manifest = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
    readonly name: string;
    readonly version: string;
  };
  return `${manifest.name} ${manifest.version}\n`;
}

function keysText(): string {
  const keyed = VM_OPTIONS.filter(({ keys }) => keys.length > 0);
  const width = Math.max(...keyed.flatMap(({ keys }) => keys.map(({ usage }) => usage.length)));
  const lines = keyed.flatMap(({ name, keys }) => [
    `  --${name}`,
    ...keys.map(({ usage, help }) => `    ${usage.padEnd(width)}  ${help}`),
  ]);
  return ['Keys (separated by commas; a value with a comma goes in double quotes):', ...lines].join('\n');
}

function exitCodesText(): string {
  return ['Exit status:', ...EXIT_CODES.map(([code, meaning]) => `  ${String(code).padStart(3)}  ${meaning}`)].join(
    '\n',
  );
}

const REST = `In the terminal:
  Ctrl-A x  ends the VM     Ctrl-A h  prints these keys     Ctrl-A a  types a Ctrl-A
  Ctrl-C    interrupts the built-in guest; other guests get it typed

Examples:
  tsvmm --vsock cid=3,socket=/tmp/ch.vsock
  tsvmm --kernel vmlinux --initramfs initramfs.cpio --cmdline 'console=ttyS0' --memory size=1G`;
