// What is said when the caller's configuration is wrong: one error class for the command line and the library. Every
// error says which option, which value, what is wrong with it and what to do instead; the parts are also fields, so
// that a program need not read the sentence.

import { inspect } from 'node:util';

/** What is wrong with a configuration. */
export type ConfigErrorCode =
  /** No such option, but perhaps one spelt nearly so. */
  | 'UNKNOWN_OPTION'
  /** An option or value that Cloud Hypervisor has and tsvmm does not. */
  | 'NOT_SUPPORTED'
  /** The option or section is known, and this key of it is not. */
  | 'UNKNOWN_KEY'
  /** A key that this option or section cannot do without. */
  | 'MISSING_KEY'
  /** An option or a key without its value. */
  | 'MISSING_VALUE'
  /** Given twice: an option, a key, a name or a path that has to be the only one. */
  | 'DUPLICATE'
  /** An argument that belongs to no option. */
  | 'UNEXPECTED_ARGUMENT'
  /** Quotes or brackets that do not match, `key` without `=value`. */
  | 'SYNTAX'
  /** A value that is not of the kind wanted: a word where a number belongs. */
  | 'WRONG_TYPE'
  /** A number, size or count outside of what is allowed, or not a multiple of what it has to be. */
  | 'OUT_OF_RANGE'
  /** A number in range that has another meaning already. */
  | 'RESERVED'
  /** More characters or bytes than fit where the value goes. */
  | 'TOO_LONG'
  /** Options that are right alone and wrong together. */
  | 'CONFLICT'
  /** A path that must exist and does not. */
  | 'NOT_FOUND'
  /** A path that exists and cannot be used: no permission, or not that kind of file. */
  | 'UNUSABLE_FILE';

/** The parts of a complaint that do not depend on where the value came from. */
export interface Complaint {
  readonly code: ConfigErrorCode;
  /** What is wrong, value included, without a full stop: `2 is the host itself`. */
  readonly problem: string;
  /** What to do, as a sentence. */
  readonly mend: string;
}

/** Which part of the configuration a complaint is about. */
export interface Subject {
  /** The option (`--vsock`) or, for library users, the section (`vsock`). */
  readonly option: string;
  readonly key?: string | undefined;
  /** The offending value as the caller gave it. */
  readonly value?: unknown;
  /** How the message names the place: `--vsock cid`, `vsock.cid`. */
  readonly label: string;
}

/**
 * A mistake in a configuration, in the options of a command or in a file that they name. `message` is all of it in one
 * sentence or two: the place, the problem, the mend.
 *
 * @example
 * ```ts
 * import { ConfigError, Vm } from 'tsvmm';
 *
 * try {
 *   await Vm.create({ vsock: { cid: 2 } });
 * } catch (error) {
 *   if (!(error instanceof ConfigError)) throw error;
 *   console.error(error.code, error.option, error.key, error.value); // RESERVED vsock cid 2
 * }
 * ```
 */
export class ConfigError extends Error {
  /** For those who cannot use `instanceof`. */
  override readonly name = 'ConfigError';
  /** What is wrong, for programs. */
  readonly code: ConfigErrorCode;
  /** The option of the command (`--vsock`), or the section of the configuration (`vsock`). */
  readonly option: string;
  /** The key or field of it that is at fault, if it is one. */
  readonly key: string | undefined;
  /** The offending value as it was given. */
  readonly value: unknown;
  /** What is wrong, value included, without a full stop. */
  readonly problem: string;
  /** What to do, as a sentence. */
  readonly mend: string;

  /** @internal */
  constructor(subject: Subject, complaint: Complaint, options?: ErrorOptions) {
    super(`${subject.label}: ${complaint.problem}. ${complaint.mend}`, options);
    this.code = complaint.code;
    this.option = subject.option;
    this.key = subject.key;
    this.value = subject.value;
    this.problem = complaint.problem;
    this.mend = complaint.mend;
  }
}

/** A value as it appears in messages: text in quotes, the rest as JSON has it, cut to a readable length. */
export function showValue(value: unknown): string {
  // JSON has no word for undefined, NaN, functions and big integers.
  const json =
    typeof value === 'bigint' || Number.isNaN(value) ? undefined : (JSON.stringify(value) as string | undefined);
  const text = json ?? inspect(value);
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}
