// Which guest a configuration asks for, and how it is put into memory. Main thread.

import { fileURLToPath } from 'node:url';
import { buildCommandLine, DEFAULT_LINUX_CMDLINE, usesAcpi, type VirtioMmioPlacement } from '../boot/command-line.js';
import { GENERATION_ID_GPA } from '../boot/layout.js';
import { loadGuest } from '../boot/load.js';
import type { BootState } from '../boot/state.js';
import type { VmConfig } from '../config/vm-config.js';
import { GuestMemory, type MemoryMap } from '../platform/guest-memory.js';
import { acpiOptions, newGenerationId } from './acpi.js';

/** The guest that runs when the configuration names no kernel. */
export const BUILT_IN_GUEST = fileURLToPath(new URL('../../../firmware/tsvmm-guest.elf', import.meta.url));

/** Whether it is the one built into tsvmm. */
export function isBuiltInGuest({ payload }: VmConfig): boolean {
  return payload.kernel === undefined;
}

/** The command line before our entries. */
function baseCmdline(config: VmConfig): string {
  return config.payload.cmdline ?? (isBuiltInGuest(config) ? '' : DEFAULT_LINUX_CMDLINE);
}

/** Whether the guest finds its devices through ACPI; the built-in one, and those told not to, read the command line. */
export function guestUsesAcpi(config: VmConfig): boolean {
  return !isBuiltInGuest(config) && usesAcpi(baseCmdline(config));
}

/** Writes another VM generation id into the memory of a restored guest. Its event is to follow. */
export function changeGeneration(memory: MemoryMap): void {
  new GuestMemory(memory).write(GENERATION_ID_GPA, newGenerationId());
}

/** Puts the guest into `memory`, which is all zeroes; it finds its devices at `placements`. Throws BootError. */
export function loadConfiguredGuest(
  config: VmConfig,
  memory: MemoryMap,
  placements: readonly VirtioMmioPlacement[],
): BootState {
  const { payload, cpus } = config;
  const acpi = guestUsesAcpi(config);
  return loadGuest(new GuestMemory(memory), {
    kernel: payload.kernel ?? BUILT_IN_GUEST,
    initramfs: payload.initramfs,
    cmdline: buildCommandLine(baseCmdline(config), acpi ? [] : placements),
    cpus: cpus.boot_vcpus,
    acpi: acpi ? acpiOptions(config, placements) : undefined,
  });
}
