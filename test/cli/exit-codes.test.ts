// Which error gives which exit status.

import { describe, expect, test } from '@jest/globals';
import { EXIT_CODES, exitCodeFor, isExpected, SIGNAL_EXITS } from '../../src/cli/exit-codes.js';
import { ConfigError } from '../../src/config/config-error.js';
import { BootError } from '../../src/boot/errors.js';
import { VmError, type VmErrorCode } from '../../src/vmm/errors.js';

describe('exit codes', () => {
  test.each<[VmErrorCode, number]>([
    ['KVM_NOT_FOUND', 3],
    ['KVM_PERMISSION', 3],
    ['KVM_CAPABILITY', 3],
    ['MEMORY', 2],
    ['SOCKET_IN_USE', 2],
    ['HOST_PATH', 2],
    ['DISK_IN_USE', 2],
    ['DISK_IMAGE', 2],
    ['INTERNAL', 1],
  ])('VmError %s is %i', (code, expected) => {
    expect(exitCodeFor(new VmError(code, 'problem', 'mend'))).toBe(expected);
  });

  test('mistakes in options and files are 2, and need no stack', () => {
    const config = new ConfigError({ option: '--x', label: '--x' }, { code: 'SYNTAX', problem: 'p', mend: 'm.' });
    const boot = new BootError('empty', 'an empty file', 'name another');
    expect([config, boot].map(exitCodeFor)).toEqual([2, 2]);
    expect([config, boot].every(isExpected)).toBe(true);
  });

  test('anything else is 1', () => {
    expect([new TypeError('oops'), 'text', undefined].map(exitCodeFor)).toEqual([1, 1, 1]);
    expect(isExpected(new TypeError('oops'))).toBe(false);
  });

  test('the table is complete, ascending, and each code has one meaning', () => {
    const codes = EXIT_CODES.map(([code]) => code);
    expect(codes).toEqual([...new Set(codes)].sort((a, b) => a - b));
    expect(codes).toEqual(expect.arrayContaining([0, 1, 2, 3, 4, 5, ...Object.values(SIGNAL_EXITS)]));
  });
});
