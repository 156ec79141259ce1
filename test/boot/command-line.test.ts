import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { buildCommandLine, checkCommandLine, DEFAULT_LINUX_CMDLINE, usesAcpi } from '../../src/boot/command-line.js';
import { bootErrorOf } from './support.js';

const VSOCK = { gpa: 0xd000_0000, irq: 5 };
const BLOCK = { gpa: 0xd000_1000, irq: 6 };

describe('command line', () => {
  test('device entries follow the line', () => {
    expect(buildCommandLine(DEFAULT_LINUX_CMDLINE, [VSOCK, BLOCK])).toBe(
      'console=ttyS0 reboot=k panic=-1 virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6',
    );
  });

  test('an empty line has the entries alone, and no devices add nothing', () => {
    expect(buildCommandLine('', [VSOCK])).toBe('virtio_mmio.device=4K@0xd0000000:5');
    expect(buildCommandLine(' quiet\n', [])).toBe('quiet');
    expect(buildCommandLine('', [])).toBe('');
  });

  test.each([
    ['quiet -- -s "a b"', 'quiet ENTRY -- -s "a b"'],
    ['quiet\t-- x', 'quiet ENTRY -- x'],
    ['-- x', 'ENTRY -- x'],
    ['a --', 'a ENTRY --'],
    ['a --b c-- d', 'a --b c-- d ENTRY'],
    ['a="x -- y" b', 'a="x -- y" b ENTRY'],
    ['a -- b -- c', 'a ENTRY -- b -- c'],
  ])('entries go before the arguments of init: %s', (line, expected) => {
    expect(buildCommandLine(line, [VSOCK])).toBe(expected.replace('ENTRY', 'virtio_mmio.device=4K@0xd0000000:5'));
  });

  test('as many bytes as the kernel takes fit, one more does not', () => {
    checkCommandLine('x'.repeat(2047), 2047);
    const error = bootErrorOf(() => {
      checkCommandLine('x'.repeat(2048), 2047);
    });
    expect(error.code).toBe('cmdline-too-long');
    expect(error.message).toBe(
      'the kernel command line is 2048 bytes long, and this kernel takes 2047 at most; shorten it by 1 bytes',
    );
  });

  test('what no kernel takes is refused before any is known', () => {
    expect(buildCommandLine('x'.repeat(65_535), [])).toHaveLength(65_535);
    expect(bootErrorOf(() => buildCommandLine('x'.repeat(65_536), [])).code).toBe('cmdline-too-long');
  });

  test('the limit counts bytes, and the entries', () => {
    expect(
      bootErrorOf(() => {
        checkCommandLine('ä'.repeat(1024), 2047);
      }).code,
    ).toBe('cmdline-too-long');
    const line = buildCommandLine('x'.repeat(2020), [VSOCK, BLOCK]);
    const error = bootErrorOf(() => {
      checkCommandLine(line, 2047);
    });
    expect(error.detail).toContain('2090 bytes long (2 entries virtio_mmio.device= included)');
  });

  test.each([
    ['', true],
    [DEFAULT_LINUX_CMDLINE, true],
    ['quiet acpi=off', false],
    ['acpi=off\tquiet', false],
    ['acpi=offline', true],
    ['xacpi=off', true],
    ['root=/dev/vda -- acpi=off', true],
    ['a="b acpi=off c"', true],
    ['"acpi=off"', false],
    ['acpi="off"', false],
    ['acpi=off acpi=force', true],
    ['acpi=force acpi=off', false],
    ['acpi=off acpi=strict', false],
  ])('whether a kernel told %j uses ACPI: %s', (line, expected) => {
    expect(usesAcpi(line)).toBe(expected);
  });

  test('a NUL is refused', () => {
    expect(bootErrorOf(() => buildCommandLine('a\0b', [])).code).toBe('cmdline-invalid');
  });

  test('nothing of the user is lost or reordered', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('quiet', '--', 'a="b c"', 'x=1', '-s')), (words) => {
        const line = words.join(' ');
        const built = buildCommandLine(line, [VSOCK]);
        expect(built.replace(/virtio_mmio\S+ ?/, '').trim()).toBe(line);
      }),
    );
  });
});
