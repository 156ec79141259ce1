// What ACPICA's own disassembler and compiler say of the tables.

import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';

import type { AcpiOptions } from '../../../src/boot/acpi/options.js';
import { describeWithTool } from '../../support/tools.js';
import { withDirectory } from '../support.js';
import { BARE_MACHINE, FULL_MACHINE, MACHINE, tableOf } from './support.js';

/** Runs iasl; returns all it said. */
function iasl(directory: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync('iasl', args, { cwd: directory, encoding: 'utf8' });
  const said = stdout + stderr;
  if (status !== 0) throw new Error(`iasl ${args.join(' ')}: status ${status}\n${said}`);
  return said;
}

/** The source of a table; fails when iasl has anything to say against it. */
function disassemble(options: AcpiOptions, cpus: number, name: string): string {
  return withDirectory((directory) => {
    writeFileSync(join(directory, 'table.aml'), tableOf(options, cpus, name));
    const said = iasl(directory, '-p', 'table', '-d', 'table.aml');
    expect(said).not.toMatch(/error|warning|invalid|incorrect|unknown|could not/i);
    return readFileSync(join(directory, 'table.dsl'), 'latin1');
  });
}

/** Compiles a table's source again; returns what iasl counted. */
function recompile(source: string): string {
  return withDirectory((directory) => {
    writeFileSync(join(directory, 'table.dsl'), source);
    return /(\d+ Errors, \d+ Warnings, \d+ Remarks)/.exec(iasl(directory, 'table.dsl'))?.[1] ?? 'nothing';
  });
}

/** The disassembly of one device, without comments, on one line. */
function deviceIn(source: string, name: string): string {
  const start = source.indexOf(`Device (${name})`);
  expect(start).toBeGreaterThan(0);
  const rest = source.slice(start);
  const end = rest.search(/\n {8}\}/);
  return rest
    .slice(0, end)
    .replaceAll(/\/\*.*?\*\/|\/\/[^\n]*/g, '')
    .replaceAll(/\s+/g, ' ')
    .trim();
}

const INTERRUPT = 'Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )';

