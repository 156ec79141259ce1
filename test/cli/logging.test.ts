// The log: levels, files, and that nothing is loaded for lines that are not written.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createLog, levelFor, type LogLevel } from '../../src/cli/logging.js';

let folder = '';

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvmm-log-'));
});

afterAll(() => {
  rmSync(folder, { recursive: true });
});

const LEVELS: readonly LogLevel[] = ['error', 'warn', 'info', 'debug', 'silly'];

describe('the log', () => {
  test.each<[verbosity: number, LogLevel]>([
    [0, 'warn'],
    [1, 'info'],
    [2, 'debug'],
    [3, 'silly'],
    [9, 'silly'],
  ])('verbosity %i is level %s', (verbosity, level) => {
    expect(levelFor(verbosity)).toBe(level);
  });

  test.each([0, 1, 2, 3])('at verbosity %i, what is that severe or more is in the file at once', (verbosity) => {
    const file = join(folder, `log-${verbosity}`);
    const log = createLog({ verbosity, file });
    for (const level of LEVELS) log.write(level, 'vsock', `a ${level} line`);
    const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
    log.close();
    const written = LEVELS.slice(0, 2 + verbosity);
    expect(lines).toHaveLength(written.length);
    for (const [index, level] of written.entries()) {
      expect(lines[index]).toMatch(
        new RegExp(`^\\d{4}-\\d\\d-\\d\\dT\\S+Z ${level.toUpperCase().padEnd(5)} vsock: a ${level} line$`),
      );
    }
  });

  test('a file is appended to', () => {
    const file = join(folder, 'appended');
    writeFileSync(file, 'before\n');
    const log = createLog({ verbosity: 0, file });
    log.write('error', 'vmm', 'after');
    log.close();
    expect(readFileSync(file, 'utf8')).toMatch(/^before\n.*vmm: after\n$/);
  });

  test('what comes after closing is dropped', () => {
    const file = join(folder, 'closed');
    const log = createLog({ verbosity: 0, file });
    log.close();
    log.close();
    log.write('error', 'vmm', 'late');
    expect(readFileSync(file, 'utf8')).toBe('');
  });

  test("a file that cannot be opened is the option's mistake", () => {
    expect(() => createLog({ verbosity: 0, file: join(folder, 'no', 'log') })).toThrow(
      /^--log-file: ".*" cannot be opened for appending \(ENOENT\)\. Name a file/,
    );
  });
});
