// --api-socket: where the HTTP API is served.

import { ConfigError } from '../config/config-error.js';
import { GrammarError, parseParts, unquote } from '../config/option-grammar.js';

/** A path to listen at, or a socket that whoever started tsvmm listens at already. */
export type ApiSocket = { readonly path: string } | { readonly fd: number };

const OPTION = '--api-socket';
const MEND = 'Write path=PATH, or fd=N for a listening socket that is handed over.';

/** Reads `path=PATH`, `fd=N`, or just a path, which Cloud Hypervisor takes too. Throws ConfigError. */
export function parseApiSocket(text: string): ApiSocket {
  if (!/^(path|fd)=/.test(text)) {
    if (text === '') throw mistake(text, 'MISSING_VALUE', 'no value given');
    return { path: text };
  }
  const [first, ...rest] = partsOf(text);
  const value = unquote(first.value ?? '');
  if (rest.length > 0) throw mistake(text, 'CONFLICT', 'one socket is all there is');
  if (first.key === 'path') {
    if (value === '') throw mistake(text, 'MISSING_VALUE', 'the path is empty');
    return { path: value };
  }
  if (!/^[0-9]{1,9}$/.test(value)) throw mistake(text, 'WRONG_TYPE', `${JSON.stringify(value)} is no file descriptor`);
  return { fd: Number(value) };
}

function partsOf(text: string): ReturnType<typeof parseParts> {
  try {
    return parseParts(text);
  } catch (error) {
    if (!(error instanceof GrammarError)) throw error;
    throw new ConfigError(
      { option: OPTION, value: text, label: OPTION },
      { code: 'SYNTAX', problem: `${error.problem} in ${JSON.stringify(text)}`, mend: error.mend },
    );
  }
}

function mistake(value: string, code: ConfigError['code'], problem: string): ConfigError {
  return new ConfigError({ option: OPTION, value, label: OPTION }, { code, problem, mend: MEND });
}
