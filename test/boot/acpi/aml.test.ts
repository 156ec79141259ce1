import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import {
  and,
  buffer,
  byteField,
  device,
  eisaId,
  ifTrue,
  integer,
  ioRegion,
  local,
  name,
  nameString,
  notify,
  packageLength,
  packageOf,
  scope,
  serializedMethod,
  store,
  string,
} from '../../../src/boot/acpi/aml.js';
import { currentResources, edgeInterrupt, ioPorts, memory32Fixed } from '../../../src/boot/acpi/resources.js';

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

function ascii(text: string): string {
  return Buffer.from(text, 'latin1').toString('hex');
}

/** PkgLength as a reader decodes it. */
function decodeLength(bytes: Uint8Array): { size: number; total: number } {
  const more = bytes[0] >>> 6;
  let total = more === 0 ? bytes[0] & 0x3f : bytes[0] & 0x0f;
  for (let index = 0; index < more; index++) total += bytes[1 + index] << (4 + 8 * index);
  return { size: 1 + more, total };
}

describe('PkgLength', () => {
  test.each([
    [0, '01'],
    [62, '3f'],
    [63, '4104'],
    [4093, '4fff'],
    [4094, '810001'],
    [2 ** 20 - 4, '8fffff'],
    [2 ** 20 - 3, 'c1000001'],
    [2 ** 28 - 5, 'cfffffff'],
  ])('%d bytes of content: %s', (content, expected) => {
    expect(hex(packageLength(content))).toBe(expected);
  });

  test('it counts itself and the content, and is as short as it can be', () => {
    fc.assert(
      fc.property(fc.oneof(fc.nat(5000), fc.nat(2 ** 28 - 5)), (content) => {
        const bytes = packageLength(content);
        const { size, total } = decodeLength(bytes);
        expect(size).toBe(bytes.length);
        expect(total).toBe(content + size);
        // One byte less could not hold it.
        if (size > 1) expect(total - 1).toBeGreaterThanOrEqual(size === 2 ? 2 ** 6 - 1 : 2 ** (8 * size - 12));
        // Bits 5 and 4 of a longer one are reserved.
        if (size > 1) expect(bytes[0] & 0x30).toBe(0);
      }),
    );
  });

  test('refused: more than 28 bits', () => {
    expect(() => packageLength(2 ** 28 - 4)).toThrow(RangeError);
  });
});

describe('integers', () => {
  test.each([
    [0, '00'],
    [1, '01'],
    [2, '0a02'],
    [0xff, '0aff'],
    [0x100, '0b0001'],
    [0xffff, '0bffff'],
    [0x1_0000, '0c00000100'],
    [0xffff_ffff, '0cffffffff'],
    [0x1_0000_0000, '0e0000000001000000'],
    [Number.MAX_SAFE_INTEGER, '0effffffffffff1f00'],
  ])('%d', (value, expected) => {
    expect(hex(integer(value))).toBe(expected);
  });

  test.each([-1, 0.5, Number.NaN, 2 ** 53])('refused: %d', (value) => {
    expect(() => integer(value)).toThrow(RangeError);
  });
});

describe('names', () => {
  test.each([
    ['COM1', ascii('COM1')],
    ['GED', ascii('GED_')],
    ['_S5', ascii('_S5_')],
    ['\\', '5c00'],
    ['^', '5e00'],
    ['\\_SB', ascii('\\_SB_')],
    ['^^FOO', ascii('^^FOO_')],
    ['\\_SB.PWRB', `${ascii('\\')}2e${ascii('_SB_PWRB')}`],
    ['A.B.C', `2f03${ascii('A___B___C___')}`],
  ])('%s', (path, expected) => {
    expect(hex(nameString(path))).toBe(expected);
  });

  test.each(['', 'com1', '1ABC', 'TOOLONG', 'A..B', '.A', 'A.', 'A B', '\\^A', 'A\n'])('refused: %j', (path) => {
    expect(() => nameString(path)).toThrow(RangeError);
  });
});

describe('strings and ids', () => {
  test('a string ends with NUL', () => {
    expect(hex(string('LNRO0005'))).toBe(`0d${ascii('LNRO0005')}00`);
    expect(hex(string(''))).toBe('0d00');
  });

  test.each(['\0', 'ü'])('refused: %j', (text) => {
    expect(() => string(text)).toThrow(RangeError);
  });

  test.each([
    ['PNP0501', '0c41d00501'],
    ['PNP0C0C', '0c41d00c0c'],
    ['ABC0000', '0b0443'],
  ])('the EISA id %s', (id, expected) => {
    expect(hex(eisaId(id))).toBe(expected);
  });

  test.each(['ACPI0013', 'pnp0501', 'PNP050', 'PNP050g'])('refused as an EISA id: %s', (id) => {
    expect(() => eisaId(id)).toThrow(RangeError);
  });
});

describe('terms', () => {
  test('definitions of data', () => {
    expect(hex(name('_UID', integer(3)))).toBe(`08${ascii('_UID')}0a03`);
    expect(hex(buffer(Uint8Array.of(7, 8, 9)))).toBe('11060a03070809');
    expect(hex(packageOf(integer(5), integer(0)))).toBe('1205020a0500');
    expect(hex(packageOf())).toBe('120200');
    expect(() => packageOf(...Array.from({ length: 256 }, () => integer(0)))).toThrow(RangeError);
  });

  test('scopes, devices and methods hold their terms', () => {
    expect(hex(scope('\\_SB', integer(1)))).toBe(`1007${ascii('\\_SB_')}01`);
    expect(hex(device('V000', integer(1), integer(0)))).toBe(`5b8207${ascii('V000')}0100`);
    expect(hex(serializedMethod('_EVT', 1))).toBe(`1406${ascii('_EVT')}09`);
    expect(() => serializedMethod('_EVT', 8)).toThrow(RangeError);
  });

  test('a register and what is done with it', () => {
    expect(hex(ioRegion('EREG', 0x630, 1))).toBe(`5b80${ascii('EREG')}010b300601`);
    expect(hex(byteField('EREG', ['LOW', 3], ['HIGH', 5]))).toBe(
      `5b8110${ascii('EREG')}41${ascii('LOW_')}03${ascii('HIGH')}05`,
    );
    expect(() => byteField('EREG', ['LOW', 64])).toThrow(RangeError);
    expect(hex(store(nameString('EVTS'), local(0)))).toBe(`70${ascii('EVTS')}60`);
    expect(hex(ifTrue(and(local(7), integer(1)), notify('PWRB', 0x80)))).toBe(
      `a00c7b670100` + `86${ascii('PWRB')}0a80`,
    );
    expect(() => local(8)).toThrow(RangeError);
  });
});

describe('resources', () => {
  test('ports decode 16 bits', () => {
    expect(hex(ioPorts({ port: 0x3f8, count: 8 }))).toBe('4701f803f8030108');
    expect(() => ioPorts({ port: 0, count: 256 })).toThrow(/out of range/);
  });

  test('memory is writable', () => {
    expect(hex(memory32Fixed(0xd000_1000, 0x1000))).toBe('860900' + '01' + '001000d0' + '00100000');
    expect(() => memory32Fixed(2 ** 32, 0x1000)).toThrow(/out of range/);
  });

  test('interrupts are consumed, edge-triggered, active high and exclusive', () => {
    expect(hex(edgeInterrupt(23))).toBe('890600' + '03' + '01' + '17000000');
  });

  test('_CRS is a buffer that ends with an end tag', () => {
    expect(hex(currentResources(edgeInterrupt(9)))).toBe(`08${ascii('_CRS')}110e0a0b` + '890600030109000000' + '7900');
  });
});
