import { describe, expect, test } from '@jest/globals';

import { parseElfKernel, type ElfKernel } from '../../src/boot/elf.js';
import { findPvhEntry } from '../../src/boot/elf-notes.js';
import type { BootErrorCode } from '../../src/boot/errors.js';
import { BootFile } from '../../src/boot/file.js';
import {
  bootErrorOf,
  buildElf,
  buildNote,
  littleEndian,
  PT_INTERP,
  PT_NOTE,
  withFile,
  type ElfSpec,
  type ProgramHeader,
} from './support.js';

function parse(content: Uint8Array): ElfKernel {
  return withFile(content, (path) => {
    using file = new BootFile(path, 'kernel');
    return parseElfKernel(file);
  });
}

function pvhEntry(...notes: readonly ProgramHeader[]): number | undefined {
  const code: ProgramHeader = { gpa: 0x10_0000, bytes: Buffer.from('code') };
  const headers = [code, ...notes.map((note) => ({ type: PT_NOTE, ...note }))];
  return withFile(buildElf({ headers }), (path) => {
    using file = new BootFile(path, 'kernel');
    return findPvhEntry(file, parseElfKernel(file));
  });
}

describe('ELF headers', () => {
  test('entry, segments and notes are taken from a valid kernel', () => {
    const kernel = parse(
      buildElf({
        entry: 0x10_0040,
        headers: [
          { gpa: 0x10_0000, bytes: Buffer.from('text') },
          { gpa: 0x20_0000, bytes: Buffer.from('data'), memorySize: 0x1_0000 },
          { type: PT_NOTE, bytes: Buffer.alloc(12), align: 8 },
        ],
      }),
    );
    expect(kernel).toEqual({
      entry: 0x10_0040,
      segments: [
        { index: 0, fileOffset: 240, gpa: 0x10_0000, fileSize: 4, memorySize: 4 },
        { index: 1, fileOffset: 256, gpa: 0x20_0000, fileSize: 4, memorySize: 0x1_0000 },
      ],
      notes: [{ fileOffset: 272, fileSize: 12, align: 8 }],
    });
  });

  test('a segment of no bytes is not loaded', () => {
    const kernel = parse(buildElf({ headers: [{ gpa: 0x10_0000, bytes: Buffer.from('x') }, { gpa: 0 }] }));
    expect(kernel.segments).toHaveLength(1);
  });

  test('a position-independent executable is accepted', () => {
    expect(parse(buildElf({ type: 3 })).entry).toBe(0x10_0000);
  });

  const refusals: [string, ElfSpec, BootErrorCode, string][] = [
    ['32-bit x86', { elfClass: 1, machine: 3 }, 'wrong-machine', 'a 32-bit ELF file for i386'],
    ['AArch64', { machine: 183 }, 'wrong-machine', 'a 64-bit ELF file for AArch64'],
    ['RISC-V', { machine: 243 }, 'wrong-machine', 'RISC-V'],
    ['a machine without a name', { machine: 9999 }, 'wrong-machine', 'machine 9999'],
    ['big-endian', { data: 2, machine: 22 }, 'wrong-machine', 'S/390, big-endian'],
    ['x32', { elfClass: 1, machine: 62 }, 'wrong-machine', 'a 32-bit ELF file for x86-64'],
    ['an unknown class', { elfClass: 7 }, 'bad-elf', 'class 7'],
    ['an unknown data encoding', { data: 0 }, 'bad-elf', 'data encoding 0'],
    ['an unknown version', { version: 2 }, 'bad-elf', 'ELF version 2'],
    ['a relocatable object', { type: 1 }, 'not-a-kernel', 'a relocatable object'],
    ['a core dump', { type: 4 }, 'not-a-kernel', 'a core dump'],
    ['a type without a name', { type: 77 }, 'not-a-kernel', 'of type 77'],
    ['a shared object', { type: 3, entry: 0 }, 'not-a-kernel', 'a shared object without an entry point'],
    ['no program headers', { phnum: 0 }, 'not-a-kernel', 'without program headers'],
    ['program headers at 0', { phoff: 0 }, 'not-a-kernel', 'without program headers'],
    ['program headers of another size', { phentsize: 32 }, 'bad-elf', '32 bytes instead of 56'],
    ['too many program headers', { phnum: 0xffff }, 'bad-elf', '65535 program headers'],
    ['program headers beyond the file', { phnum: 100 }, 'truncated', 'the program headers reaches to byte 5664'],
    ['program headers far beyond the file', { phoff: 2n ** 51n }, 'truncated', 'the program headers'],
    ['a program header offset beyond 52 bits', { phoff: 2n ** 64n - 8n }, 'bad-elf', 'beyond 52 bits'],
    [
      'an entry point beyond 52 bits',
      { entry: 0xffff_ffff_8100_0000n },
      'bad-elf',
      'the entry point is 0xffffffff81000000',
    ],
    ['no segment', { headers: [{ type: PT_NOTE }] }, 'not-a-kernel', 'no segment to load'],
    ['an interpreter', { headers: [{ type: PT_INTERP }] }, 'not-a-kernel', 'a dynamically linked program'],
    [
      'more bytes in the file than in memory',
      { headers: [{ gpa: 0x10_0000, bytes: Buffer.alloc(9), memorySize: 8 }] },
      'bad-elf',
      'segment 0 has 9 bytes in the file and room for 8 in memory',
    ],
    [
      'a segment beyond the file',
      { headers: [{ gpa: 0x10_0000, bytes: Buffer.alloc(9), fileSize: 10 }] },
      'truncated',
      'the file has 137 bytes, but segment 0 reaches to byte 138',
    ],
    [
      'a segment offset that overflows',
      { headers: [{ gpa: 0x10_0000, fileSize: 16, fileOffset: 2n ** 64n - 8n }] },
      'bad-elf',
      'the file offset of segment 0',
    ],
    [
      'a physical address that overflows',
      { headers: [{ gpa: 2n ** 64n - 8n, bytes: Buffer.alloc(16) }] },
      'bad-elf',
      'the physical address of segment 0',
    ],
    [
      'a memory size that overflows',
      { headers: [{ gpa: 0x10_0000, memorySize: 2n ** 63n }] },
      'bad-elf',
      'the memory size of segment 0',
    ],
    [
      'notes beyond the file',
      {
        headers: [
          { gpa: 0x10_0000, memorySize: 8 },
          { type: PT_NOTE, fileSize: 100 },
        ],
      },
      'truncated',
      'note segment 1',
    ],
  ];
  test.each(refusals)('refused: %s', (_name, spec, code, words) => {
    const error = bootErrorOf(() => parse(buildElf(spec)));
    expect(error.code).toBe(code);
    expect(error.detail).toContain(words);
    expect(error.path).toMatch(/vmlinux$/);
    expect(error.message).toBe(`${error.path ?? ''}: ${error.detail}; ${error.mend}`);
  });

  test('refused: a file that ends inside the ELF header', () => {
    const error = bootErrorOf(() => parse(buildElf().subarray(0, 40)));
    expect(error.code).toBe('truncated');
    expect(error.detail).toContain('after 40 bytes');
  });
});

