import { describe, expect, test } from '@jest/globals';

import { buildAcpiTables, writeAcpiTables } from '../../../src/boot/acpi/tables.js';
import { MIB } from '../../../src/platform/units.js';
import { FakeMemory } from '../support.js';
import { BARE_MACHINE, FULL_MACHINE, MACHINE, sum, tableOf } from './support.js';

/** Reads the tables as a guest does, from the RSDP on. */
function readTables(memory: FakeMemory, rsdpGpa: number): Map<string, { gpa: number; table: Buffer }> {
  const found = new Map<string, { gpa: number; table: Buffer }>();
  const readTable = (gpa: number): Buffer => {
    const table = memory.read(gpa, memory.read(gpa + 4, 4).readUInt32LE());
    expect(sum(table)).toBe(0);
    expect(table.toString('latin1', 10, 24)).toBe('TSVMM MICROVM ');
    found.set(table.toString('latin1', 0, 4), { gpa, table });
    return table;
  };
  const rsdp = memory.read(rsdpGpa, 36);
  expect(rsdp.toString('latin1', 0, 8)).toBe('RSD PTR ');
  expect(sum(rsdp.subarray(0, 20))).toBe(0);
  expect(sum(rsdp)).toBe(0);
  expect(rsdp[15]).toBe(2);
  expect(rsdp.readUInt32LE(16)).toBe(0);
  expect(rsdp.readUInt32LE(20)).toBe(36);
  const xsdt = readTable(Number(rsdp.readBigUInt64LE(24)));
  for (let at = 36; at < xsdt.length; at += 8) readTable(Number(xsdt.readBigUInt64LE(at)));
  const fadt = found.get('FACP')?.table;
  readTable(Number(fadt?.readBigUInt64LE(140)));
  return found;
}

describe('ACPI tables in memory', () => {
  test.each([
    ['one CPU and nothing else', BARE_MACHINE, 1],
    ['everything', MACHINE, 2],
    ['254 CPUs and 19 devices', FULL_MACHINE, 254],
    ['300 CPUs', FULL_MACHINE, 300],
  ])('%s: all are found from the RSDP, and lie apart below the MP table', (_name, machine, cpus) => {
    const memory = new FakeMemory(16 * MIB);
    const rsdpGpa = writeAcpiTables(memory, machine, cpus);
    // Where a guest that is not told searches.
    expect(rsdpGpa % 16).toBe(0);
    expect(rsdpGpa).toBeGreaterThanOrEqual(0xe_0000);
    const found = readTables(memory, rsdpGpa);
    const expected = ['APIC', 'DSDT', 'FACP', ...(machine.watchdog === undefined ? [] : ['WDAT']), 'XSDT'];
    expect([...found.keys()].sort()).toEqual(expected);
    const pieces = [
      { gpa: rsdpGpa, size: 36 },
      ...[...found.values()].map(({ gpa, table }) => ({ gpa, size: table.length })),
    ];
    pieces.sort((a, b) => a.gpa - b.gpa);
    for (const [index, { gpa, size }] of pieces.entries()) {
      expect(gpa + size).toBeLessThanOrEqual(pieces.at(index + 1)?.gpa ?? 0xe_f000);
    }
  });

  test('the VM generation id is in a page of its own behind them', () => {
    const memory = new FakeMemory(16 * MIB);
    writeAcpiTables(memory, MACHINE, 1);
    expect(memory.read(0xe_f000, 16)).toEqual(Buffer.from(MACHINE.generationId));
  });

  test('what does not fit is not cut off', () => {
    expect(() => buildAcpiTables(FULL_MACHINE, 4000)).toThrow(RangeError);
  });
});

describe('FADT', () => {
  const fadt = tableOf(MACHINE, 1, 'FACP');

  test('revision 6.5, hardware-reduced, reset and sleep through one port', () => {
    expect(fadt).toHaveLength(276);
    expect([fadt[8], fadt[131]]).toEqual([6, 5]);
    const flags = fadt.readUInt32LE(112);
    expect(flags >>> 20).toBe(1);
    expect((flags >>> 10) & 1).toBe(1);
    const register = '01080001' + '0006000000000000';
    expect(fadt.toString('hex', 116, 128)).toBe(register);
    expect(fadt[128]).toBe(1);
    expect(fadt.toString('hex', 244, 268)).toBe(register + register);
  });

  test('legacy devices and the i8042 are there; VGA, MSI, PCIe and the CMOS clock are not', () => {
    expect(fadt.readUInt16LE(109)).toBe(0x3f);
  });

  test('both pointers to the DSDT agree, and there is no fixed hardware', () => {
    expect(BigInt(fadt.readUInt32LE(40))).toBe(fadt.readBigUInt64LE(140));
    expect(fadt.subarray(44, 109).every((byte) => byte === 0)).toBe(true);
    expect(fadt.subarray(148, 244).every((byte) => byte === 0)).toBe(true);
  });
});

