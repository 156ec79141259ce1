// ELF64 headers of a kernel: parsed, then checked field by field, before any of it is believed. Main thread.
//
// Specification: System V ABI, chapters 4 and 5, and its x86-64 supplement. JavaScript reads the headers and notes
// only; the segments go from the file straight into guest RAM (load-elf.ts). Sections and symbols are of no interest
// here.

import { BootError } from './errors.js';
import type { BootFile } from './file.js';
import { FORMAT_PROBE_SIZE, recogniseFormat } from './format.js';
import { hex } from '../platform/units.js';

/** A PT_LOAD segment. Addresses and sizes are checked against the file and against overflow, not against RAM. */
export interface ElfSegment {
  /** Its place in the program header table, as `readelf -l` counts. */
  readonly index: number;
  readonly fileOffset: number;
  /** p_paddr. */
  readonly gpa: number;
  readonly fileSize: number;
  /** At least `fileSize` and above 0; the difference is zeroes. */
  readonly memorySize: number;
}

/** Where a PT_NOTE segment is in the file. */
export interface ElfNoteSegment {
  readonly fileOffset: number;
  readonly fileSize: number;
  /** 4 or 8: what names and descriptors are padded to. */
  readonly align: number;
}

export interface ElfKernel {
  /** e_entry; 0 means that there is none. */
  readonly entry: number;
  /** At least one. */
  readonly segments: readonly ElfSegment[];
  readonly notes: readonly ElfNoteSegment[];
}

/*
 * typedef struct {
 *   unsigned char e_ident[16];   // 0: "\x7fELF", class, data, version, OS ABI, padding
 *   Elf64_Half    e_type;        // 16
 *   Elf64_Half    e_machine;     // 18
 *   Elf64_Word    e_version;     // 20
 *   Elf64_Addr    e_entry;       // 24
 *   Elf64_Off     e_phoff;       // 32
 *   Elf64_Off     e_shoff;       // 40
 *   Elf64_Word    e_flags;       // 48
 *   Elf64_Half    e_ehsize;      // 52
 *   Elf64_Half    e_phentsize;   // 54
 *   Elf64_Half    e_phnum;       // 56
 *   Elf64_Half    e_shentsize, e_shnum, e_shstrndx;
 * } Elf64_Ehdr;                  // 64
 */
export const EHDR = {
  CLASS: 4,
  DATA: 5,
  TYPE: 16,
  MACHINE: 18,
  VERSION: 20,
  ENTRY: 24,
  PHOFF: 32,
  PHENTSIZE: 54,
  PHNUM: 56,
  SIZE: 64,
} as const;

/*
 * typedef struct {
 *   Elf64_Word  p_type;     // 0
 *   Elf64_Word  p_flags;    // 4
 *   Elf64_Off   p_offset;   // 8
 *   Elf64_Addr  p_vaddr;    // 16
 *   Elf64_Addr  p_paddr;    // 24
 *   Elf64_Xword p_filesz;   // 32
 *   Elf64_Xword p_memsz;    // 40
 *   Elf64_Xword p_align;    // 48
 * } Elf64_Phdr;             // 56
 */
export const PHDR = { TYPE: 0, OFFSET: 8, VADDR: 16, PADDR: 24, FILESZ: 32, MEMSZ: 40, ALIGN: 48, SIZE: 56 } as const;

const ELF_MAGIC = [0x7f, 0x45, 0x4c, 0x46];
const ELFCLASS32 = 1;
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ELFDATA2MSB = 2;
const EV_CURRENT = 1;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_INTERP = 3;
const PT_NOTE = 4;

/** More program headers than any kernel has, and few enough to read at once. */
const MAX_PROGRAM_HEADERS = 128;

const ET_NAMES = new Map([
  [0, 'of no type'],
  [1, 'a relocatable object (an .o file or a kernel module)'],
  [4, 'a core dump'],
]);
const ET_EXEC = 2;
const ET_DYN = 3;

const MACHINE_NAMES = new Map([
  [2, 'SPARC'],
  [3, 'i386'],
  [8, 'MIPS'],
  [20, 'PowerPC'],
  [21, 'PowerPC64'],
  [22, 'S/390'],
  [40, 'ARM'],
  [43, 'SPARC V9'],
  [50, 'IA-64'],
  [183, 'AArch64'],
  [243, 'RISC-V'],
  [247, 'BPF'],
  [258, 'LoongArch'],
]);

const REBUILT = 'it is damaged: build or copy it again';
const X86_64_NEEDED = 'a kernel built for x86-64 is needed';
const KERNEL_NEEDED = 'an ELF kernel (vmlinux) is needed';

/** Parses and checks the headers of `file`. Throws BootError. */
export function parseElfKernel(file: BootFile): ElfKernel {
  const { path } = file;
  const head = file.read(0, EHDR.SIZE);
  if (!ELF_MAGIC.every((byte, index) => head[index] === byte)) {
    const format = recogniseFormat(file.read(0, FORMAT_PROBE_SIZE));
    throw new BootError(
      'wrong-format',
      `the ${file.role} is ${format.name}, neither an ELF file nor a bzImage`,
      format.mend,
      { path },
    );
  }
  if (head.length < EHDR.SIZE) {
    throw new BootError('truncated', `the ELF header ends after ${head.length} bytes`, REBUILT, { path });
  }
  const view = viewOf(head);
  checkIdentity(view, path);
  const entry = u64(view, EHDR.ENTRY, 'the entry point', path);
  const table = programHeaderTable(file, view);

  const segments: ElfSegment[] = [];
  const notes: ElfNoteSegment[] = [];
  for (let index = 0; index * PHDR.SIZE < table.byteLength; index++) {
    const header = new DataView(table.buffer, table.byteOffset + index * PHDR.SIZE, PHDR.SIZE);
    const type = header.getUint32(PHDR.TYPE, true);
    if (type === PT_INTERP) throw notAKernel('a dynamically linked program', path);
    if (type === PT_LOAD) {
      const segment = loadSegment(header, index, file);
      if (segment !== undefined) segments.push(segment);
    }
    if (type === PT_NOTE) notes.push(noteSegment(header, index, file));
  }
  if (segments.length === 0) {
    throw new BootError('not-a-kernel', 'the ELF file has no segment to load', KERNEL_NEEDED, { path });
  }
  return { entry, segments, notes };
}