describe('PVH note', () => {
  const XEN_ENTRY = 18;

  test('none means no PVH', () => {
    expect(pvhEntry()).toBeUndefined();
    expect(pvhEntry({ bytes: buildNote('Linux', XEN_ENTRY, littleEndian(1, 4)) })).toBeUndefined();
    expect(pvhEntry({ bytes: buildNote('Xen', 17, littleEndian(1, 4)) })).toBeUndefined();
  });

  test.each([4, 8] as const)('an entry of %d bytes is found behind other notes', (size) => {
    const bytes = Buffer.concat([
      buildNote('GNU', 3, Buffer.alloc(20)),
      buildNote('Linux', 0x101, Buffer.alloc(1)),
      buildNote('Xen', XEN_ENTRY, littleEndian(0x10_0610, size)),
    ]);
    expect(pvhEntry({ bytes })).toBe(0x10_0610);
  });

  test('notes padded to 8 bytes are understood', () => {
    const bytes = Buffer.concat([
      buildNote('GNU', 5, Buffer.alloc(12), 8),
      buildNote('Xen', XEN_ENTRY, littleEndian(0x10_0610, 8), 8),
    ]);
    expect(pvhEntry({ bytes, align: 8 })).toBe(0x10_0610);
  });

  test('every note segment is searched, and padding at an end is ignored', () => {
    const first = { bytes: Buffer.concat([buildNote('GNU', 3, Buffer.alloc(4)), Buffer.alloc(8)]) };
    const second = { bytes: buildNote('Xen', XEN_ENTRY, littleEndian(0x10_0000, 4)) };
    expect(pvhEntry(first, second)).toBe(0x10_0000);
  });

  const truncatedNote = buildNote('Xen', XEN_ENTRY, littleEndian(0, 4)).subarray(0, 18);
  const hugeName = buildNote('Xen', XEN_ENTRY, littleEndian(0, 4));
  hugeName.writeUInt32LE(0xffff_ffff, 0);
  const highEntry = littleEndian(0, 8);
  highEntry.writeUInt32LE(1, 4);
  test.each<[string, Uint8Array, string]>([
    ['reaches beyond its segment', truncatedNote, 'reaches beyond the segment'],
    ['has a name that reaches beyond its segment', hugeName, 'reaches beyond the segment'],
    ['holds 2 bytes', buildNote('Xen', XEN_ENTRY, Buffer.alloc(2)), '2 bytes instead of 4 or 8'],
    ['points above 4 GiB', buildNote('Xen', XEN_ENTRY, highEntry), 'not below 4 GiB'],
    ['is in a segment of unlikely size', Buffer.alloc(64 * 1024 + 1), 'at most 65536'],
  ])('refused: a note that %s', (_name, bytes, words) => {
    const error = bootErrorOf(() => pvhEntry({ bytes }));
    expect(error.code).toBe('bad-elf');
    expect(error.detail).toContain(words);
  });
});