describeWithTool('ACPI tables as iasl reads them', 'iasl', 'acpica-tools', () => {
  describe.each([
    ['one CPU and nothing else', BARE_MACHINE, 1],
    ['everything', MACHINE, 2],
    ['254 CPUs and 19 devices', FULL_MACHINE, 254],
    ['300 CPUs', FULL_MACHINE, 300],
  ])('%s', (_name, machine, cpus) => {
    test.each(['DSDT', 'FACP', 'APIC', 'XSDT', ...(machine.watchdog === undefined ? [] : ['WDAT'])])(
      '%s is disassembled and compiled again without a word',
      (name) => {
        expect(recompile(disassemble(machine, cpus, name))).toBe('0 Errors, 0 Warnings, 0 Remarks');
      },
    );
  });

  test('the recompiled DSDT has the same meaning: its disassembly is the same', () => {
    const source = disassemble(MACHINE, 2, 'DSDT');
    const again = withDirectory((directory) => {
      writeFileSync(join(directory, 'first.dsl'), source);
      // Without optimizations, which shorten names.
      iasl(directory, '-oa', '-p', 'second', 'first.dsl');
      iasl(directory, '-p', 'second', '-d', 'second.aml');
      return readFileSync(join(directory, 'second.dsl'), 'latin1');
    });
    const body = (text: string): string => text.slice(text.indexOf('DefinitionBlock'));
    expect(body(again)).toBe(body(source));
  });

  test('processors and virtio devices, with memory and interrupt', () => {
    const source = disassemble(FULL_MACHINE, 254, 'DSDT');
    expect(source.match(/"ACPI0007"/g)).toHaveLength(254);
    expect(deviceIn(source, 'C0FD')).toContain('Name (_UID, 0xFD)');
    expect(source.match(/"LNRO0005"/g)).toHaveLength(19);
    expect(deviceIn(source, 'V012')).toBe(
      'Device (V012) { Name (_HID, "LNRO0005") Name (_UID, 0x12) Name (_CRS, ResourceTemplate () { ' +
        'Memory32Fixed (ReadWrite, 0xD0012000, 0x00001000, ) ' +
        `${INTERRUPT} { 0x00000017, } })`,
    );
  });

  test('the serial port', () => {
    expect(deviceIn(disassemble(MACHINE, 1, 'DSDT'), 'COM1')).toBe(
      'Device (COM1) { Name (_HID, EisaId ("PNP0501") ) Name (_UID, One) Name (_CRS, ResourceTemplate () { ' +
        `IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08, ) ${INTERRUPT} { 0x00000004, } })`,
    );
  });

  test('the keyboard controller and pvpanic', () => {
    const source = disassemble(MACHINE, 1, 'DSDT');
    expect(deviceIn(source, 'PS2K')).toBe(
      'Device (PS2K) { Name (_HID, EisaId ("PNP0303") ) Name (_CRS, ResourceTemplate () { ' +
        'IO (Decode16, 0x0060, 0x0060, 0x01, 0x01, ) IO (Decode16, 0x0064, 0x0064, 0x01, 0x01, ) ' +
        `${INTERRUPT} { 0x00000001, } })`,
    );
    expect(deviceIn(source, 'PEVT')).toBe(
      'Device (PEVT) { Name (_HID, "QEMU0001") Name (_CRS, ResourceTemplate () { ' +
        'IO (Decode16, 0x0505, 0x0505, 0x01, 0x01, ) })',
    );
  });

  test('the power button is notified by the event device', () => {
    const source = disassemble(MACHINE, 1, 'DSDT');
    expect(deviceIn(source, 'PWRB')).toBe('Device (PWRB) { Name (_HID, EisaId ("PNP0C0C") )');
    expect(deviceIn(source, 'GED')).toBe(
      `Device (GED) { Name (_HID, "ACPI0013" ) Name (_CRS, ResourceTemplate () { ${INTERRUPT} { 0x00000009, } }) ` +
        'OperationRegion (EREG, SystemIO, 0x0630, One) Field (EREG, ByteAcc, NoLock, WriteAsZeros) { EVTS, 8 } ' +
        'Method (_EVT, 1, Serialized) { Local0 = EVTS If ((Local0 & One)) { Notify (\\_SB.PWRB, 0x80) } ' +
        'If ((Local0 & 0x02)) { Notify (\\_SB.VGEN, 0x80) } }',
    );
  });

  test('the VM generation id is found by its compatible id, at an address in two halves', () => {
    expect(deviceIn(disassemble(MACHINE, 1, 'DSDT'), 'VGEN')).toBe(
      'Device (VGEN) { Name (_HID, "TSVM0001") Name (_CID, "VM_Gen_Counter") Name (_DDN, "VM_Gen_Counter") ' +
        'Name (ADDR, Package (0x02) { 0x000EF000, Zero })',
    );
  });

  test('S5 has the sleep type of the sleep control register', () => {
    const source = disassemble(MACHINE, 1, 'DSDT').replaceAll(/\/\/[^\n]*|\s+/g, ' ');
    expect(source.replaceAll(/ +/g, ' ')).toContain('Name (\\_S5, Package (0x04) { 0x05, Zero, Zero, Zero })');
  });

  test('what a machine does not have is not there', () => {
    const source = disassemble(BARE_MACHINE, 1, 'DSDT');
    const devices = [...source.matchAll(/Device \((\w+)\)/g)].map((match) => match[1]);
    expect(devices).toEqual(['C000', 'PS2K', 'PWRB', 'VGEN', 'GED']);
  });

  test('the FADT says what this machine is', () => {
    const source = disassemble(MACHINE, 1, 'FACP');
    for (const line of [
      'Legacy Devices Supported (V2) : 1',
      '8042 Present on ports 60/64 (V2) : 1',
      'VGA Not Present (V4) : 1',
      'CMOS RTC Not Present (V5) : 1',
      'Reset Register Supported (V2) : 1',
      'Control Method Power Button (V1) : 1',
      'Hardware Reduced (V5) : 1',
      'Value to cause reset : 01',
      'FADT Minor Revision : 05',
    ]) {
      expect(source).toContain(line);
    }
  });
});
