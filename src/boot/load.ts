// Loads a guest: kernel, initramfs, command line and the tables that the boot protocols ask for. Main thread, before
// the VM starts. This is the folder's front door; the other files are one concept each.

import type { AcpiOptions } from './acpi/options.js';
import { writeAcpiTables } from './acpi/tables.js';
import { checkCommandLine } from './command-line.js';
import { BootFile } from './file.js';
import { loadInitramfs, placeInitramfs } from './initramfs.js';
import { readKernel, type KernelImage } from './kernel-image.js';
import { COMMAND_LINE_AREA_SIZE, COMMAND_LINE_GPA } from './layout.js';
import { prepareLinux64 } from './linux64.js';
import { loadSegments } from './load-elf.js';
import { buildMemoryMap } from './memory-map.js';
import type { BootMemory, MemoryRange } from './memory.js';
import { writeMpTable } from './mp-table.js';
import { preparePvh } from './pvh.js';
import type { BootProtocol, BootState } from './state.js';

export interface GuestToLoad {
  /** Path of an ELF64 kernel (vmlinux, or the built-in guest) or of a bzImage: its content says which. */
  readonly kernel: string;
  /** Path of an initramfs: any file, it is handed over as it is. */
  readonly initramfs?: string | undefined;
  /** The whole command line, as `buildCommandLine` makes it. */
  readonly cmdline: string;
  /** Number of vCPUs; their local APIC ids are 0 to cpus - 1. */
  readonly cpus: number;
  /** The devices that the ACPI tables are to name. Absent: no ACPI tables. */
  readonly acpi?: AcpiOptions | undefined;
  /** Default: PVH when the kernel has the note for it, else the 64-bit Linux protocol. */
  readonly protocol?: BootProtocol | undefined;
}

/**
 * Writes `guest` into `memory` and returns how vCPU 0 must begin. Throws BootError for anything that is wrong with the
 * files or does not fit; `memory` may then be partly written and of no use.
 */
export function loadGuest(memory: BootMemory, guest: GuestToLoad): BootState {
  const map = buildMemoryMap(memory, guest.acpi !== undefined);
  using kernelFile = new BootFile(guest.kernel, 'kernel');
  const kernel = readKernel(kernelFile, memory, guest.protocol);
  const { protocol, entry, setupHeader } = kernel;
  checkCommandLine(guest.cmdline, Math.min(kernel.cmdlineLimit, COMMAND_LINE_AREA_SIZE - 1));
  writeMpTable(memory, guest.cpus);
  const rsdp = guest.acpi === undefined ? undefined : writeAcpiTables(memory, guest.acpi, guest.cpus);
  const initramfs = guest.initramfs === undefined ? undefined : loadInitramfsFile(guest.initramfs, kernel, memory);

  loadSegments(kernelFile, kernel.segments, memory);
  const cmdlineSize = writeCommandLine(memory, guest.cmdline);
  const state =
    protocol === 'pvh'
      ? preparePvh(memory, { entry, initramfs, map, rsdp })
      : prepareLinux64(memory, { entry, setupHeader, cmdlineSize, initramfs, map, rsdp });
  return { protocol, entry, ...state, placement: { kernel: extent(kernel), initramfs, cmdline: guest.cmdline } };
}

function loadInitramfsFile(path: string, kernel: KernelImage, memory: BootMemory): MemoryRange {
  using file = new BootFile(path, 'initramfs');
  const place = placeInitramfs(file, kernel, memory);
  loadInitramfs(file, place, memory);
  return place;
}

function writeCommandLine(memory: BootMemory, cmdline: string): number {
  const bytes = Buffer.from(`${cmdline}\0`);
  memory.write(COMMAND_LINE_GPA, bytes);
  return bytes.length - 1;
}

function extent(kernel: KernelImage): { start: number; end: number } {
  return {
    start: Math.min(...kernel.segments.map(({ gpa }) => gpa)),
    end: Math.max(...kernel.segments.map(({ gpa, memorySize }) => gpa + memorySize)),
  };
}
