// The log: levels, files, and that nothing is loaded for lines that are not written.

import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { levelFor, LogFilter, type LogLevel, parseLogLevels } from '../../src/cli/log-levels.js';
import { createLog } from '../../src/cli/logging.js';

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

describe('--log-level', () => {
  const passing = (text: string, component: string, verbosity = 0): LogLevel[] => {
    const filter = new LogFilter(verbosity, parseLogLevels(text));
    return LEVELS.filter((level) => filter.passes(level, component));
  };

  test('one level is for everything, whatever -v says', () => {
    expect(passing('error', 'vmm', 2)).toEqual(['error']);
    expect(passing('silly', 'vcpu0')).toEqual(LEVELS);
  });

  test('a component has its own; the others have what -v says', () => {
    expect(passing('vsock=debug', 'vsock')).toEqual(['error', 'warn', 'info', 'debug']);
    expect(passing('vsock=debug', 'vmm')).toEqual(['error', 'warn']);
    expect(passing('vsock=error', 'vmm', 1)).toEqual(['error', 'warn', 'info']);
    expect(passing('info,vsock=error', 'vmm')).toEqual(['error', 'warn', 'info']);
  });

  test('a name without its number is for all of them, but for those with an entry', () => {
    const text = 'error,vcpu=info,vcpu1=warn,_disk0=debug';
    expect(['vcpu0', 'vcpu1', 'vcpu12', '_disk0', '_disk1'].map((name) => passing(text, name).at(-1))).toEqual([
      'info',
      'warn',
      'info',
      'debug',
      'error',
    ]);
  });

  test('whether a level is reached anywhere', () => {
    expect(new LogFilter(0, parseLogLevels('vsock=debug')).reaches('debug')).toBe(true);
    expect(new LogFilter(0, parseLogLevels('vsock=debug')).reaches('silly')).toBe(false);
    expect(new LogFilter(2, parseLogLevels('info')).reaches('debug')).toBe(false);
  });

  test.each([
    ['', /no level given/],
    ['warning', /^--log-level: "warning" is not a level\. Did you mean warn\? Levels are error, warn/],
    ['vsock=', /"" is not a level/],
    ['info,debug', /two levels for everything/],
    ['vsock=info,vsock=warn', /two levels for vsock/],
    ['info,', /empty part/],
  ])('%j is refused', (text, message) => {
    expect(() => parseLogLevels(text)).toThrow(message);
  });
});

test('as JSON, every line is an object', () => {
  const file = join(folder, 'json');
  const log = createLog({ verbosity: 0, file, format: 'json' });
  log.write('warn', '_disk0', 'a "quoted"\nmessage');
  log.close();
  const text = readFileSync(file, 'utf8');
  expect(text.split('\n')).toHaveLength(2);
  const timestamp = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as unknown;
  expect(JSON.parse(text)).toEqual({ timestamp, level: 'warn', component: '_disk0', message: 'a "quoted"\nmessage' });
});

describe('a log file that is rotated', () => {
  test('goes on under its name when it is opened again, and in the old one until then', () => {
    const file = join(folder, 'rotated');
    const log = createLog({ verbosity: 0, file });
    log.write('warn', 'vmm', 'one');
    renameSync(file, `${file}.1`);
    log.write('warn', 'vmm', 'two');
    expect(log.reopen()).toBeUndefined();
    log.write('warn', 'vmm', 'three');
    log.close();
    expect(log.reopen()).toBeUndefined();
    expect(readFileSync(`${file}.1`, 'utf8')).toMatch(/one\n.*two\n$/);
    expect(readFileSync(file, 'utf8')).toMatch(/^[^\n]*three\n$/);
  });

  test('that cannot be opened again goes on as it was, which is said', () => {
    const place = join(folder, 'place');
    mkdirSync(place);
    const file = join(place, 'log');
    const log = createLog({ verbosity: 0, file });
    renameSync(place, `${place}.old`);
    expect(log.reopen()).toMatch(/^--log-file: ".*log" cannot be opened again \(ENOENT\); the log goes on in the old/);
    log.write('warn', 'vmm', 'still here');
    log.close();
    expect(readFileSync(join(`${place}.old`, 'log'), 'utf8')).toMatch(/still here\n$/);
  });

  test('without a file there is nothing to open', () => {
    const log = createLog({ verbosity: 0 });
    expect(log.reopen()).toBeUndefined();
    log.close();
  });
});
