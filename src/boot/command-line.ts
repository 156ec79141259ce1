// The kernel command line: the user's, or the default, plus one entry per virtio-mmio device for a guest that does not
// find them through ACPI. Main thread.
//
// Syntax of the entries: Documentation/admin-guide/kernel-parameters.txt, `virtio_mmio.device=<size>@<base>:<irq>`.

import { BootError } from './errors.js';
import { COMMAND_LINE_AREA_SIZE } from './layout.js';
import { hex, KIB } from '../platform/units.js';

/** `reboot=k` asks for the i8042 reset, which ends the VM; `panic=-1` reboots at once instead of hanging. */
export const DEFAULT_LINUX_CMDLINE = 'console=ttyS0 reboot=k panic=-1';

/** Every virtio-mmio device has one page of registers. */
export const VIRTIO_MMIO_REGION_SIZE = 4 * KIB;

const VIRTIO_MMIO_PARAMETER = 'virtio_mmio.device=';

/** Where a guest finds one virtio-mmio device. */
export interface VirtioMmioPlacement {
  readonly gpa: number;
  /** The interrupt line (GSI), not 0: Linux refuses that. */
  readonly irq: number;
}

/**
 * Whether a kernel with this command line takes its devices from ACPI: all do but those told `acpi=off`, which a later
 * `acpi=force` takes back. Only what is before `--` counts, as the rest belongs to init.
 */
export function usesAcpi(line: string): boolean {
  const [forKernel] = splitAtInitArguments(line);
  const words = forKernel.match(/(?:"[^"]*"?|[^\s"])+/g) ?? [];
  const settings = words.map((word) => word.replaceAll('"', '')).filter((word) => /^acpi=(off|force)$/.test(word));
  return settings.at(-1) !== 'acpi=off';
}

/**
 * `base` with an entry for each of `devices`: none for a guest that uses ACPI. Parameters after a lone `--` belong to
 * init, so the entries go before it. How long it may be is the kernel's matter (`checkCommandLine`), but for what no
 * kernel takes. Throws BootError `cmdline-too-long` or `cmdline-invalid`.
 */
export function buildCommandLine(base: string, devices: readonly VirtioMmioPlacement[]): string {
  const entries = devices.map(
    (device) => `${VIRTIO_MMIO_PARAMETER}${VIRTIO_MMIO_REGION_SIZE / KIB}K@${hex(device.gpa)}:${device.irq}`,
  );
  const [forKernel, forInit] = splitAtInitArguments(base.trim());
  const line = [forKernel, ...entries, forInit].filter((part) => part !== '').join(' ');
  checkCommandLine(line, COMMAND_LINE_AREA_SIZE - 1);
  return line;
}

/** Throws BootError when `line` cannot be given to a kernel that takes `limit` bytes, the final NUL not counted. */
export function checkCommandLine(line: string, limit: number): void {
  if (line.includes('\0')) {
    throw new BootError('cmdline-invalid', 'the kernel command line contains a NUL character', 'remove it');
  }
  const size = Buffer.byteLength(line);
  if (size <= limit) return;
  const entries = line.split(VIRTIO_MMIO_PARAMETER).length - 1;
  const included = entries === 0 ? '' : ` (${entries} entries ${VIRTIO_MMIO_PARAMETER} included)`;
  throw new BootError(
    'cmdline-too-long',
    `the kernel command line is ${size} bytes long${included}, and this kernel takes ${limit} at most`,
    `shorten it by ${size - limit} bytes`,
  );
}

/** Splits before the first `--` that stands alone outside double quotes, as Linux's next_arg() sees it. */
function splitAtInitArguments(line: string): [string, string] {
  let quoted = false;
  for (let index = 0; index < line.length; index++) {
    if (line[index] === '"') quoted = !quoted;
    if (quoted || !line.startsWith('--', index)) continue;
    const startsWord = index === 0 || /\s/.test(line[index - 1]);
    const endsWord = index + 2 === line.length || /\s/.test(line[index + 2]);
    if (startsWord && endsWord) return [line.slice(0, index).trimEnd(), line.slice(index)];
  }
  return [line, ''];
}
