// `--help` of the command and of each subcommand, as a process: it succeeds, and every option is in it.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { CTL_OPTIONS } from '../../src/cli/ctl/run.js';
import { CP_OPTIONS, EXEC_OPTIONS, RUN_OPTIONS } from '../../src/cli/guest-options.js';
import { COMMAND_OPTIONS, type Subcommand, SUBCOMMANDS } from '../../src/cli/options.js';
import { TEST_OPTIONS } from '../../src/cli/test-options.js';
import { VM_OPTIONS } from '../../src/config/vm-options.js';

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

const optionsOfVm = [...VM_OPTIONS, ...COMMAND_OPTIONS].map(({ name }) => name);
const subcommands = Object.entries<Subcommand>(SUBCOMMANDS).map(
  ([name, { options = [] }]) => [[name], options.map((option) => option.name)] as const,
);

test.each([
  [[], optionsOfVm],
  // Those of the VM are in the general help, which it names.
  [['run'], RUN_OPTIONS.map(({ name }) => name)],
  [['exec'], EXEC_OPTIONS.map(({ name }) => name)],
  [['cp'], CP_OPTIONS.map(({ name }) => name)],
  [['test'], TEST_OPTIONS.map(({ name }) => name)],
  [['ctl'], Object.keys(CTL_OPTIONS)],
  ...subcommands,
])('the help of %j has every option', (command, options) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...command, '--help'], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([0, '']);
  for (const name of command) expect(stdout).toContain(name);
  // Asking for help is how one has come here.
  const wanted = options.filter((name) => name !== 'help');
  expect(wanted.filter((name) => !new RegExp(`${name.length > 1 ? '--' : '-'}${name}\\b`).test(stdout))).toEqual([]);
});
