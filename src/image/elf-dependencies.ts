// What a program or library says that it needs to be loaded: its interpreter, its libraries, where they are to be looked for.
// Read from the file: running it, as ldd does, would be to trust it.
//
// Specification: System V ABI, chapter 5, "Dynamic Linking", and its x86-64 supplement. Every offset is checked against the
// file. Left out: 32-bit programs, and libraries that a program loads by itself (dlopen), which nothing in the file tells.

import type { FileHandle } from 'node:fs/promises';
import { EHDR, PHDR } from '../boot/elf.js';
import { FileSource } from './byte-source.js';
import { openRegular } from './content.js';
import { hostFailure, ImageError } from './errors.js';

const MAGIC = Buffer.from('\x7fELF', 'latin1');
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const EM_X86_64 = 62;
const ET_EXEC = 2;
const ET_DYN = 3;

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;

/** Elf64_Dyn { Elf64_Sxword d_tag; union { Elf64_Xword d_val; Elf64_Addr d_ptr; } d_un; } */
const DYN = { SIZE: 16, TAG: 0, VALUE: 8 };
const DT_NULL = 0n;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;
const DT_RPATH = 15n;
const DT_RUNPATH = 29n;

// More than any program has, and little enough to read at once.
const MAX_PROGRAM_HEADERS = 256;
const MAX_DYNAMIC = 64 * 1024;
const MAX_STRING = 4096;

const REBUILT = 'it is damaged: build or copy it again';

/** What a file is, as far as loading it goes. */
export type Executable =
  | {
      readonly kind: 'elf';
      /** PT_INTERP: a path; undefined for a static program and for most libraries. */
      readonly interpreter: string | undefined;
      readonly needed: readonly string[];
      /** DT_RPATH and DT_RUNPATH, directories as they stand there. */
      readonly rpath: readonly string[];
      readonly runpath: readonly string[];
    }
  /** "#!" and the interpreter's path. */
  | { readonly kind: 'script'; readonly interpreter: string }
  /** An ELF file for another machine, or no executable at all. */
  | { readonly kind: 'other'; readonly what: string };

/** Reads what the file at `path` needs; symbolic links are followed. Throws ImageError. */
export async function readExecutable(path: string): Promise<Executable> {
  const { file, size } = await openRegular(path, true);
  try {
    return await parseExecutable(file, size, path);
  } catch (error) {
    throw hostFailure(path, error);
  } finally {
    await file.close();
  }
}

async function parseExecutable(file: FileHandle, size: number, path: string): Promise<Executable> {
  const read = (start: number, length: number): Promise<Buffer> =>
    new FileSource(file, start, size - start).read(length);
  const head = await read(0, Math.max(EHDR.SIZE, 256));
  if (head.toString('latin1', 0, 2) === '#!') {
    const interpreter = /^#![ \t]*(\S+)/.exec(head.toString('latin1').split('\n', 1)[0] ?? '')?.[1];
    return interpreter === undefined
      ? { kind: 'other', what: 'a script for nothing' }
      : { kind: 'script', interpreter };
  }
  if (!head.subarray(0, MAGIC.length).equals(MAGIC)) return { kind: 'other', what: 'neither a program nor a script' };
  if (head.length < EHDR.SIZE) throw damaged(path, 'the ELF header is cut short');
  if (
    head[EHDR.CLASS] !== ELFCLASS64 ||
    head[EHDR.DATA] !== ELFDATA2LSB ||
    head.readUInt16LE(EHDR.MACHINE) !== EM_X86_64
  ) {
    return { kind: 'other', what: 'an ELF file for another machine than x86-64' };
  }
  const type = head.readUInt16LE(EHDR.TYPE);
  if (type !== ET_EXEC && type !== ET_DYN) return { kind: 'other', what: 'an ELF file that cannot be run' };
  const segments = await segmentsOf(head, read, path, size);
  const interpreter = segments.find((segment) => segment.type === PT_INTERP);
  const dynamic = segments.find((segment) => segment.type === PT_DYNAMIC);
  const name = interpreter === undefined ? undefined : cString(await read(interpreter.offset, MAX_STRING), path);
  if (dynamic === undefined) return { kind: 'elf', interpreter: name, needed: [], rpath: [], runpath: [] };
  return { kind: 'elf', interpreter: name, ...(await dynamicStrings(dynamic, segments, read, path)) };
}

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly fileSize: number;
}

