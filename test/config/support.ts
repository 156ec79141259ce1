// Option texts in, configuration or error out: what the tests of options share.

import { expect } from '@jest/globals';
import { ConfigError, type ConfigErrorCode } from '../../src/config/config-error.js';
import { parseVmOptions } from '../../src/config/parse-options.js';
import { validateVmConfig } from '../../src/config/validate.js';

/** Option name to its values. */
export type Options = Readonly<Record<string, string | readonly string[]>>;

export function parse(options: Options): ReturnType<typeof parseVmOptions> {
  return parseVmOptions(new Map(Object.entries(options).map(([name, text]) => [name, [text].flat()])));
}

export function errorOf(options: Options): ConfigError {
  return configError(() => parse(options), options);
}

export function expectRefusal(options: Options, code: ConfigErrorCode, message: string): void {
  expectComplaint(errorOf(options), code, message);
}

/** The same for a library user. */
export function expectRefusedConfig(config: unknown, code: ConfigErrorCode, message: string): void {
  const error = configError(() => validateVmConfig(config), config);
  expectComplaint(error, code, message);
}

function configError(action: () => unknown, input: unknown): ConfigError {
  try {
    action();
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error(`accepted: ${JSON.stringify(input)}`);
}

function expectComplaint(error: ConfigError, code: ConfigErrorCode, message: string): void {
  expect(error.message).toContain(message);
  expect(error.code).toBe(code);
  // Every refusal says what to do.
  expect(error.mend).toMatch(/[.?]$/);
  expect(error.message.endsWith(error.mend)).toBe(true);
}
