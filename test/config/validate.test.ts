// The library's way in: the same rules as for the command line, errors by path.

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ConfigError, type ConfigErrorCode } from '../../src/config/config-error.js';
import { parseVmOptions } from '../../src/config/parse-options.js';
import { fieldPaths } from '../../src/config/schema.js';
import { unknownOption, CLOUD_HYPERVISOR_ONLY } from '../../src/config/unknown-option.js';
import { ensureValidVmConfig } from '../../src/config/valid-config.js';
import { validateVmConfig } from '../../src/config/validate.js';
import { DEFAULT_VM_CONFIG } from '../../src/config/vm-config.js';
import { VM_OPTIONS } from '../../src/config/vm-options.js';

describe('validateVmConfig', () => {
  test('a vsock device needs no socket, since the library has streams', () => {
    expect(validateVmConfig({ vsock: { cid: 3 } }).vsock).toEqual({ cid: 3 });
  });

  test('an empty object is the default machine', () => {
    expect(validateVmConfig({})).toEqual(DEFAULT_VM_CONFIG);
  });

  test('undefined fields count as absent', () => {
    expect(validateVmConfig({ vsock: undefined, payload: { kernel: undefined } })).toEqual(DEFAULT_VM_CONFIG);
  });

  test('parts are filled in', () => {
    const config = validateVmConfig({ memory: {}, cpus: { boot_vcpus: 1 }, vsock: { cid: 7, socket: '/tmp/s' } });
    expect(config).toEqual({ ...DEFAULT_VM_CONFIG, vsock: { cid: 7, socket: '/tmp/s' } });
  });

  test.each<[input: unknown, code: ConfigErrorCode, message: string]>([
    [undefined, 'MISSING_KEY', 'config: missing. Give an object.'],
    [null, 'WRONG_TYPE', 'config: null is not an object'],
    [5, 'WRONG_TYPE', 'config: 5 is not an object'],
    [{ vscok: {} }, 'UNKNOWN_KEY', 'vscok: no such key. Did you mean vsock?'],
    [
      { vsock: { cid: 3, socket: '/tmp/s', sokcet: '' } },
      'UNKNOWN_KEY',
      'vsock.sokcet: no such key. Did you mean socket?',
    ],
    [{ cpus: { boot_vcpu: 1 } }, 'UNKNOWN_KEY', 'cpus.boot_vcpu: no such key. Did you mean boot_vcpus?'],
    [{ vsock: { socket: '/tmp/s' } }, 'MISSING_KEY', 'vsock.cid: missing. Give a number.'],
    [{ vsock: { cid: '3', socket: '/tmp/s' } }, 'WRONG_TYPE', 'vsock.cid: "3" is not a number'],
    [{ vsock: { cid: 2, socket: '/tmp/s' } }, 'RESERVED', 'vsock.cid: 2 is the host itself'],
    [{ vsock: { cid: 3.5, socket: '/tmp/s' } }, 'WRONG_TYPE', 'vsock.cid: 3.5 is not a whole number'],
    [{ vsock: { cid: 3, socket: '' } }, 'MISSING_VALUE', 'vsock.socket: the path is empty'],
    [{ memory: { size: 10n } }, 'WRONG_TYPE', 'memory.size: 10n is not a number'],
    [{ memory: { size: NaN } }, 'WRONG_TYPE', 'memory.size: NaN is not a number'],
    [{ memory: { size: 0 } }, 'OUT_OF_RANGE', 'memory.size: a guest without memory'],
    [{ cpus: { max_vcpus: 2 } }, 'NOT_SUPPORTED', 'cpus.max_vcpus: 2 are more than the 1 vCPUs at start'],
    [{ serial: {} }, 'MISSING_KEY', 'serial.mode: missing. Give one of Tty, Null, Off, File, Pty, Socket.'],
    [{ serial: { mode: 'tty' } }, 'WRONG_TYPE', 'serial.mode: "tty" is not a value it can have. Did you mean Tty?'],
    [{ serial: { mode: 'File' } }, 'MISSING_KEY', 'serial.file: mode File needs a file'],
    [{ serial: { mode: 'Tty', file: '/tmp/f' } }, 'CONFLICT', 'serial.file: mode Tty writes no file'],
    [{ console: { mode: 'tty' } }, 'WRONG_TYPE', 'console.mode: "tty" is not a value it can have. Did you mean Tty?'],
    [{ disks: {} }, 'WRONG_TYPE', 'disks: {} is not an array'],
    [{ disks: [undefined] }, 'MISSING_KEY', 'disks[0]: missing. Give an object.'],
    [{ disks: [{ path: '/x' }, { paht: '/y' }] }, 'MISSING_KEY', 'disks[1].path: missing. Give a string.'],
    [
      { disks: [{ path: '/x' }, { path: '/x', sriel: '' }] },
      'UNKNOWN_KEY',
      'disks[1].sriel: no such key. Did you mean serial?',
    ],
    [{ disks: [{ path: '/nowhere' }] }, 'NOT_FOUND', 'disks[0].path: "/nowhere" does not exist'],
    [
      { net: [{ rate_limiter_config: { ops: { size: 0, refill_time: 100 } } }] },
      'OUT_OF_RANGE',
      'net[0].rate_limiter_config.ops.size: 0 frames would let nothing through',
    ],
    [
      { cpus: { affinity: [{ vcpu: 0, host_cpus: [0, -1] }] } },
      'OUT_OF_RANGE',
      'cpus.affinity[0].host_cpus[1]: -1 is not the number of a host CPU',
    ],
    [{ payload: { initramfs: '/x' } }, 'CONFLICT', 'payload.initramfs: an initramfs needs a kernel'],
    [{ payload: { kernel: '/nowhere' } }, 'NOT_FOUND', 'payload.kernel: "/nowhere" does not exist'],
  ])('%j is refused', (input, code, message) => {
    let caught: unknown;
    try {
      validateVmConfig(input);
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(ConfigError);
    expect((caught as ConfigError).message).toContain(message);
    expect((caught as ConfigError).code).toBe(code);
  });

  test('any value at all is accepted or refused with a ConfigError', () => {
    const section = fc.option(fc.anything(), { nil: undefined });
    const machine = fc.record({ cpus: section, memory: section, payload: section, serial: section, vsock: section });
    fc.assert(
      fc.property(fc.oneof(fc.anything(), machine), (input) => {
        try {
          validateVmConfig(input);
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError);
        }
      }),
    );
  });
});

