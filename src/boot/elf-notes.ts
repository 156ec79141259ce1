// The PVH entry point among a kernel's ELF notes. Main thread.
//
// Specification: xen/include/public/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY) and docs/misc/pvh.pandoc of Xen; the note
// format is in the System V ABI, chapter 5.

import type { ElfKernel } from './elf.js';
import { BootError } from './errors.js';
import type { BootFile } from './file.js';
import { TWO_POW_32 } from '../platform/units.js';

/*
 * typedef struct {
 *   Elf64_Word n_namesz;   // 0, with the final NUL
 *   Elf64_Word n_descsz;   // 4
 *   Elf64_Word n_type;     // 8
 * } Elf64_Nhdr;            // 12, then the name and the descriptor, each padded
 */
const NHDR = { NAMESZ: 0, DESCSZ: 4, TYPE: 8, SIZE: 12 } as const;

const XEN_NAME = Buffer.from('Xen\0');
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

/** Linux has about a hundred bytes of notes. */
const MAX_NOTES_SIZE = 64 * 1024;

/**
 * The 32-bit physical address of the PVH entry point, or undefined when the kernel has none. Throws BootError bad-elf.
 */
export function findPvhEntry(file: BootFile, kernel: ElfKernel): number | undefined {
  for (const segment of kernel.notes) {
    if (segment.fileSize > MAX_NOTES_SIZE) {
      throw badNote(file, `a note segment of ${segment.fileSize} bytes (at most ${MAX_NOTES_SIZE})`);
    }
    const entry = findInSegment(file, file.read(segment.fileOffset, segment.fileSize), segment.align);
    if (entry !== undefined) return entry;
  }
  return undefined;
}

function findInSegment(file: BootFile, notes: Uint8Array, align: number): number | undefined {
  const view = new DataView(notes.buffer, notes.byteOffset, notes.byteLength);
  let offset = 0;
  while (offset + NHDR.SIZE <= notes.length) {
    const nameSize = view.getUint32(offset + NHDR.NAMESZ, true);
    const descSize = view.getUint32(offset + NHDR.DESCSZ, true);
    const type = view.getUint32(offset + NHDR.TYPE, true);
    const name = offset + NHDR.SIZE;
    // Padding counts from the start of the note. At align 8 the 12-byte header makes that differ from padding the name.
    const desc = offset + padded(NHDR.SIZE + nameSize, align);
    if (name + nameSize > notes.length || desc + descSize > notes.length) {
      throw badNote(file, `the note at byte ${offset} of its segment reaches beyond the segment`);
    }
    const isXen = Buffer.compare(notes.subarray(name, name + nameSize), XEN_NAME) === 0;
    if (isXen && type === XEN_ELFNOTE_PHYS32_ENTRY) return entryOf(file, view, desc, descSize);
    offset = desc + padded(descSize, align);
  }
  return undefined;
}

function entryOf(file: BootFile, view: DataView, desc: number, descSize: number): number {
  // The note holds an unsigned long: 4 bytes where 32-bit assembly wrote it, 8 in a 64-bit kernel.
  if (descSize === 4) return view.getUint32(desc, true);
  if (descSize !== 8) throw badNote(file, `the PVH note holds ${descSize} bytes instead of 4 or 8`);
  const entry = Number(view.getBigUint64(desc, true));
  if (entry >= TWO_POW_32) throw badNote(file, 'the PVH entry point is not below 4 GiB');
  return entry;
}

function padded(size: number, align: number): number {
  return Math.ceil(size / align) * align;
}

function badNote(file: BootFile, detail: string): BootError {
  return new BootError('bad-elf', detail, 'it is damaged: build or copy it again', { path: file.path });
}
