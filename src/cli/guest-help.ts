// The help of `tsvmm run`, `tsvmm exec` and `tsvmm cp`.

import { RUN_EXIT_CODES } from './exit-codes.js';
import { CP_OPTIONS, EXEC_OPTIONS, RUN_OPTIONS } from './guest-options.js';
import type { CommandOption } from './options.js';

export type GuestCommandName = 'run' | 'exec' | 'cp';

const PROGRAM_EXITS = [
  ["the program's", 'it ended by itself'],
  ['128 + N', 'signal N ended it, or this command'],
  ...RUN_EXIT_CODES.map(([code, meaning]) => [String(code), meaning.replace(/^run, exec: /, '')]),
];

const TEXTS: Readonly<
  Record<
    GuestCommandName,
    {
      readonly intro: readonly string[];
      readonly options: readonly CommandOption[];
      readonly exits: readonly (readonly string[])[];
    }
  >
> = {
  run: {
    intro: [
      'tsvmm run [options] -- PROGRAM [argument...]',
      '',
      'Boots a Linux guest and runs PROGRAM in it with stdin, stdout and stderr here. --kernel or the environment variable',
      'TSVMM_KERNEL names the kernel. The root is --initramfs, or the first --disk or --pmem, or else it is made of PROGRAM of',
      'this host, sh, and what the options say. The other options of a VM (tsvmm --help) are taken, too.',
    ],
    options: RUN_OPTIONS,
    exits: PROGRAM_EXITS,
  },
  exec: {
    intro: [
      'tsvmm exec --vsock SOCKET [options] -- PROGRAM [argument...]',
      '',
      "Runs PROGRAM in a guest that runs already and has tsvmm's agent.",
    ],
    options: EXEC_OPTIONS,
    exits: PROGRAM_EXITS,
  },
  cp: {
    intro: [
      'tsvmm cp --vsock SOCKET ./file guest:/path',
      'tsvmm cp --vsock SOCKET guest:/path ./file',
      '',
      "Copies files and folders to and from a guest that runs already and has tsvmm's agent. The last name is the copy's own;",
      'a guest path that ends with a slash, and any folder here, is copied into.',
    ],
    options: CP_OPTIONS,
    exits: [
      ['0', 'it was copied'],
      ['1', 'it was not: nothing of it is under the final name'],
      ['2', 'a mistake on the command line'],
      ['128 + N', 'signal N ended this command'],
    ],
  },
};

/** Room for the longest of an option and its value. */
const WIDTH = 28;

export function guestHelp(name: GuestCommandName): string {
  const { intro, options, exits } = TEXTS[name];
  return [
    ...intro,
    '',
    'Options:',
    ...options.map(({ name: option, usage, help }) => `  ${`--${option} ${usage}`.padEnd(WIDTH)}  ${help}`),
    '',
    'Exit status:',
    ...exits.map(([code = '', meaning = '']) => `  ${code.padEnd(WIDTH)}  ${meaning}`),
    '',
  ].join('\n');
}
