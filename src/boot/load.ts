// Loads a guest: kernel, initramfs, command line and the tables that the boot protocols ask for. Main thread, before the
// VM starts. This is the folder's front door; the other files are one concept each.

import { BootError } from './errors.js';
import type { BootMemory } from './memory.js';
import type { BootProtocol, BootState } from './state.js';

export interface GuestToLoad {
  /** Path of an ELF64 kernel (vmlinux, or the built-in guest). */
  readonly kernel: string;
  /** Path of an initramfs: any file, it is handed over as it is. */
  readonly initramfs?: string | undefined;
  /** The whole command line, as `buildCommandLine` makes it. */
  readonly cmdline: string;
  /** Number of vCPUs; their local APIC ids are 0 to cpus - 1. */
  readonly cpus: number;
  /** Default: PVH when the kernel has the note for it, else the 64-bit Linux protocol. */
  readonly protocol?: BootProtocol | undefined;
}

/**
 * Writes `guest` into `memory` and returns how vCPU 0 must begin. Throws BootError for anything that is wrong with the
 * files or does not fit; `memory` is then partly written and of no use.
 */
export function loadGuest(memory: BootMemory, guest: GuestToLoad): BootState {
  throw new BootError('io', `not written yet (${memory.size})`, 'wait', { path: guest.kernel });
}
