// How a step becomes a command: Bash for a block of sh; Node or Jest for a sample.

import { copyFileSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import type { Scratch } from './scratch.js';
import { CHECKOUT, type Step } from './sessions.js';

const RUNNER = fileURLToPath(new URL('sample-runner.js', import.meta.url));
const JEST = join(CHECKOUT, 'node_modules', 'jest', 'bin', 'jest.js');

/**
 * Bash goes on in the folder and with the variables in which the session's last block has ended. A block that stays in the
 * background keeps its own, for takeShellState, as far as it has come. `number` tells the commands of one step apart.
 */
export function shellCommand(step: Step, text: string, number: number, scratch: Scratch): string[] {
  const { flags } = step.directive;
  const script = scratch.state(scriptName(step, number));
  const block = `${script}.block`;
  const [variables, folder] = [scratch.state('variables'), scratch.state('folder')];
  const save = (to: string): string => `export -p >${to}variables; pwd >${to}folder`;
  const lines = [
    'exec 2>&1',
    existsSync(variables) ? `. '${variables}'; cd "$(cat '${folder}')"` : '',
    flags.has('goes-on') ? '' : 'set -eo pipefail',
    flags.has('background')
      ? `set -T; trap '${save(`${script}.`)}' DEBUG`
      : `trap 'status=$?; ${save(scratch.state(''))}; exit $status' EXIT`,
    `. '${block}'`,
  ];
  writeFileSync(script, lines.map((line) => `${line}\n`).join(''));
  writeFileSync(block, scratch.localize(text));
  const command = ['bash', '--norc', script];
  return flags.has('pty') ? ['script', '--quiet', '--return', '--command', command.join(' '), '/dev/null'] : command;
}

/** The session's next block goes on where the background block has come to. */
export function takeShellState(step: Step, number: number, scratch: Scratch): void {
  for (const name of ['variables', 'folder']) {
    const kept = scratch.state(`${scriptName(step, number)}.${name}`);
    if (existsSync(kept)) copyFileSync(kept, scratch.state(name));
  }
}

function scriptName({ line }: Step, number: number): string {
  return `line-${line}-${number}.sh`;
}

/** TypeScript or not, what is newer than this Node is compiled away. */
export function sampleCommand(step: Step, text: string, scratch: Scratch): string[] {
  const isTest = step.directive.flags.has('jest');
  const name = `sample-${step.line}${isTest ? '.test' : ''}.mjs`;
  const { outputText } = ts.transpileModule(scratch.localize(text), {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
  });
  scratch.write(name, outputText);
  // Tests of Node's own runner begin when the module has ended, and make and stop what they need.
  if (text.includes("from 'node:test'")) return [process.execPath, name];
  if (!isTest) return [process.execPath, RUNNER, name, ...step.directive.lists.with];
  const config = JSON.stringify({ rootDir: scratch.work, testMatch: [`**/${name}`], transform: {} });
  return [process.execPath, '--experimental-vm-modules', '--no-warnings', JEST, '--config', config, '--ci'];
}
