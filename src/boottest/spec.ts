// A spec of boot tests as it is written: the shape of the file, and nothing of what it leads to. Main thread.
//
// docs/boot-tests.md is its description for users. What is not in the schema is refused, all of it at once and each with its place
// in the file.

import { basename, dirname, extname, resolve } from 'node:path';
import { z } from 'zod';
import { ConfigError, type ConfigErrorCode } from '../config/config-error.js';
import { readDataText } from '../config/config-file.js';
import type { FieldNames } from '../config/rules/rule.js';
import { shapeError } from '../config/shape-error.js';
import { withoutAbsent } from '../config/without-absent.js';
import { fieldsIn } from './spec-places.js';
import { parseDuration, parsePattern } from './values.js';

const duration = z.union([z.number(), z.string()]).transform((value, context) => {
  const milliseconds = parseDuration(value);
  if (milliseconds !== undefined) return milliseconds;
  context.addIssue(`${JSON.stringify(value)} is not a time such as 90, 90s, 2m or 500ms, of a day at most`);
  return z.NEVER;
});

const pattern = z.string().transform((text, context) => {
  const parsed = parsePattern(text);
  if (parsed !== undefined) return parsed;
  const what = text === '' ? 'an empty text is found everywhere' : `${text} is not a regular expression`;
  context.addIssue(what);
  return z.NEVER;
});

const port = z
  .number()
  .refine((value) => Number.isInteger(value) && value >= 0 && value < 0xffff_ffff, 'not a vsock port, 0 to 4294967294');

const vsockStep = z.strictObject({ port, send: z.string().exactOptional(), expect: pattern.exactOptional() });

const words = z.array(z.string()).min(1, 'no program is named');

