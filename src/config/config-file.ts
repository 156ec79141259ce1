// Configuration files: VmConfig as JSON or YAML. Loaded, and the schema and the YAML library with it, only when a file is
// named.

import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { type ConfigBase, inFile } from './assembly.js';
import { ConfigError, type ConfigErrorCode, showValue } from './config-error.js';
import { errorCode } from './error-code.js';
import { completeVmConfig } from './validate.js';

/** The configuration in a file, with the defaults filled in and not judged further. Throws ConfigError. */
export async function readConfigFile(option: string, path: string): Promise<ConfigBase> {
  const input = await readDataFile(option, path);
  const config = completeVmConfig(input, inFile(path));
  const hasSerial = typeof input === 'object' && input !== null && 'serial' in input && input.serial !== null;
  return { config, hasSerial, file: path };
}

/** What a JSON or YAML file holds. `option` is what named it. Throws ConfigError. */
export async function readDataFile(option: string, path: string): Promise<unknown> {
  return (await readDataText(option, path)).value;
}

/** The same, and the text that it was. */
export async function readDataText(option: string, path: string): Promise<{ value: unknown; text: string }> {
  const text = readText(option, path);
  if (text.trim() === '') throw fileError(option, path, 'MISSING_VALUE', 'the file is empty', 'Write a configuration.');
  // YAML holds JSON, but its library takes as long to load as the rest of the start.
  return { value: isYaml(path, text) ? await parseYaml(path, text) : await parseJson(path, text), text };
}

function readText(option: string, path: string): string {
  if (path === '') throw fileError(option, path, 'MISSING_VALUE', 'the path is empty', 'Name a file.');
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw fileError(option, path, 'NOT_FOUND', `${showValue(path)} does not exist`, 'Check the spelling.', error);
    }
    const problem = `${showValue(path)} cannot be read (${code ?? String(error)})`;
    throw fileError(option, path, 'UNUSABLE_FILE', problem, 'Name a file that you may read.', error);
  }
}

function fileError(
  option: string,
  path: string,
  code: ConfigErrorCode,
  problem: string,
  mend: string,
  cause?: unknown,
): ConfigError {
  return new ConfigError(
    { option, value: path, label: option },
    { code, problem, mend },
    cause === undefined ? undefined : { cause },
  );
}

/** By the name, or where it does not tell by the first character: a configuration is an object. */
function isYaml(path: string, text: string): boolean {
  const extension = extname(path).toLowerCase();
  if (extension === '.json') return false;
  return extension === '.yaml' || extension === '.yml' || !text.trimStart().startsWith('{');
}

async function parseJson(path: string, text: string): Promise<unknown> {
  try {
    return JSON.parse(text);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    // V8 either says where it was, or shows the text around it, over several lines.
    const position = /at position ([0-9]+)/.exec(message)?.[1];
    const problem = message.replace(/(, \.{0,3}".*"\.{0,3} is not valid JSON| in JSON at position.*)$/s, '');
    const offset = position === undefined ? await offsetInJson(text) : Number(position);
    throw syntaxError(path, 'JSON', problem, offset === undefined ? undefined : placeOf(text, offset));
  }
}

/** Where JSON goes wrong, as the library for YAML sees it; undefined where that would let it pass. */
async function offsetInJson(text: string): Promise<number | undefined> {
  const { parseDocument } = await import('yaml');
  return parseDocument(text, { prettyErrors: false, schema: 'json' }).errors.at(0)?.pos[0];
}

async function parseYaml(path: string, text: string): Promise<unknown> {
  const { parseDocument } = await import('yaml');
  const document = parseDocument(text, { prettyErrors: false, stringKeys: true });
  const error = document.errors.at(0);
  if (error !== undefined) throw syntaxError(path, 'YAML', error.message, placeOf(text, error.pos[0]));
  try {
    return document.toJS() as unknown;
  } catch (error) {
    // Aliases that grow without bound.
    throw syntaxError(path, 'YAML', error instanceof Error ? error.message : String(error), undefined);
  }
}

export interface Place {
  readonly line: number;
  readonly column: number;
}

function syntaxError(path: string, language: string, problem: string, place: Place | undefined): ConfigError {
  const where = place === undefined ? '' : `:${place.line}:${place.column}`;
  return new ConfigError(
    { option: path, label: `${path}${where}` },
    { code: 'SYNTAX', problem: problem.replace(/\.$/, ''), mend: `Correct the ${language}.` },
  );
}

/** Where a character of a text is, as editors count. */
export function placeOf(text: string, offset: number): Place {
  const before = text.slice(0, offset).split('\n');
  return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}