describe('a configuration that has been checked', () => {
  test('is taken as it is', async () => {
    const parsed = parseVmOptions(new Map());
    expect(await ensureValidVmConfig(parsed)).toBe(parsed);
  });

  test('any other is checked, and copied', async () => {
    const mine = { memory: { size: 4096 } };
    const config = await ensureValidVmConfig(mine);
    expect(config.memory).toEqual({ size: 4096 });
    mine.memory.size = 1;
    expect(config.memory.size).toBe(4096);
    await expect(ensureValidVmConfig({ ...config, memory: { size: 1 } })).rejects.toThrow('memory.size: 1 bytes');
  });
});

describe('the option table', () => {
  const labelled = VM_OPTIONS.flatMap(({ labels }) => Object.keys(labels));

  test('names fields that exist, each once', () => {
    expect(new Set(labelled).size).toBe(labelled.length);
    // A key may set a field, or a whole list or section.
    const known = fieldPaths();
    const unknown = labelled.filter((label) => !known.some((field) => isWithin(field, label)));
    expect(unknown).toEqual([]);
  });

  test('covers every field', () => {
    expect(fieldPaths().length).toBeGreaterThan(70);
    const missing = fieldPaths().filter((field) => !labelled.some((label) => isWithin(field, label)));
    expect(missing).toEqual([]);
  });

  function isWithin(field: string, label: string): boolean {
    return field === label || field.startsWith(`${label}.`) || field.startsWith(`${label}[]`);
  }

  test('its default texts make the default machine', () => {
    const texts = VM_OPTIONS.flatMap(({ name, defaultText }) =>
      defaultText === undefined ? [] : [[name, [defaultText]] as const],
    );
    expect(parseVmOptions(new Map(texts))).toEqual(DEFAULT_VM_CONFIG);
  });

  test('what it makes is what the schema accepts', () => {
    const config = parseVmOptions(
      new Map([
        ['vsock', ['cid=9,socket=/tmp/s']],
        ['serial', ['file=/tmp/f']],
        ['memory', ['size=1T']],
      ]),
    );
    expect(validateVmConfig(structuredClone(config))).toEqual(config);
  });

  test('no option is in the table and among those not supported', () => {
    const names = VM_OPTIONS.map(({ name }) => name);
    expect(names.filter((name) => Object.hasOwn(CLOUD_HYPERVISOR_ONLY, name))).toEqual([]);
  });

  test('no key is in the table and among those not supported', () => {
    for (const { keys, notSupported } of VM_OPTIONS) {
      expect(keys.filter(({ name }) => Object.hasOwn(notSupported, name))).toEqual([]);
    }
  });

  test('what is not supported is refused with the reason and what to do instead', () => {
    const reasons = [CLOUD_HYPERVISOR_ONLY, ...VM_OPTIONS.map(({ notSupported }) => notSupported)].flatMap((refused) =>
      Object.values(refused),
    );
    expect(reasons.length).toBeGreaterThan(60);
    for (const reason of reasons) expect(reason).toMatch(/^[A-Z"].*[;,] .*\.$|^t.*[;,] .*\.$/);
  });
});

describe('an option that does not exist', () => {
  test.each(Object.entries(CLOUD_HYPERVISOR_ONLY))('--%s is named as not supported', (name, reason) => {
    const error = unknownOption(`--${name}`, ['kernel']);
    expect(error.code).toBe('NOT_SUPPORTED');
    expect(error.message).toBe(`--${name}: an option of Cloud Hypervisor that is not supported by tsvmm. ${reason}`);
  });

  test('the nearest one is suggested', () => {
    expect(unknownOption('--vsokc', ['kernel', 'vsock']).message).toBe(
      '--vsokc: no such option. Did you mean --vsock? tsvmm --help lists what there is.',
    );
    expect(unknownOption('--zzz', ['kernel', 'vsock']).message).toBe(
      '--zzz: no such option. tsvmm --help lists what there is.',
    );
  });
});
