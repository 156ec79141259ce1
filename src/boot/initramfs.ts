// Puts the initramfs into guest RAM, as high as it fits below the hole for devices, so that the kernel may grow
// upwards. Main thread.
//
// Its content is the guest's business: any file is handed over as it is, whole and to the byte, so several archives one
// after the other are fine (Documentation/driver-api/early-userspace/buffer-format.rst). Linux takes it as `ramdisk_image`
// (boot.rst) or as the first PVH module.

import { BootError } from './errors.js';
import type { BootFile } from './file.js';
import type { KernelImage } from './kernel-image.js';
import { DEVICE_HOLE_START, KERNEL_MIN_GPA } from './layout.js';
import { readInto } from './load-elf.js';
import { lowRam } from './memory-map.js';
import type { BootMemory, MemoryRange } from './memory.js';
import { alignUp, formatBytes, PAGE_SIZE } from '../platform/units.js';

/** Where an initramfs of `size` bytes goes, beside `kernel`. Throws BootError initramfs-too-large. */
export function placeInitramfs(file: BootFile, kernel: KernelImage, memory: BootMemory): MemoryRange {
  const { size } = file;
  const ceiling = Math.min(DEVICE_HOLE_START, kernel.initramfsLimit);
  const top = Math.min(lowRam(memory).size, ceiling);
  const pages = alignUp(size, PAGE_SIZE);
  const descending = [...kernel.segments].sort((a, b) => b.gpa - a.gpa);

  let gpa = alignDown(top, PAGE_SIZE) - pages;
  for (const segment of descending) {
    const isBelow = segment.gpa + segment.memorySize <= gpa;
    const isAbove = segment.gpa >= gpa + pages;
    if (!isBelow && !isAbove) gpa = alignDown(segment.gpa, PAGE_SIZE) - pages;
  }
  if (gpa < KERNEL_MIN_GPA) {
    const kernelSize = kernel.segments.reduce((sum, segment) => sum + segment.memorySize, 0);
    throw new BootError(
      'initramfs-too-large',
      `the initramfs has ${formatBytes(size)}, which does not fit into ${formatBytes(memory.size)} of memory ` +
        `(${formatBytes(top)} below ${formatBytes(ceiling)}) beside a kernel of ${formatBytes(kernelSize)}`,
      'give the guest more memory or make the initramfs smaller',
      { path: file.path },
    );
  }
  return { gpa, size };
}

/** Reads the initramfs to its place. Throws BootError io. */
export function loadInitramfs(file: BootFile, place: MemoryRange, memory: BootMemory): void {
  readInto(file, memory, 0, place.gpa, place.size);
}

function alignDown(value: number, alignment: number): number {
  return Math.floor(value / alignment) * alignment;
}
