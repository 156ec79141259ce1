// Puts a parsed ELF kernel into guest RAM: first every placement is checked, then every segment is read. Main thread.

import type { ElfKernel, ElfSegment } from './elf.js';
import { BootError } from './errors.js';
import { unreadable, type BootFile } from './file.js';
import { KERNEL_MIN_GPA } from './layout.js';
import { isRam } from './memory-map.js';
import type { BootMemory } from './memory.js';
import type { KernelSegment } from './kernel-image.js';
import { formatBytes, hex } from '../platform/units.js';

/** Throws BootError unless every segment is inside RAM, above the boot code's area, and clear of the others. */
export function checkPlacement(file: BootFile, kernel: ElfKernel, memory: BootMemory): void {
  const { path } = file;
  const ascending = [...kernel.segments].sort((a, b) => a.gpa - b.gpa);
  const end = endOf(ascending);
  for (const segment of ascending) {
    if (segment.gpa < KERNEL_MIN_GPA) {
      const detail = `segment ${segment.index} is to be loaded at ${hex(segment.gpa)}, below 1 MiB, where boot data is`;
      throw new BootError('bad-placement', detail, 'a kernel must be linked for 1 MiB or above', { path });
    }
    if (!isRam(memory, segment.gpa, segment.memorySize)) throw outsideRam(file, segment, end, memory);
  }
  for (const [index, segment] of ascending.slice(1).entries()) {
    const previous = ascending[index];
    if (previous.gpa + previous.memorySize > segment.gpa) {
      const detail = `segments ${previous.index} and ${segment.index} overlap at ${hex(segment.gpa)}`;
      throw new BootError('bad-elf', detail, 'it is damaged: build or copy it again', { path });
    }
  }
}

/** Whether [entry, entry + 1) is in one of the segments: otherwise the guest would run zeroes. */
export function isLoaded(kernel: ElfKernel, entry: number): boolean {
  return kernel.segments.some(({ gpa, memorySize }) => entry >= gpa && entry < gpa + memorySize);
}

/** Reads a kernel's segments into RAM, which they must be inside of. Throws BootError io. */
export function loadSegments(file: BootFile, segments: readonly KernelSegment[], memory: BootMemory): void {
  for (const { fileOffset, gpa, fileSize, memorySize } of segments) {
    readInto(file, memory, fileOffset, gpa, fileSize);
    if (memorySize > fileSize) memory.zero?.(gpa + fileSize, memorySize - fileSize);
  }
}

/** `memory.readFileInto` with its failures as BootError. */
export function readInto(file: BootFile, memory: BootMemory, fileOffset: number, gpa: number, length: number): void {
  if (length === 0) return;
  try {
    memory.readFileInto(file.fd, fileOffset, gpa, length);
  } catch (cause) {
    throw unreadable(file.path, file.role, cause);
  }
}

/** The BootError for a kernel that reaches up to `end`. */
export function memoryTooSmall(path: string, end: number, memory: BootMemory): BootError {
  const detail = `the kernel needs memory up to ${hex(end)} (${formatBytes(end)}), the guest has ${formatBytes(memory.size)}`;
  return new BootError('memory-too-small', detail, 'give it more memory', { path });
}

function outsideRam(file: BootFile, segment: ElfSegment, end: number, memory: BootMemory): BootError {
  const { path } = file;
  const at = `${hex(segment.gpa)} to ${hex(segment.gpa + segment.memorySize)}`;
  const top = memory.ranges.reduce((highest, range) => Math.max(highest, range.gpa + range.size), 0);
  if (segment.gpa + segment.memorySize > top) {
    return memoryTooSmall(path, end, memory);
  }
  const detail = `segment ${segment.index} (${at}) lies in the hole for devices`;
  return new BootError('bad-placement', detail, 'a kernel must be linked for RAM, below 3 GiB', { path });
}

function endOf(segments: readonly ElfSegment[]): number {
  return segments.reduce((end, { gpa, memorySize }) => Math.max(end, gpa + memorySize), 0);
}
