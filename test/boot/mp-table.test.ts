import { describe, expect, test } from '@jest/globals';

import { writeMpTable } from '../../src/boot/mp-table.js';
import { MIB } from '../../src/platform/units.js';
import { bootErrorOf, FakeMemory } from './support.js';

function sum(bytes: Uint8Array): number {
  return bytes.reduce((total, byte) => total + byte, 0) & 0xff;
}

/** Reads the table as a guest does: floating pointer, header, then entry after entry. */
function readTable(cpus: number): { tableGpa: number; header: Buffer; entries: Buffer[] } {
  const memory = new FakeMemory(16 * MIB);
  writeMpTable(memory, cpus);
  const pointer = memory.read(0x9fc00, 16);
  expect(pointer.toString('latin1', 0, 4)).toBe('_MP_');
  expect([pointer[8], pointer[9]]).toEqual([1, 4]);
  expect([...pointer.subarray(11)]).toEqual([0, 0, 0, 0, 0]);
  expect(sum(pointer)).toBe(0);
  const tableGpa = pointer.readUInt32LE(4);
  const header = memory.read(tableGpa, 44);
  expect(header.toString('latin1', 0, 4)).toBe('PCMP');
  const table = memory.read(tableGpa, header.readUInt16LE(4));
  expect(sum(table)).toBe(0);
  const entries: Buffer[] = [];
  for (let offset = 44; offset < table.length;) {
    const size = table[offset] === 0 ? 20 : 8;
    entries.push(table.subarray(offset, offset + size));
    offset += size;
  }
  expect(entries).toHaveLength(header.readUInt16LE(34));
  for (const write of memory.writes) expect(write.gpa + write.size).toBeLessThanOrEqual(MIB);
  return { tableGpa, header, entries };
}

describe('MP table', () => {
  test.each([1, 2, 8, 37, 38, 254])('%d CPUs, the first of them the boot processor', (cpus) => {
    const { tableGpa, entries } = readTable(cpus);
    // Up to 37 CPUs fit behind the pointer; Linux takes the table anywhere.
    expect(tableGpa).toBe(cpus <= 37 ? 0x9fc10 : 0xf0000);
    const processors = entries.filter((entry) => entry[0] === 0);
    expect(processors.map((entry) => entry[1])).toEqual(Array.from({ length: cpus }, (_, id) => id));
    expect(processors.map((entry) => entry[3])).toEqual([3, ...Array<number>(cpus - 1).fill(1)]);
  });

  test('the header gives the local APIC address and names', () => {
    const { header } = readTable(1);
    expect(header[6]).toBe(4);
    expect(header.toString('latin1', 8, 28)).toBe('TSVMM   MICROVM     ');
    expect(header.readUInt32LE(36)).toBe(0xfee0_0000);
  });

  test('one ISA bus, one IOAPIC whose id no CPU has, every line on the pin of its number, LINT0 and LINT1', () => {
    const { entries } = readTable(2);
    const others = entries.slice(2).map((entry) => [...entry]);
    expect(others[0]).toEqual([1, 0, ...Buffer.from('ISA   ')]);
    expect(others[1]).toEqual([2, 2, 0x14, 1, 0, 0, 0xc0, 0xfe]);
    const lines = Array.from({ length: 24 }, (_, irq) => [3, 0, 0, 0, 0, irq, 2, irq]);
    expect(others.slice(2, 26)).toEqual(lines);
    expect(others.slice(26)).toEqual([
      [4, 3, 0, 0, 0, 0, 0, 0],
      [4, 1, 0, 0, 0, 0, 0xff, 1],
    ]);
  });

  test.each([0, 255, 1.5])('refused: %d CPUs', (cpus) => {
    const error = bootErrorOf(() => {
      writeMpTable(new FakeMemory(16 * MIB), cpus);
    });
    expect(error.code).toBe('too-many-cpus');
  });
});
