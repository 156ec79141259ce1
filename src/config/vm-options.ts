// The options that say what the virtual machine is, in Cloud Hypervisor's spelling: the one table behind parsing, error
// messages and help. A new device is a new entry in options/, a section in vm-config.ts and schema.ts, and its rules.

import type { OptionSpec } from './option-spec.js';
import { BOOT_OPTIONS } from './options/boot.js';
import { CONSOLE_OPTIONS } from './options/consoles.js';
import { DISK_OPTIONS } from './options/disk.js';
import { MACHINE_OPTIONS } from './options/machine.js';
import { NETWORK_OPTIONS } from './options/network.js';
import { PORT_OPTIONS } from './options/ports.js';
import { SMALL_DEVICE_OPTIONS } from './options/small-devices.js';

export interface OptionGroup {
  readonly title: string;
  readonly options: readonly OptionSpec[];
}

/** The options by subject, in the order of help. */
export const VM_OPTION_GROUPS: readonly OptionGroup[] = [
  { title: 'Boot', options: BOOT_OPTIONS },
  { title: 'Processors and memory', options: MACHINE_OPTIONS },
  { title: 'Consoles', options: CONSOLE_OPTIONS },
  { title: 'Disks', options: DISK_OPTIONS },
  { title: 'Network and vsock', options: NETWORK_OPTIONS },
  { title: 'Ports without a network', options: PORT_OPTIONS },
  { title: 'Other devices', options: SMALL_DEVICE_OPTIONS },
];

export const VM_OPTIONS: readonly OptionSpec[] = VM_OPTION_GROUPS.flatMap(({ options }) => options);
