// Loads a guest: kernel, initramfs, command line and the tables that the boot protocols ask for. Main thread, before
// the VM starts. This is the folder's front door; the other files are one concept each.

import { checkCommandLine } from './command-line.js';
import { parseElfKernel, type ElfKernel } from './elf.js';
import { findPvhEntry } from './elf-notes.js';
import { BootError } from './errors.js';
import { BootFile } from './file.js';
import { loadInitramfs, placeInitramfs } from './initramfs.js';
import { COMMAND_LINE_GPA, IDENTITY_MAPPED_SIZE } from './layout.js';
import { prepareLinux64 } from './linux64.js';
import { checkPlacement, isLoaded, loadSegments } from './load-elf.js';
import { buildMemoryMap } from './memory-map.js';
import type { BootMemory, MemoryRange } from './memory.js';
import { writeMpTable } from './mp-table.js';
import { preparePvh } from './pvh.js';
import type { BootProtocol, BootState } from './state.js';
import { hex } from '../platform/units.js';

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
 * files or does not fit; `memory` may then be partly written and of no use.
 */
export function loadGuest(memory: BootMemory, guest: GuestToLoad): BootState {
  const map = buildMemoryMap(memory);
  checkCommandLine(guest.cmdline);
  using kernelFile = new BootFile(guest.kernel, 'kernel');
  const kernel = parseElfKernel(kernelFile);
  checkPlacement(kernelFile, kernel, memory);
  const { protocol, entry } = chooseEntry(kernelFile, kernel, guest.protocol);
  writeMpTable(memory, guest.cpus);
  const initramfs = guest.initramfs === undefined ? undefined : loadInitramfsFile(guest.initramfs, kernel, memory);

  loadSegments(kernelFile, kernel, memory);
  const cmdlineSize = writeCommandLine(memory, guest.cmdline);
  const state =
    protocol === 'pvh'
      ? preparePvh(memory, { entry, initramfs, map })
      : prepareLinux64(memory, { entry, cmdlineSize, initramfs, map });
  return { protocol, entry, ...state, placement: { kernel: extent(kernel), initramfs, cmdline: guest.cmdline } };
}

function chooseEntry(
  file: BootFile,
  kernel: ElfKernel,
  wanted: BootProtocol | undefined,
): { protocol: BootProtocol; entry: number } {
  const { path } = file;
  const pvhEntry = wanted === 'linux64' ? undefined : findPvhEntry(file, kernel);
  if (wanted === 'pvh' && pvhEntry === undefined) {
    throw new BootError('not-a-kernel', 'the kernel has no PVH entry point', 'build it with CONFIG_PVH=y', { path });
  }
  const protocol = pvhEntry === undefined ? 'linux64' : 'pvh';
  const entry = pvhEntry ?? kernel.entry;
  if (!isLoaded(kernel, entry)) {
    const detail =
      entry === 0 ? 'an ELF file without an entry point' : `no segment holds the entry point ${hex(entry)}`;
    throw new BootError('not-a-kernel', detail, 'an ELF kernel (vmlinux) is needed', { path });
  }
  if (protocol === 'linux64' && entry >= IDENTITY_MAPPED_SIZE) {
    const detail = `the entry point ${hex(entry)} is not in the first GiB, which is all that is mapped at entry`;
    throw new BootError('bad-placement', detail, 'link the kernel lower or give it a PVH note', { path });
  }
  return { protocol, entry };
}

function loadInitramfsFile(path: string, kernel: ElfKernel, memory: BootMemory): MemoryRange {
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

function extent(kernel: ElfKernel): { start: number; end: number } {
  return {
    start: Math.min(...kernel.segments.map(({ gpa }) => gpa)),
    end: Math.max(...kernel.segments.map(({ gpa, memorySize }) => gpa + memorySize)),
  };
}
