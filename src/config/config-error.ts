// What is said when the caller's configuration is wrong: one error class for the command line and the library. Every
// error says which option, which value, what is wrong with it and what to do instead; the parts are also fields, so
// that a program need not read the sentence.

import { inspect } from 'node:util';

export type ConfigErrorCode =
  /** No such option, but perhaps one spelt nearly so. */
  | 'UNKNOWN_OPTION'
  /** An option or value that Cloud Hypervisor has and tsvmm does not. */
  | 'NOT_SUPPORTED'
  | 'UNKNOWN_KEY'
  | 'MISSING_KEY'
  | 'MISSING_VALUE'
  | 'DUPLICATE'
  /** An argument that belongs to no option. */
  | 'UNEXPECTED_ARGUMENT'
  /** Quotes or brackets that do not match, `key` without `=value`. */
  | 'SYNTAX'
  /** A value that is not of the kind wanted: a word where a number belongs. */
  | 'WRONG_TYPE'
  | 'OUT_OF_RANGE'
  /** A number in range that has another meaning already. */
  | 'RESERVED'
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

export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly code: ConfigErrorCode;
  readonly option: string;
  readonly key: string | undefined;
  readonly value: unknown;
  readonly problem: string;
  readonly mend: string;

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