describe('MADT', () => {
  /** Its entries after the header. */
  function entries(cpus: number): Buffer[] {
    const madt = tableOf(BARE_MACHINE, cpus, 'APIC');
    expect(madt.readUInt32LE(36)).toBe(0xfee0_0000);
    expect(madt.readUInt32LE(40)).toBe(1);
    const list: Buffer[] = [];
    for (let at = 44; at < madt.length; at += madt[at + 1]) list.push(madt.subarray(at, at + madt[at + 1]));
    expect(list.reduce((total, entry) => total + entry.length, 44)).toBe(madt.length);
    return list;
  }

  test('a local APIC for each CPU, the IOAPIC, and NMI on LINT1', () => {
    expect(entries(2).map((entry) => entry.toString('hex'))).toEqual([
      '0008' + '0000' + '01000000',
      '0008' + '0101' + '01000000',
      '010c' + '0000' + '0000c0fe' + '00000000',
      '0406' + 'ff' + '0000' + '01',
    ]);
  });

  test('ids from 255 on are x2APICs, which have an NMI entry of their own', () => {
    const list = entries(257);
    expect(list.filter((entry) => entry[0] === 0)).toHaveLength(255);
    expect(list.filter((entry) => entry[0] === 9).map((entry) => entry.toString('hex'))).toEqual([
      '0910' + '0000' + 'ff000000' + '01000000' + 'ff000000',
      '0910' + '0000' + '00010000' + '01000000' + '00010000',
    ]);
    expect(list.at(-1)?.toString('hex')).toBe('0a0c' + '0000' + 'ffffffff' + '01' + '000000');
    expect(entries(255).some((entry) => entry[0] > 4)).toBe(false);
  });
});

describe('WDAT', () => {
  const wdat = tableOf(MACHINE, 1, 'WDAT');

  /** The actions: number, instruction, port, value, mask. */
  const actions = Array.from({ length: wdat.readUInt32LE(64) }, (_, index) => {
    const at = 68 + index * 24;
    expect(wdat.toString('hex', at + 4, at + 8)).toBe('01200003');
    return {
      action: wdat[at],
      instruction: wdat[at + 1],
      port: Number(wdat.readBigUInt64LE(at + 8)),
      value: wdat.readUInt32LE(at + 16),
      mask: wdat.readUInt32LE(at + 20),
    };
  });

  test('no PCI device, counts of 100 ms, enabled', () => {
    expect(wdat).toHaveLength(68 + actions.length * 24);
    expect(wdat.toString('hex', 36, 48)).toBe('20000000' + 'ff00' + 'ffffff' + '000000');
    expect([48, 52, 56].map((at) => wdat.readUInt32LE(at))).toEqual([100, 0xffff, 1]);
    expect(wdat[60]).toBe(1);
  });

  test.each([
    ['RESET', 1, 2, 0x614, 1],
    ['GET_CURRENT_COUNTDOWN', 4, 1, 0x61c, 0],
    ['GET_COUNTDOWN', 5, 1, 0x618, 0],
    ['SET_COUNTDOWN', 6, 3, 0x618, 0],
    ['GET_RUNNING_STATE', 8, 0, 0x610, 1],
    ['SET_RUNNING_STATE', 9, 2, 0x610, 1],
    ['GET_STOPPED_STATE', 10, 0, 0x610, 0],
    ['SET_STOPPED_STATE', 11, 2, 0x610, 0],
    ['GET_STATUS', 32, 0, 0x620, 1],
    ['SET_STATUS', 33, 2, 0x620, 1],
  ])('%s', (_name, action, instruction, port, value) => {
    expect(actions.filter((entry) => entry.action === action)).toEqual([
      { action, instruction, port, value, mask: (instruction & 1) === 1 ? 0xffff_ffff : 1 },
    ]);
  });
});