type Read = (start: number, length: number) => Promise<Buffer>;

async function segmentsOf(head: Buffer, read: Read, path: string, size: number): Promise<Segment[]> {
  const count = head.readUInt16LE(EHDR.PHNUM);
  if (count === 0) return [];
  if (head.readUInt16LE(EHDR.PHENTSIZE) !== PHDR.SIZE || count > MAX_PROGRAM_HEADERS) {
    throw damaged(path, `${count} program headers of an unknown size`);
  }
  const table = await read(exact(head.readBigUInt64LE(EHDR.PHOFF), path), count * PHDR.SIZE);
  if (table.length < count * PHDR.SIZE) throw damaged(path, 'the program headers reach beyond the file');
  return Array.from({ length: count }, (_, index) => {
    const at = index * PHDR.SIZE;
    const segment = {
      type: table.readUInt32LE(at + PHDR.TYPE),
      offset: exact(table.readBigUInt64LE(at + PHDR.OFFSET), path),
      address: exact(table.readBigUInt64LE(at + PHDR.VADDR), path),
      fileSize: exact(table.readBigUInt64LE(at + PHDR.FILESZ), path),
    };
    const inUse = segment.type === PT_LOAD || segment.type === PT_DYNAMIC || segment.type === PT_INTERP;
    if (inUse && segment.offset + segment.fileSize > size)
      throw damaged(path, `segment ${index} reaches beyond the file`);
    return segment;
  });
}

async function dynamicStrings(
  dynamic: Segment,
  segments: readonly Segment[],
  read: Read,
  path: string,
): Promise<{ needed: string[]; rpath: string[]; runpath: string[] }> {
  if (dynamic.fileSize > MAX_DYNAMIC) throw damaged(path, `a dynamic section of ${dynamic.fileSize} bytes`);
  const table = await read(dynamic.offset, dynamic.fileSize);
  const offsets = new Map<bigint, number[]>();
  for (let at = 0; at + DYN.SIZE <= table.length; at += DYN.SIZE) {
    const tag = table.readBigInt64LE(at + DYN.TAG);
    if (tag === DT_NULL) break;
    const wanted = tag === DT_NEEDED || tag === DT_STRTAB || tag === DT_RPATH || tag === DT_RUNPATH;
    if (wanted) offsets.set(tag, [...(offsets.get(tag) ?? []), exact(table.readBigUInt64LE(at + DYN.VALUE), path)]);
  }
  const strings = offsets.get(DT_STRTAB)?.[0];
  const load = segments.find(
    ({ type, address, fileSize }) =>
      type === PT_LOAD && strings !== undefined && strings >= address && strings < address + fileSize,
  );
  const read1 = async (tag: bigint): Promise<string[]> => {
    const found: string[] = [];
    for (const offset of offsets.get(tag) ?? []) {
      if (strings === undefined || load === undefined) throw damaged(path, 'its names are nowhere in the file');
      const start = load.offset + (strings - load.address) + offset;
      if (offset > load.fileSize) throw damaged(path, 'a name lies outside of the file');
      found.push(cString(await read(start, MAX_STRING), path));
    }
    return found;
  };
  const directories = (lists: readonly string[]): string[] =>
    lists.flatMap((list) => list.split(':')).filter((name) => name !== '');
  return {
    needed: await read1(DT_NEEDED),
    rpath: directories(await read1(DT_RPATH)),
    runpath: directories(await read1(DT_RUNPATH)),
  };
}

function cString(bytes: Buffer, path: string): string {
  const end = bytes.indexOf(0);
  if (end <= 0) throw damaged(path, 'a name in it has no end');
  return bytes.toString('utf8', 0, end);
}

/** Sums of two of these are exact. */
function exact(value: bigint, path: string): number {
  if (value >> 52n !== 0n) throw damaged(path, `an offset of 0x${value.toString(16)}`);
  return Number(value);
}

function damaged(path: string, detail: string): ImageError {
  return new ImageError('bad-elf', path, `a damaged ELF file: ${detail}`, REBUILT);
}
