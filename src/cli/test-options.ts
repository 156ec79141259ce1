// The command line of `tsvmm test`.

import { availableParallelism } from 'node:os';
import parser from 'yargs-parser';
import { ConfigError, type ConfigErrorCode } from '../config/config-error.js';
import { suggest } from '../config/nearest.js';
import { EXIT_CODES } from './exit-codes.js';

/** The options, for parsing and help. */
export const TEST_OPTIONS = [
  {
    name: 'jobs',
    usage: 'N',
    help: 'Processors to use: tests run side by side while their vCPUs together are no more (default: all)',
  },
  { name: 'artifacts', usage: 'DIR', help: "Keep each test's console log in this folder" },
  { name: 'junit', usage: 'FILE', help: 'Write the results as JUnit XML' },
  { name: 'tap', usage: '', help: 'Print the results in the Test Anything Protocol on standard output' },
] as const;

const VALUED: readonly string[] = TEST_OPTIONS.filter(({ usage }) => usage !== '').map(({ name }) => name);

export interface TestCommand {
  readonly specs: readonly string[];
  readonly jobs: number;
  readonly artifacts: string | undefined;
  readonly junit: string | undefined;
  readonly tap: boolean;
}

/** Reads what follows `tsvmm test`; 'help' when that was asked for. Throws ConfigError. */
export function parseTestCommand(args: readonly string[]): TestCommand | 'help' {
  const { argv, error } = parser.detailed([...args], {
    string: [...VALUED],
    narg: Object.fromEntries(VALUED.map((name) => [name, 1])),
    boolean: ['tap', 'help'],
    alias: { help: ['h'] },
    configuration: {
      'boolean-negation': false,
      'camel-case-expansion': false,
      'dot-notation': false,
      'duplicate-arguments-array': true,
      'parse-positional-numbers': false,
      'unknown-options-as-args': true,
    },
  });
  if (argv['help'] !== undefined) return 'help';
  const specs = argv._.map(String);
  const unknown = specs.find((spec) => spec.startsWith('-') && spec !== '-');
  if (unknown !== undefined) {
    const [name = unknown] = unknown.split('=', 1);
    throw mistake(
      name,
      'UNKNOWN_OPTION',
      'no such option of tsvmm test',
      suggest(
        name,
        TEST_OPTIONS.map((option) => `--${option.name}`),
      ),
    );
  }
  const missing = error === null ? undefined : /following: (\S+)$/.exec(error.message)?.[1];
  if (missing !== undefined) throw mistake(`--${missing}`, 'MISSING_VALUE', 'no value given', 'Give one.');
  if (error !== null) throw error;
  if (specs.length === 0) throw mistake('test', 'MISSING_VALUE', 'no spec is named', 'Write tsvmm test SPEC...');
  const texts = Object.fromEntries(VALUED.map((name) => [name, onlyText(name, argv[name])]));
  return {
    specs,
    jobs: jobsOf(texts['jobs']),
    artifacts: texts['artifacts'],
    junit: texts['junit'],
    tap: argv['tap'] !== undefined,
  };
}

/** The help of `tsvmm test`. */
export function testHelp(): string {
  const options = TEST_OPTIONS.map(({ name, usage, help }) => `  ${`--${name} ${usage}`.padEnd(18)}  ${help}`);
  const codes = EXIT_CODES.map(([code, meaning]) => `  ${String(code).padStart(3)}  ${meaning}`);
  return [
    'tsvmm test [options] SPEC...',
    '',
    'Runs the boot tests that the specs (YAML or JSON) describe. docs/boot-tests.md says what may be in them.',
    '',
    'Options:',
    ...options,
    '',
    'Exit status:',
    ...codes,
    '',
  ].join('\n');
}

function onlyText(name: string, value: unknown): string | undefined {
  if (value === undefined) return undefined;
  if (Array.isArray(value)) throw mistake(`--${name}`, 'DUPLICATE', `given ${value.length} times`, 'Give it once.');
  if (value === '') throw mistake(`--${name}`, 'MISSING_VALUE', 'the value is empty', 'Give one.');
  if (typeof value !== 'string') throw mistake(`--${name}`, 'WRONG_TYPE', 'takes a text', 'Give one.');
  return value;
}

function jobsOf(text: string | undefined): number {
  if (text === undefined) return availableParallelism();
  const jobs = Number(text);
  if (/^\d+$/.test(text) && jobs >= 1 && jobs <= 4096) return jobs;
  throw mistake('--jobs', 'OUT_OF_RANGE', `${JSON.stringify(text)} is not a number from 1 to 4096`, 'Give one.');
}

function mistake(label: string, code: ConfigErrorCode, problem: string, mend: string): ConfigError {
  return new ConfigError({ option: label, label }, { code, problem, mend });
}
