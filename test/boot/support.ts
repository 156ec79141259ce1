// Fakes for the boot tests: guest RAM over sparse pages, ELF files made to measure, temporary directories.

import { mkdtempSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { BootError, type BootErrorCode } from '../../src/boot/errors.js';
import type { BootMemory, MemoryRange } from '../../src/boot/memory.js';
import { DEVICE_HOLE_END, DEVICE_HOLE_START } from '../../src/boot/layout.js';
import { PAGE_SIZE } from '../../src/platform/units.js';

/** The RAM ranges of a guest with `size` bytes: up to the hole below 4 GiB, and on above it. */
export function ramRanges(size: number): MemoryRange[] {
  const ranges = [{ gpa: 0, size: Math.min(size, DEVICE_HOLE_START) }];
  if (size > DEVICE_HOLE_START) ranges.push({ gpa: DEVICE_HOLE_END, size: size - DEVICE_HOLE_START });
  return ranges;
}

/** An access outside RAM: the boot code must check before it gets here, so no test expects this. */
export class OutsideRam extends Error {}

/** Guest RAM of any size, of which only the pages that were written take memory. */
export class FakeMemory implements BootMemory {
  readonly ranges: readonly MemoryRange[];
  readonly size: number;
  private readonly pages = new Map<number, Uint8Array>();
  readonly writes: MemoryRange[] = [];

  constructor(size: number, ranges = ramRanges(size)) {
    this.size = size;
    this.ranges = ranges;
  }

  write(gpa: number, bytes: Uint8Array): void {
    this.check(gpa, bytes.length);
    for (let done = 0; done < bytes.length;) {
      const offset = (gpa + done) % PAGE_SIZE;
      const piece = bytes.subarray(done, done + PAGE_SIZE - offset);
      this.page(gpa + done - offset).set(piece, offset);
      done += piece.length;
    }
  }

  zero(gpa: number, length: number): void {
    this.check(gpa, length);
    for (const [pageGpa, page] of this.pages) {
      const start = Math.max(gpa, pageGpa);
      const end = Math.min(gpa + length, pageGpa + PAGE_SIZE);
      if (start < end) page.fill(0, start - pageGpa, end - pageGpa);
    }
  }

  readFileInto(fd: number, fileOffset: number, gpa: number, length: number): void {
    this.check(gpa, length);
    const bytes = new Uint8Array(length);
    const count = readSync(fd, bytes, 0, length, fileOffset);
    if (count !== length) throw new Error('end of file');
    this.write(gpa, bytes);
  }

  read(gpa: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let done = 0; done < length;) {
      const offset = (gpa + done) % PAGE_SIZE;
      const page = this.pages.get(gpa + done - offset);
      const count = Math.min(length - done, PAGE_SIZE - offset);
      if (page !== undefined) bytes.set(page.subarray(offset, offset + count), done);
      done += count;
    }
    return bytes;
  }

  readU64(gpa: number): bigint {
    return this.read(gpa, 8).readBigUInt64LE();
  }

  private page(gpa: number): Uint8Array {
    const page = this.pages.get(gpa) ?? new Uint8Array(PAGE_SIZE);
    this.pages.set(gpa, page);
    return page;
  }

  private check(gpa: number, length: number): void {
    const inside = this.ranges.some((range) => gpa >= range.gpa && gpa + length <= range.gpa + range.size);
    if (!inside) throw new OutsideRam(`${gpa} + ${length}`);
    this.writes.push({ gpa, size: length });
  }
}

/** One program header to put into a synthetic ELF file. */
export interface ProgramHeader {
  type?: number;
  gpa?: number | bigint;
  /** Content in the file. */
  bytes?: Uint8Array;
  fileSize?: number | bigint;
  memorySize?: number | bigint;
  fileOffset?: number | bigint;
  align?: number;
}

/** An ELF file to synthesise; what is not given makes a valid kernel. */
export interface ElfSpec {
  elfClass?: number;
  data?: number;
  machine?: number;
  type?: number;
  version?: number;
  entry?: number | bigint;
  phoff?: number | bigint;
  phentsize?: number;
  phnum?: number;
  headers?: readonly ProgramHeader[];
}

export const PT_LOAD = 1;
export const PT_INTERP = 3;
export const PT_NOTE = 4;