function checkIdentity(view: DataView, path: string): void {
  const elfClass = view.getUint8(EHDR.CLASS);
  const data = view.getUint8(EHDR.DATA);
  if ((elfClass !== ELFCLASS32 && elfClass !== ELFCLASS64) || (data !== ELFDATA2LSB && data !== ELFDATA2MSB)) {
    throw new BootError('bad-elf', `an ELF header of class ${elfClass} and data encoding ${data}`, REBUILT, { path });
  }
  const machine = view.getUint16(EHDR.MACHINE, data === ELFDATA2LSB);
  if (elfClass !== ELFCLASS64 || data !== ELFDATA2LSB || machine !== EM_X86_64) {
    const bits = elfClass === ELFCLASS64 ? '64-bit' : '32-bit';
    const name = machine === EM_X86_64 ? 'x86-64' : (MACHINE_NAMES.get(machine) ?? `machine ${machine}`);
    const order = data === ELFDATA2LSB ? '' : ', big-endian';
    throw new BootError('wrong-machine', `a ${bits} ELF file for ${name}${order}`, X86_64_NEEDED, { path });
  }
  const version = view.getUint32(EHDR.VERSION, true);
  if (version !== EV_CURRENT) throw new BootError('bad-elf', `ELF version ${version}`, REBUILT, { path });
  const type = view.getUint16(EHDR.TYPE, true);
  if (type === ET_EXEC) return;
  // A position-independent executable is a shared object with an entry point.
  if (type !== ET_DYN) throw notAKernel(ET_NAMES.get(type) ?? `of type ${type}`, path);
  if (view.getBigUint64(EHDR.ENTRY, true) === 0n) throw notAKernel('a shared object without an entry point', path);
}

function programHeaderTable(file: BootFile, header: DataView): DataView {
  const { path } = file;
  const offset = u64(header, EHDR.PHOFF, 'the place of the program headers', path);
  const count = header.getUint16(EHDR.PHNUM, true);
  if (offset === 0 || count === 0) throw notAKernel('without program headers', path);
  const entrySize = header.getUint16(EHDR.PHENTSIZE, true);
  if (entrySize !== PHDR.SIZE) {
    throw new BootError('bad-elf', `program headers of ${entrySize} bytes instead of ${PHDR.SIZE}`, REBUILT, { path });
  }
  if (count > MAX_PROGRAM_HEADERS) {
    throw new BootError('bad-elf', `${count} program headers (at most ${MAX_PROGRAM_HEADERS})`, REBUILT, { path });
  }
  const bytes = file.read(offset, count * PHDR.SIZE);
  if (bytes.length < count * PHDR.SIZE) throw truncated('the program headers', offset + count * PHDR.SIZE, file);
  return viewOf(bytes);
}

function loadSegment(header: DataView, index: number, file: BootFile): ElfSegment | undefined {
  const { path } = file;
  const what = `segment ${index}`;
  const fileOffset = u64(header, PHDR.OFFSET, `the file offset of ${what}`, path);
  const gpa = u64(header, PHDR.PADDR, `the physical address of ${what}`, path);
  const fileSize = u64(header, PHDR.FILESZ, `the file size of ${what}`, path);
  const memorySize = u64(header, PHDR.MEMSZ, `the memory size of ${what}`, path);
  if (fileSize > memorySize) {
    const detail = `${what} has ${fileSize} bytes in the file and room for ${memorySize} in memory`;
    throw new BootError('bad-elf', detail, REBUILT, { path });
  }
  if (memorySize === 0) return undefined;
  if (fileOffset + fileSize > file.size) throw truncated(what, fileOffset + fileSize, file);
  return { index, fileOffset, gpa, fileSize, memorySize };
}

function noteSegment(header: DataView, index: number, file: BootFile): ElfNoteSegment {
  const { path } = file;
  const what = `note segment ${index}`;
  const fileOffset = u64(header, PHDR.OFFSET, `the file offset of ${what}`, path);
  const fileSize = u64(header, PHDR.FILESZ, `the file size of ${what}`, path);
  if (fileOffset + fileSize > file.size) throw truncated(what, fileOffset + fileSize, file);
  return { fileOffset, fileSize, align: header.getBigUint64(PHDR.ALIGN, true) === 8n ? 8 : 4 };
}

/**
 * A 64-bit field as a Number. Physical addresses have at most 52 bits, and no file is larger: refusing more here means
 * that the sum of any two fields is exact.
 */
function u64(view: DataView, offset: number, what: string, path: string): number {
  const value = view.getBigUint64(offset, true);
  if (value >> 52n !== 0n) {
    throw new BootError('bad-elf', `${what} is ${hex(value)}, which is beyond 52 bits`, REBUILT, { path });
  }
  return Number(value);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function truncated(what: string, end: number, file: BootFile): BootError {
  const detail = `the file has ${file.size} bytes, but ${what} reaches to byte ${end}`;
  return new BootError('truncated', detail, 'it was cut short: build or copy it again', { path: file.path });
}

function notAKernel(what: string, path: string): BootError {
  return new BootError('not-a-kernel', `an ELF file, but ${what}`, KERNEL_NEEDED, { path });
}
