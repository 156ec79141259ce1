// What the guest boots, and what its reboot does.

import { flagOption, type OptionSpec, plainOption } from '../option-spec.js';
import { path, text } from '../values.js';

export const BOOT_OPTIONS: readonly OptionSpec[] = [
  plainOption({
    name: 'kernel',
    kind: path,
    field: 'payload.kernel',
    help: 'Kernel to boot: a bzImage or an uncompressed ELF image (vmlinux). Without it, the guest built into tsvmm runs',
    into: (kernel) => ({ payload: { kernel } }),
  }),
  plainOption({
    name: 'initramfs',
    kind: path,
    field: 'payload.initramfs',
    help: 'Initial RAM file system for the kernel',
    into: (initramfs) => ({ payload: { initramfs } }),
  }),
  plainOption({
    name: 'cmdline',
    kind: text(),
    field: 'payload.cmdline',
    help: 'Kernel command line',
    into: (cmdline) => ({ payload: { cmdline } }),
  }),
  flagOption({
    name: 'no-reboot',
    field: 'no_reboot',
    help: "The guest's reboot ends the VM instead of starting it again",
    into: { no_reboot: true },
  }),
];