/** Builds an ELF64 file. Content follows the headers, each piece at the next multiple of 16. */
export function buildElf(spec: ElfSpec = {}): Buffer {
  const headers: readonly ProgramHeader[] = spec.headers ?? [
    { gpa: 0x10_0000, bytes: Buffer.from('kernel code'), memorySize: 0x3000 },
  ];
  const pieces: Buffer[] = [];
  let end = 64 + headers.length * 56;
  const table = Buffer.alloc(headers.length * 56);
  for (const [index, header] of headers.entries()) {
    const padding = (16 - (end % 16)) % 16;
    const bytes = header.bytes ?? Buffer.alloc(0);
    const at = index * 56;
    const fileSize = header.fileSize ?? bytes.length;
    table.writeUInt32LE(header.type ?? PT_LOAD, at);
    table.writeBigUInt64LE(BigInt(header.fileOffset ?? end + padding), at + 8);
    table.writeBigUInt64LE(0xffff_ffff_8000_0000n, at + 16);
    table.writeBigUInt64LE(BigInt(header.gpa ?? 0), at + 24);
    table.writeBigUInt64LE(BigInt(fileSize), at + 32);
    table.writeBigUInt64LE(BigInt(header.memorySize ?? fileSize), at + 40);
    table.writeBigUInt64LE(BigInt(header.align ?? 4), at + 48);
    pieces.push(Buffer.alloc(padding), Buffer.from(bytes));
    end += padding + bytes.length;
  }
  const ehdr = Buffer.alloc(64);
  const data = spec.data ?? 1;
  ehdr.set([0x7f, 0x45, 0x4c, 0x46, spec.elfClass ?? 2, data, 1]);
  ehdr.writeUInt16LE(spec.type ?? 2, 16);
  if (data === 2) ehdr.writeUInt16BE(spec.machine ?? 62, 18);
  else ehdr.writeUInt16LE(spec.machine ?? 62, 18);
  ehdr.writeUInt32LE(spec.version ?? 1, 20);
  ehdr.writeBigUInt64LE(BigInt(spec.entry ?? 0x10_0000), 24);
  ehdr.writeBigUInt64LE(BigInt(spec.phoff ?? 64), 32);
  ehdr.writeUInt16LE(64, 52);
  ehdr.writeUInt16LE(spec.phentsize ?? 56, 54);
  ehdr.writeUInt16LE(spec.phnum ?? headers.length, 56);
  return Buffer.concat([ehdr, table, ...pieces]);
}

/** A bzImage to synthesise; what is not given makes a valid kernel. Field names are those of the setup header. */
export interface BzImageSpec {
  version?: number;
  headerLength?: number;
  setupSects?: number;
  syssize?: number;
  initrdAddrMax?: number;
  kernelAlignment?: number;
  relocatable?: boolean;
  xloadflags?: number;
  cmdlineSize?: number;
  prefAddress?: bigint;
  initSize?: number;
  /** The text that kernel_version points at; by default it points nowhere. */
  kernelVersion?: string;
  code?: Uint8Array;
}

/** Builds a bzImage: boot sector, setup code of `setupSects` sectors (all 0x5e), then the protected-mode code. */
export function buildBzImage(spec: BzImageSpec = {}): Buffer {
  const code = spec.code ?? Buffer.alloc(4096, 'protected-mode code ');
  const setupSects = spec.setupSects ?? 1;
  const setup = Buffer.alloc((1 + (setupSects === 0 ? 4 : setupSects)) * 512, 0x5e);
  setup.fill(0, 0x1f1, 0x290);
  setup.writeUInt8(setupSects, 0x1f1);
  setup.writeUInt32LE(spec.syssize ?? Math.ceil(code.length / 16), 0x1f4);
  setup.writeUInt16LE(0xaa55, 0x1fe);
  setup.set([0xeb, spec.headerLength ?? 0x6a], 0x200);
  setup.write('HdrS', 0x202);
  setup.writeUInt16LE(spec.version ?? 0x20f, 0x206);
  if (spec.kernelVersion !== undefined) {
    setup.writeUInt16LE(0x100, 0x20e);
    setup.write(`${spec.kernelVersion}\0`, 0x300, 'latin1');
  }
  setup.writeUInt8(0x01, 0x211);
  setup.writeUInt32LE(0x10_0000, 0x214);
  setup.writeUInt32LE(spec.initrdAddrMax ?? 0x7fff_ffff, 0x22c);
  setup.writeUInt32LE(spec.kernelAlignment ?? 0x20_0000, 0x230);
  setup.writeUInt8((spec.relocatable ?? true) ? 1 : 0, 0x234);
  setup.writeUInt16LE(spec.xloadflags ?? 0x3, 0x236);
  setup.writeUInt32LE(spec.cmdlineSize ?? 2047, 0x238);
  setup.writeBigUInt64LE(spec.prefAddress ?? 0x100_0000n, 0x258);
  setup.writeUInt32LE(spec.initSize ?? 0x10_0000, 0x260);
  return Buffer.concat([setup, code, Buffer.alloc((16 - (code.length % 16)) % 16)]);
}

/** An ELF note, padded to `align` as the ABI says. */
export function buildNote(name: string, type: number, desc: Uint8Array, align = 4): Buffer {
  const nameBytes = Buffer.from(`${name}\0`);
  const descAt = Math.ceil((12 + nameBytes.length) / align) * align;
  const note = Buffer.alloc(descAt + Math.ceil(desc.length / align) * align);
  note.writeUInt32LE(nameBytes.length, 0);
  note.writeUInt32LE(desc.length, 4);
  note.writeUInt32LE(type, 8);
  note.set(nameBytes, 12);
  note.set(desc, descAt);
  return note;
}

/** `value` as `size` little-endian bytes. */
export function littleEndian(value: number, size: 4 | 8): Buffer {
  const bytes = Buffer.alloc(size);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** Calls `body` with a fresh directory that is removed afterwards. */
export function withDirectory<T>(body: (directory: string) => T): T {
  const directory = mkdtempSync(join(tmpdir(), 'tsvmm-boot-'));
  try {
    return body(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Calls `body` with the path of a file of that content. */
export function withFile<T>(content: Uint8Array, body: (path: string) => T): T {
  return withDirectory((directory) => {
    const path = join(directory, 'vmlinux');
    writeFileSync(path, content);
    return body(path);
  });
}

/** The BootError that `body` throws; fails when it throws anything else or nothing. */
export function bootErrorOf(body: () => unknown): BootError & { code: BootErrorCode } {
  try {
    body();
  } catch (error) {
    if (error instanceof BootError) return error;
    throw error;
  }
  throw new Error('expected a BootError');
}