/** A program that the guest's agent runs; its words alone stand for it, too. */
export interface ExecStep {
  readonly run: readonly string[];
  readonly exitCode?: number;
  readonly expect?: string | RegExp;
  readonly stdin?: string;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

const execStep = z.union([
  words.transform((run): ExecStep => ({ run })),
  z.strictObject({
    run: words,
    exitCode: z
      .number()
      .refine((value) => Number.isInteger(value) && value >= 0 && value <= 255, 'not an exit code, 0 to 255')
      .exactOptional(),
    expect: pattern.exactOptional(),
    stdin: z.string().exactOptional(),
    cwd: z.string().exactOptional(),
    env: z.record(z.string(), z.string()).exactOptional(),
  }),
]);

/** How a VM may be expected to end. */
const exitReason = z.enum(['shutdown', 'reset', 'panic', 'crash']);

const ACTIONS = ['expect', 'send', 'exec', 'vsock', 'powerButton', 'exit'] as const;

const step = z
  .strictObject({
    expect: pattern.exactOptional(),
    send: z.string().exactOptional(),
    exec: execStep.exactOptional(),
    vsock: vsockStep.exactOptional(),
    powerButton: z.literal(true).exactOptional(),
    exit: exitReason.exactOptional(),
    timeout: duration.exactOptional(),
  })
  .check(({ value, issues }) => {
    const given = ACTIONS.filter((action) => action in value);
    // A key that there is not was meant for one of them.
    if (given.length === 1 || (given.length === 0 && issues.length > 0)) return;
    const found = given.length === 0 ? 'it says nothing' : `it says ${given.join(' and ')}`;
    issues.push({ code: 'custom', input: value, message: `a step is one of ${ACTIONS.join(', ')}, and ${found}` });
  });

const steps = z
  .array(step)
  .min(1, 'no steps')
  .check(({ value, issues }) => {
    const early = value.slice(0, -1).findIndex(({ exit }) => exit !== undefined);
    if (early < 0) return;
    issues.push({ code: 'custom', input: value, path: [early], message: 'nothing can follow the end of the VM' });
  });

const test = z.strictObject({ name: z.string().min(1, 'empty'), timeout: duration.exactOptional(), steps });

/** A kernel of the matrix; its path alone stands for it, too. */
interface KernelEntry {
  readonly name?: string;
  readonly kernel: string;
  readonly initramfs?: string;
}

/** A command line of the matrix; its text alone stands for it, too. */
interface CmdlineEntry {
  readonly name?: string;
  readonly cmdline: string;
}

const kernel = z.union([
  z.string().transform((path): KernelEntry => ({ kernel: path })),
  z.strictObject({ name: z.string().exactOptional(), kernel: z.string(), initramfs: z.string().exactOptional() }),
]);

const cmdline = z.union([
  z.string().transform((text): CmdlineEntry => ({ cmdline: text })),
  z.strictObject({ name: z.string().exactOptional(), cmdline: z.string() }),
]);

const matrix = z.strictObject({
  kernels: z.array(kernel).min(1, 'empty').exactOptional(),
  cmdlines: z.array(cmdline).min(1, 'empty').exactOptional(),
  cpus: z.array(z.number()).min(1, 'empty').exactOptional(),
});

const spec = z
  .strictObject({
    name: z.string().min(1, 'empty').exactOptional(),
    /** A part of VmConfig: the schema of that judges it, for each machine of the matrix. */
    machine: z.record(z.string(), z.unknown()).exactOptional(),
    matrix: matrix.exactOptional(),
    timeouts: z.strictObject({ step: duration.exactOptional(), test: duration.exactOptional() }).exactOptional(),
    allow: z.array(pattern).exactOptional(),
    steps: steps.exactOptional(),
    tests: z.array(test).min(1, 'empty').exactOptional(),
  })
  .check(({ value, issues }) => {
    const names = (value.tests ?? []).map(({ name }) => name);
    const twice = names.find((name, index) => names.indexOf(name) !== index);
    if (twice !== undefined) {
      const message = `there are two tests with the name ${JSON.stringify(twice)}`;
      issues.push({ code: 'custom', input: value, path: ['tests'], message });
    }
    if ((value.steps === undefined) === (value.tests === undefined) && issues.length === 0) {
      const message = 'a spec has either steps, or tests that have steps';
      issues.push({ code: 'custom', input: value, message });
    }
  });

export type Step = z.output<typeof step>;
export type VsockStep = z.output<typeof vsockStep>;
export type ExitReason = z.output<typeof exitReason>;

/** A spec as the schema leaves it, with where it is from. */
export interface Spec extends z.output<typeof spec> {
  readonly name: string;
  readonly file: string;
  /** What paths in it are relative to. */
  readonly folder: string;
  /** Fields of it, for messages. */
  readonly fields: FieldNames;
}

/** Reads a spec. Throws ConfigError. */
export async function readSpec(file: string): Promise<Spec> {
  const { value, text } = await readDataText(file, file);
  const fields = fieldsIn(file, text);
  const input = withoutAbsent(value);
  const result = spec.safeParse(input, { reportInput: true });
  if (!result.success) throw shapeError(input, flattened(result.error), spec, fields);
  const { name = basename(file, extname(file)) } = result.data;
  return { ...result.data, name, file, fields, folder: dirname(resolve(file)) };
}

export function specError(
  { fields }: Pick<Spec, 'fields'>,
  field: string,
  value: unknown,
  complaint: { readonly code: ConfigErrorCode; readonly problem: string; readonly mend: string },
): ConfigError {
  return new ConfigError({ ...fields(field), value }, complaint);
}

/** Of alternatives, the complaint about the one that was meant: the one that got furthest. */
function flattened(error: z.ZodError): z.ZodError {
  return new z.ZodError(error.issues.map(meant));
}

function meant(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue;
  const alternatives = issue.errors
    .map((issues) => issues.find(({ code }) => code === 'unrecognized_keys') ?? issues.at(0))
    .filter((inner) => inner !== undefined)
    .map((inner) => ({ ...inner, path: [...issue.path, ...inner.path] }));
  const furthest = alternatives.reduce<(typeof alternatives)[number] | undefined>(
    (best, inner) => (best === undefined || rank(inner) > rank(best) ? inner : best),
    undefined,
  );
  return furthest ?? issue;
}

function rank({ code, path }: { readonly code?: string | undefined; readonly path: readonly PropertyKey[] }): number {
  return path.length + (code === 'unrecognized_keys' ? 1 : 0);
}
