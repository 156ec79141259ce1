import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { buildAcpiTables } from '../../src/boot/acpi/tables.js';
import { WATCHDOG_PERIOD_MS, WATCHDOG_REGISTERS } from '../../src/boot/acpi/wdat.js';
import { usesAcpi } from '../../src/boot/command-line.js';
import { saysAcpiOff } from '../../src/config/rules/payload.js';
import { DEFAULT_VM_CONFIG } from '../../src/config/vm-config.js';
import { EVENT_PORT } from '../../src/devices/legacy/event-device.js';
import {
  WATCHDOG_BASE_PORT,
  WATCHDOG_PORT_COUNT,
  WATCHDOG_REG,
  WATCHDOG_UNIT_MS,
} from '../../src/devices/legacy/watchdog.js';
import { acpiOptions } from '../../src/vmm/acpi.js';
import { EVENT_GSI, KEYBOARD_GSI, VIRTIO_GSIS } from '../../src/vmm/interrupt-lines.js';

describe('interrupt lines', () => {
  test('every device has one of its own, below the 24 of the IOAPIC', () => {
    const legacy = [0, KEYBOARD_GSI, 2, 3, 4];
    const all = [...legacy, EVENT_GSI, ...VIRTIO_GSIS];
    expect(new Set(all).size).toBe(all.length);
    expect(all.every((gsi) => gsi < 24)).toBe(true);
    expect(VIRTIO_GSIS).toHaveLength(18);
  });
});

describe('what ACPI says of a VM', () => {
  test('the places of its devices', () => {
    const virtio = [{ gpa: 0xd000_0000, irq: 5 }];
    expect(acpiOptions(DEFAULT_VM_CONFIG, virtio)).toEqual({
      virtio,
      sleepControl: { port: 0x600, sleepTypeS5: 5, resetValue: 1 },
      events: { port: 0x630, gsi: 9, powerButtonMask: 1, generationMask: 2 },
      generationId: expect.any(Uint8Array),
      i8042: { dataPort: 0x60, commandPort: 0x64, gsi: 1 },
      serial: { port: 0x3f8, count: 8, gsi: 4 },
    });
  });

  test('a generation id of 16 bytes that no other machine has', () => {
    const ids = [1, 2].map(() => acpiOptions(DEFAULT_VM_CONFIG, []).generationId);
    expect(ids.map(({ length }) => length)).toEqual([16, 16]);
    expect(ids[0]).not.toEqual(ids[1]);
  });

  test('pvpanic and the watchdog only when the configuration has them', () => {
    const options = acpiOptions({ ...DEFAULT_VM_CONFIG, pvpanic: true, watchdog: true }, []);
    expect(options).toMatchObject({ pvpanic: { port: 0x505, count: 1 }, watchdog: { port: 0x610 } });
    const names = buildAcpiTables(options, 1).tables.map(({ name }) => name);
    expect(names).toContain('WDAT');
  });

  test('the watchdog action table has the registers of the watchdog', () => {
    expect(Object.values(WATCHDOG_REGISTERS)).toEqual(Object.values(WATCHDOG_REG));
    expect(WATCHDOG_PERIOD_MS).toBe(WATCHDOG_UNIT_MS);
    expect(EVENT_PORT).toBeGreaterThanOrEqual(WATCHDOG_BASE_PORT + WATCHDOG_PORT_COUNT);
  });

  test('the rules of the configuration and the boot code agree on which guests use ACPI', () => {
    const word = fc.constantFrom(
      'quiet',
      'acpi=off',
      'acpi=force',
      '--',
      '"acpi=off"',
      'a="b acpi=off"',
      '"',
      'acpi=ht',
    );
    fc.assert(
      fc.property(fc.array(word), fc.constantFrom(' ', '\t', '  '), (words, space) => {
        const line = words.join(space);
        expect(usesAcpi(line)).toBe(!saysAcpiOff(line));
      }),
    );
  });

  test('a serial port that is off is not there', () => {
    expect(acpiOptions({ ...DEFAULT_VM_CONFIG, serial: { mode: 'Off' } }, []).serial).toBeUndefined();
  });
});
