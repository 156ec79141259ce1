// Rules for what the guest boots, and what its command line must leave switched on.

import type { PayloadConfig, VmConfig } from '../vm-config.js';
import { checkReadableFile } from './files.js';
import type { Complain } from './rule.js';

export function checkPayload(payload: PayloadConfig, complain: Complain): void {
  const { kernel, initramfs, cmdline } = payload;
  if (kernel !== undefined) checkReadableFile(complain, 'payload.kernel', kernel);
  if (initramfs !== undefined) {
    if (kernel === undefined) {
      complain('payload.initramfs', initramfs, {
        code: 'CONFLICT',
        problem: 'an initramfs needs a kernel, and the guest built into tsvmm takes none',
        mend: 'Name a kernel as well, or leave the initramfs out.',
      });
    }
    checkReadableFile(complain, 'payload.initramfs', initramfs);
  }
  if (cmdline?.includes('\0') === true) {
    complain('payload.cmdline', cmdline, {
      code: 'WRONG_TYPE',
      problem: 'the command line holds a NUL byte, where the kernel would stop reading',
      mend: 'Take it out.',
    });
  }
}

/** Devices that a guest finds in the ACPI tables only: with `acpi=off` they would be there and never be used. */
export function checkNeedsAcpi({ payload, watchdog, pvpanic }: VmConfig, complain: Complain): void {
  if (!saysAcpiOff(payload.cmdline ?? '')) return;
  for (const [field, wanted] of [
    ['watchdog', watchdog],
    ['pvpanic', pvpanic],
  ] as const) {
    if (wanted !== true) continue;
    complain(field, wanted, {
      code: 'CONFLICT',
      problem: 'Linux finds this device by ACPI, and the kernel command line says acpi=off',
      mend: 'Leave one of the two out.',
    });
  }
}

/**
 * Whether a kernel with this command line uses no ACPI: the last of `acpi=off` and `acpi=force` counts, up to the `--`
 * before what is init's. src/boot/command-line.ts builds by the same judgement.
 */
export function saysAcpiOff(cmdline: string): boolean {
  const words: readonly string[] = cmdline.match(/(?:"[^"]*"?|[^\s"])+/g) ?? [];
  const end = words.indexOf('--');
  const settings = (end < 0 ? words : words.slice(0, end))
    .map((word) => word.replaceAll('"', ''))
    .filter((word) => word === 'acpi=off' || word === 'acpi=force');
  return settings.at(-1) === 'acpi=off';
}
