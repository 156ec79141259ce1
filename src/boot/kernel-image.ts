// What loading a kernel takes, whatever its format: where its pieces go and where it begins. Main thread.

import { entry64, isBzImage, parseBzImage, placeBzImage, SETUP_HEADER } from './bzimage.js';
import { parseElfKernel, type ElfKernel } from './elf.js';
import { findPvhEntry } from './elf-notes.js';
import { BootError } from './errors.js';
import type { BootFile } from './file.js';
import { COMMAND_LINE_SIZE, IDENTITY_MAPPED_SIZE } from './layout.js';
import { checkPlacement, isLoaded } from './load-elf.js';
import type { BootMemory } from './memory.js';
import type { BootProtocol } from './state.js';
import { hex, TWO_POW_32 } from '../platform/units.js';

/** A piece of a kernel: from the file, and zeroes up to its size in memory. */
export interface KernelSegment {
  readonly fileOffset: number;
  readonly gpa: number;
  readonly fileSize: number;
  /** At least `fileSize`. */
  readonly memorySize: number;
}

/** A kernel that is known to fit where it goes. */
export interface KernelImage {
  readonly protocol: BootProtocol;
  /** Guest-physical address of the first instruction. */
  readonly entry: number;
  /** At least one; inside RAM, not overlapping. */
  readonly segments: readonly KernelSegment[];
  /** The longest command line in bytes, without the final NUL. */
  readonly cmdlineLimit: number;
  /** The initramfs must end at or below this address. */
  readonly initramfsLimit: number;
  /** What the zero page begins with; undefined when the kernel brings no setup header. */
  readonly setupHeader: Uint8Array | undefined;
}

/**
 * Recognises, parses and places the kernel in `file`. `wanted` is the boot protocol to use; without it that is PVH when
 * the kernel has the note for it, else the 64-bit Linux protocol. Throws BootError.
 */
export function readKernel(file: BootFile, memory: BootMemory, wanted: BootProtocol | undefined): KernelImage {
  return isBzImage(file.read(0, SETUP_HEADER.MAX_END))
    ? readBzImage(file, memory, wanted)
    : readElf(file, memory, wanted);
}

function readBzImage(file: BootFile, memory: BootMemory, wanted: BootProtocol | undefined): KernelImage {
  if (wanted === 'pvh') {
    const mend = 'use the 64-bit Linux protocol, or the vmlinux of the same kernel';
    throw new BootError('not-a-kernel', 'a bzImage has no PVH entry point', mend, { path: file.path });
  }
  const image = parseBzImage(file);
  const gpa = placeBzImage(file, image, memory);
  const { fileOffset, fileSize, memorySize, cmdlineLimit, initramfsLimit, setupHeader } = image;
  const segments = [{ fileOffset, gpa, fileSize, memorySize }];
  return { protocol: 'linux64', entry: entry64(gpa), segments, cmdlineLimit, initramfsLimit, setupHeader };
}

function readElf(file: BootFile, memory: BootMemory, wanted: BootProtocol | undefined): KernelImage {
  const kernel = parseElfKernel(file);
  checkPlacement(file, kernel, memory);
  return {
    ...chooseEntry(file, kernel, wanted),
    segments: kernel.segments,
    cmdlineLimit: COMMAND_LINE_SIZE - 1,
    initramfsLimit: TWO_POW_32,
    setupHeader: undefined,
  };
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
