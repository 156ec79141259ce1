import { describe, expect, test } from '@jest/globals';

import { DEFAULT_VM_CONFIG } from '../../src/config/vm-config.js';
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
      events: { port: 0x630, gsi: 9, powerButtonMask: 1 },
      i8042: { dataPort: 0x60, commandPort: 0x64, gsi: 1 },
      serial: { port: 0x3f8, count: 8, gsi: 4 },
    });
  });

  test('a serial port that is off is not there', () => {
    expect(acpiOptions({ ...DEFAULT_VM_CONFIG, serial: { mode: 'Off' } }, []).serial).toBeUndefined();
  });
});
