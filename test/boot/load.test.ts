import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

import { BootError } from '../../src/boot/errors.js';
import { loadGuest, type GuestToLoad } from '../../src/boot/load.js';
import type { BootState } from '../../src/boot/state.js';
import { GIB, MIB } from '../../src/platform/units.js';
import { buildCpio } from '../support/cpio.js';
import { MACHINE } from './acpi/support.js';
import {
  bootErrorOf,
  buildElf,
  buildNote,
  FakeMemory,
  littleEndian,
  PT_NOTE,
  withDirectory,
  type ElfSpec,
  type ProgramHeader,
} from './support.js';

const CODE: ProgramHeader = { gpa: 0x10_0000, bytes: Buffer.from('kernel code'), memorySize: 0x3000 };
const PVH_NOTE: ProgramHeader = { type: PT_NOTE, bytes: buildNote('Xen', 18, littleEndian(0x10_0004, 8)) };

function load(
  memory: FakeMemory,
  elf: ElfSpec | Uint8Array = {},
  guest: Partial<GuestToLoad> & { initramfsBytes?: Uint8Array } = {},
): BootState {
  return withDirectory((directory) => {
    const kernel = join(directory, 'vmlinux');
    writeFileSync(kernel, elf instanceof Uint8Array ? elf : buildElf(elf));
    const { initramfsBytes, ...rest } = guest;
    const initramfs = initramfsBytes === undefined ? undefined : join(directory, 'initrd');
    if (initramfs !== undefined) writeFileSync(initramfs, initramfsBytes ?? '');
    return loadGuest(memory, { kernel, initramfs, cmdline: '', cpus: 1, ...rest });
  });
}

function flatSegments(state: BootState): object[] {
  const { cs, ds, es, fs, gs, ss } = state.sregs;
  return [cs, ds, es, fs, gs, ss];
}

const DATA = { selector: 0x18, base: 0, limit: 0xffff_ffff, type: 3, s: 1, dpl: 0, present: 1, avl: 0 };
const FLAT_DATA = { ...DATA, l: 0, db: 1, g: 1, unusable: 0 };

describe('the 64-bit Linux boot protocol', () => {
  test('segments are read and what the file has no bytes for is zero', () => {
    const memory = new FakeMemory(128 * MIB);
    memory.write(0x10_000b, Buffer.from('stale'));
    const state = load(memory);
    expect(memory.read(0x10_0000, 20).toString('latin1')).toBe('kernel code'.padEnd(20, '\0'));
    expect(state.placement.kernel).toEqual({ start: 0x10_0000, end: 0x10_3000 });
  });

  test('the boot processor begins at e_entry in long mode, RSI at the zero page, interrupts off', () => {
    const state = load(new FakeMemory(128 * MIB), { entry: 0x10_0008 });
    expect(state).toMatchObject({
      protocol: 'linux64',
      entry: 0x10_0008,
      registers: { rip: 0x10_0008, rsp: 0x8ff0, rbp: 0x8ff0, rbx: 0, rsi: 0x7000, rflags: 2 },
      sregs: { cr0: 0x8000_0011, cr3: 0x9000, cr4: 0x20, efer: 0x500 },
    });
  });

  test('selectors are __BOOT_CS and __BOOT_DS, and the GDT in memory says what the registers say', () => {
    const memory = new FakeMemory(128 * MIB);
    const state = load(memory);
    const code = { ...DATA, selector: 0x10, type: 11, l: 1, db: 0, g: 1, unusable: 0 };
    expect(flatSegments(state)).toEqual([code, FLAT_DATA, FLAT_DATA, FLAT_DATA, FLAT_DATA, FLAT_DATA]);
    expect(state.sregs.tr).toMatchObject({ selector: 8, base: 0, limit: 0x67, type: 11, s: 0, present: 1, g: 0 });
    expect(state.sregs.ldt).toMatchObject({ selector: 0, present: 0, unusable: 1 });
    expect(state.sregs.gdt).toEqual({ base: 0x500, limit: 0x1f });
    expect(state.sregs.idt).toEqual({ base: 0x520, limit: 7 });
    const gdt = [0, 8, 16, 24].map((selector) => memory.readU64(0x500 + selector));
    expect(gdt).toEqual([0n, 0x0000_8b00_0000_0067n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn]);
  });

  test('the first GiB is mapped one to one', () => {
    const memory = new FakeMemory(128 * MIB);
    load(memory);
    expect(memory.readU64(0x9000)).toBe(0xa003n);
    expect(memory.readU64(0xa000)).toBe(0xb003n);
    expect(memory.readU64(0x9008)).toBe(0n);
    expect(memory.readU64(0xa008)).toBe(0n);
    for (let index = 0; index < 512; index++) {
      expect(memory.readU64(0xb000 + 8 * index)).toBe(BigInt(index * 2 * MIB) | 0x83n);
    }
  });

  test('the zero page holds what boot.rst demands, and zeroes', () => {
    const memory = new FakeMemory(4 * GIB);
    load(memory, {}, { cmdline: 'console=ttyS0', initramfsBytes: Buffer.from('ramdisk') });
    const page = memory.read(0x7000, 4096);
    expect(page.readUInt16LE(0x1fe)).toBe(0xaa55);
    expect(page.toString('latin1', 0x202, 0x206)).toBe('HdrS');
    expect(page.readUInt16LE(0x206)).toBe(0x20c);
    expect(page[0x210]).toBe(0xff);
    expect(page[0x211]).toBe(1);
    expect(page.readUInt32LE(0x218)).toBe(3 * GIB - 4096);
    expect(page.readUInt32LE(0x21c)).toBe(7);
    expect(page.readUInt32LE(0x228)).toBe(0x2_0000);
    expect(page.readUInt32LE(0x230)).toBe(16 * MIB);
    expect(page.readUInt32LE(0x238)).toBe(13);
    expect(memory.read(0x2_0000, 14).toString('latin1')).toBe('console=ttyS0\0');

    expect(page[0x1e8]).toBe(4);
    const e820 = [0, 1, 2, 3].map((index) => {
      const at = 0x2d0 + 20 * index;
      return [page.readBigUInt64LE(at), page.readBigUInt64LE(at + 8), page.readUInt32LE(at + 16)];
    });
    expect(e820).toEqual([
      [0n, 0x9fc00n, 1],
      [0x9fc00n, 0x400n, 2],
      [0x10_0000n, 0xbff0_0000n, 1],
      [0x1_0000_0000n, 0x4000_0000n, 1],
    ]);
    // Nothing else: above all the sentinel at 0x1ef must stay 0.
    const known: [number, number][] = [
      [0x1e8, 1],
      [0x1fe, 2],
      [0x202, 6],
      [0x210, 2],
      [0x218, 8],
      [0x228, 4],
      [0x230, 4],
      [0x238, 4],
      [0x2d0, 80],
    ];
    for (const [offset, length] of known) page.fill(0, offset, offset + length);
    expect(page.equals(Buffer.alloc(4096))).toBe(true);
  });

  test('with ACPI the zero page points to the RSDP, and the memory map names the tables', () => {
    const memory = new FakeMemory(128 * MIB);
    load(memory, {}, { acpi: MACHINE });
    const page = memory.read(0x7000, 4096);
    const rsdp = Number(page.readBigUInt64LE(0x70));
    expect(memory.read(rsdp, 8).toString('latin1')).toBe('RSD PTR ');
    expect(page[0x1e8]).toBe(5);
    const entry = 0x2d0 + 2 * 20;
    expect([page.readBigUInt64LE(entry), page.readBigUInt64LE(entry + 8)]).toEqual([0xe_0000n, 0xf000n]);
    expect(page.readUInt32LE(entry + 16)).toBe(3);
  });

  test('an entry point that the page tables do not reach is refused', () => {
    const elf = { entry: GIB, headers: [{ gpa: GIB, bytes: Buffer.alloc(16) }] };
    expect(bootErrorOf(() => load(new FakeMemory(2 * GIB), elf)).code).toBe('bad-placement');
  });

  test('it can be asked for although the kernel has a PVH note', () => {
    const state = load(new FakeMemory(128 * MIB), { headers: [CODE, PVH_NOTE] }, { protocol: 'linux64' });
    expect(state).toMatchObject({ protocol: 'linux64', entry: 0x10_0000 });
  });
});

describe('the PVH boot protocol', () => {
  test('the boot processor begins at the note in 32-bit protected mode, EBX at the start info', () => {
    const memory = new FakeMemory(128 * MIB);
    const state = load(memory, { headers: [CODE, PVH_NOTE] });
    expect(state).toMatchObject({
      protocol: 'pvh',
      entry: 0x10_0004,
      registers: { rip: 0x10_0004, rbx: 0x6000, rflags: 2 },
      sregs: { cr0: 0x11, cr3: 0, cr4: 0, efer: 0 },
    });
    const code = { ...FLAT_DATA, selector: 0x10, type: 11 };
    expect(flatSegments(state)).toEqual([code, FLAT_DATA, FLAT_DATA, FLAT_DATA, FLAT_DATA, FLAT_DATA]);
    expect(state.sregs.tr).toMatchObject({ base: 0, limit: 0x67, type: 11, s: 0, present: 1 });
    expect(memory.readU64(0x510)).toBe(0x00cf_9b00_0000_ffffn);
  });

  test('start info, module and memory map', () => {
    const memory = new FakeMemory(8 * GIB);
    load(memory, { headers: [CODE, PVH_NOTE] }, { cmdline: 'quiet', initramfsBytes: Buffer.alloc(5000, 'r') });
    const info = memory.read(0x6000, 56);
    expect([0, 4, 8, 12].map((at) => info.readUInt32LE(at))).toEqual([0x336e_c578, 1, 0, 1]);
    expect([16, 24, 32, 40].map((at) => info.readBigUInt64LE(at))).toEqual([0x6038n, 0x2_0000n, 0n, 0x6058n]);
    expect([48, 52].map((at) => info.readUInt32LE(at))).toEqual([4, 0]);

    const initramfs = BigInt(3 * GIB - 8192);
    expect([0, 8, 16, 24].map((at) => memory.readU64(0x6038 + at))).toEqual([initramfs, 5000n, 0n, 0n]);
    expect(memory.read(3 * GIB - 8192, 5001).toString('latin1')).toBe(`${'r'.repeat(5000)}\0`);

    const map = [0, 1, 2, 3].map((index) => [0, 8, 16].map((at) => memory.readU64(0x6058 + 24 * index + at)));
    expect(map).toEqual([
      [0n, 0x9fc00n, 1n],
      [0x9fc00n, 0x400n, 2n],
      [0x10_0000n, 0xbff0_0000n, 1n],
      [0x1_0000_0000n, 0x1_4000_0000n, 1n],
    ]);
  });

  test('with ACPI the start info points to the RSDP', () => {
    const memory = new FakeMemory(128 * MIB);
    load(memory, { headers: [CODE, PVH_NOTE] }, { acpi: MACHINE, cpus: 254 });
    const rsdp = Number(memory.readU64(0x6000 + 32));
    expect(memory.read(rsdp, 8).toString('latin1')).toBe('RSD PTR ');
    expect(memory.readU64(0x6038 + 24 * 2)).toBe(0xe_0000n);
    // Both tables of processors are there, the large MP table behind the ACPI ones.
    expect(memory.read(0xf_0000, 4).toString('latin1')).toBe('PCMP');
  });

  test('without an initramfs there is no module list', () => {
    const memory = new FakeMemory(128 * MIB);
    load(memory, { headers: [CODE, PVH_NOTE] });
    const info = memory.read(0x6000, 56);
    expect(info.readUInt32LE(12)).toBe(0);
    expect(info.readBigUInt64LE(16)).toBe(0n);
    expect(info.readBigUInt64LE(40)).toBe(0x6038n);
  });

  test('it cannot be asked for without the note', () => {
    const error = bootErrorOf(() => load(new FakeMemory(128 * MIB), {}, { protocol: 'pvh' }));
    expect(error.message).toContain('no PVH entry point; build it with CONFIG_PVH=y');
  });
});

describe('placement', () => {
  test('the MP table is there', () => {
    const memory = new FakeMemory(128 * MIB);
    load(memory, {}, { cpus: 2 });
    expect(memory.read(0x9fc00, 4).toString('latin1')).toBe('_MP_');
  });

  test('a kernel beyond the memory is refused with both sizes', () => {
    const elf = { headers: [{ gpa: 0x10_0000, bytes: Buffer.alloc(8), memorySize: 40 * MIB }] };
    const error = bootErrorOf(() => load(new FakeMemory(32 * MIB), elf));
    expect(error.code).toBe('memory-too-small');
    expect(error.detail).toBe('the kernel needs memory up to 0x2900000 (41 MiB), the guest has 32 MiB');
    expect(load(new FakeMemory(41 * MIB), elf).placement.kernel.end).toBe(41 * MIB);
  });

  test.each<[string, ProgramHeader[], string, string]>([
    ['below 1 MiB', [{ gpa: 0xf_ff00, bytes: Buffer.alloc(8) }], 'bad-placement', 'below 1 MiB'],
    ['across 1 MiB', [{ gpa: 0xf_ff00, memorySize: 0x1000 }], 'bad-placement', 'below 1 MiB'],
    ['into the hole', [CODE, { gpa: 3 * GIB - 8, memorySize: 16 }], 'bad-placement', 'segment 1'],
    ['in the hole', [CODE, { gpa: 0xd000_0000, memorySize: 16 }], 'bad-placement', 'hole for devices'],
    ['over another', [{ gpa: 0x10_1000, memorySize: 16 }, CODE], 'bad-elf', 'segments 1 and 0 overlap at 0x101000'],
  ])('a segment %s is refused', (_name, headers, code, words) => {
    const error = bootErrorOf(() => load(new FakeMemory(8 * GIB), { headers }));
    expect(error.code).toBe(code);
    expect(error.detail).toContain(words);
  });

  test('a segment in RAM above 4 GiB is accepted', () => {
    const memory = new FakeMemory(8 * GIB);
    load(memory, { headers: [CODE, { gpa: 5 * GIB, bytes: Buffer.from('high') }] });
    expect(memory.read(5 * GIB, 4).toString()).toBe('high');
  });

  test.each([
    [0, 'without an entry point'],
    [0x10_3000, 'no segment holds the entry point 0x103000'],
  ])('an entry point %d outside all segments is refused', (entry, words) => {
    const error = bootErrorOf(() => load(new FakeMemory(128 * MIB), { entry }));
    expect(error.code).toBe('not-a-kernel');
    expect(error.detail).toContain(words);
  });

  test('the initramfs goes to the top of low memory, on a page boundary, down to the kernel', () => {
    const memory = new FakeMemory(4 * MIB + 100);
    const most = 4 * MIB - 0x10_3000;
    const state = load(memory, {}, { initramfsBytes: Buffer.alloc(most, 1) });
    expect(state.placement.initramfs).toEqual({ gpa: 0x10_3000, size: most });
    expect(memory.read(0x10_3000 + most - 1, 2)).toEqual(Buffer.from([1, 0]));
    expect(load(memory, {}, { initramfsBytes: Buffer.alloc(1) }).placement.initramfs?.gpa).toBe(4 * MIB - 4096);
  });

  test.each<[string, Buffer]>([
    ['two cpio archives', Buffer.concat([buildCpio({ init: '#!/bin/sh' }), buildCpio({ 'etc/motd': 'hello' })])],
    [
      'a compressed one behind another, and padding',
      Buffer.concat([buildCpio({ a: '1' }), gzipSync(buildCpio({ b: '2' })), Buffer.alloc(3)]),
    ],
    ['anything else', Buffer.from('not an archive at all')],
  ])('an initramfs is handed over whole, to the byte, from a page boundary on: %s', (_name, initramfsBytes) => {
    for (const protocol of ['linux64', 'pvh'] as const) {
      const memory = new FakeMemory(16 * MIB);
      const { initramfs } = load(memory, { headers: [CODE, PVH_NOTE] }, { initramfsBytes, protocol }).placement;
      if (initramfs === undefined) throw new Error('no initramfs');
      const { gpa, size } = initramfs;
      expect(gpa % 4096).toBe(0);
      const told =
        protocol === 'pvh'
          ? [memory.readU64(0x6038), memory.readU64(0x6040)]
          : [0x7218, 0x721c].map((at) => BigInt(memory.read(at, 4).readUInt32LE()));
      expect(told).toEqual([BigInt(gpa), BigInt(initramfsBytes.length)]);
      expect(memory.read(gpa, size)).toEqual(initramfsBytes);
    }
  });

  test('an initramfs that does not fit is refused with both sizes', () => {
    const initramfsBytes = Buffer.alloc(4 * MIB - 0x10_3000 + 1);
    const error = bootErrorOf(() => load(new FakeMemory(4 * MIB), {}, { initramfsBytes }));
    expect(error.code).toBe('initramfs-too-large');
    expect(error.path).toMatch(/initrd$/);
    expect(error.detail).toContain('the initramfs has 2.99 MiB, which does not fit into 4 MiB of memory');
  });

  test('the initramfs avoids a kernel at the top of memory', () => {
    const headers = [{ gpa: 14 * MIB + 8, memorySize: 2 * MIB - 8 }, CODE];
    const state = load(new FakeMemory(16 * MIB), { headers }, { initramfsBytes: Buffer.alloc(10) });
    expect(state.placement.initramfs).toEqual({ gpa: 14 * MIB - 4096, size: 10 });
  });

  test('an empty or missing initramfs is refused as such', () => {
    const memory = new FakeMemory(128 * MIB);
    const empty = bootErrorOf(() => load(memory, {}, { initramfsBytes: Buffer.alloc(0) }));
    expect(empty.message).toMatch(/: the initramfs is an empty file; check how it was made, or boot without one$/);
    expect(empty.code).toBe('empty');
    const missing = bootErrorOf(() => load(memory, {}, { initramfs: '/nonexistent/initrd' }));
    expect(missing).toMatchObject({ code: 'not-found', path: '/nonexistent/initrd' });
  });

  test('a failure of the host to read is io, with its cause', () => {
    const memory = new FakeMemory(128 * MIB);
    const cause = Object.assign(new Error(), { code: 'EIO' });
    memory.readFileInto = () => {
      throw cause;
    };
    expect(bootErrorOf(() => load(memory))).toMatchObject({ code: 'io', cause });
  });

  test('a command line that is too long for Linux on x86 is refused before anything is written', () => {
    const memory = new FakeMemory(128 * MIB);
    expect(bootErrorOf(() => load(memory, {}, { cmdline: 'x'.repeat(2048) })).code).toBe('cmdline-too-long');
    expect(memory.writes).toEqual([]);
    load(memory, {}, { cmdline: 'x'.repeat(2047) });
    expect(memory.read(0x2_0000, 2048).toString('latin1')).toBe(`${'x'.repeat(2047)}\0`);
  });
});

describe('hostile files', () => {
  const valid = buildElf({
    headers: [CODE, { gpa: 0x20_0000, bytes: Buffer.alloc(64, 7), memorySize: 0x1000 }, PVH_NOTE],
  });

  function loadsOrIsRefused(file: Uint8Array): void {
    const memory = new FakeMemory(8 * MIB);
    try {
      load(memory, file);
    } catch (error) {
      // An access outside RAM would be an OutsideRam, and end the property here.
      if (!(error instanceof BootError)) throw error;
    }
  }

  test('a valid kernel with any bytes changed is loaded or refused, and nothing is written outside RAM', () => {
    const headersEnd = 64 + 3 * 56;
    const mutation = fc.record({
      offset: fc.oneof({ weight: 4, arbitrary: fc.nat(headersEnd) }, fc.nat(valid.length - 1)),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }),
    });
    fc.assert(
      fc.property(fc.array(mutation, { minLength: 1, maxLength: 4 }), (mutations) => {
        const file = Buffer.from(valid);
        for (const { offset, bytes } of mutations) file.set(bytes.subarray(0, file.length - offset), offset);
        loadsOrIsRefused(file);
      }),
      { numRuns: 500 },
    );
  });

  test('single 64-bit fields of the headers take any value', () => {
    const extreme = fc.constantFrom(0n, 1n, 0xfffffn, 0x7f_ffffn, 0x80_0000n, 2n ** 32n, 2n ** 52n - 1n, 2n ** 63n);
    fc.assert(
      fc.property(fc.integer({ min: 3, max: 28 }), fc.oneof(extreme, fc.bigInt(0n, 2n ** 64n - 1n)), (word, value) => {
        const file = Buffer.from(valid);
        file.writeBigUInt64LE(value, word * 8);
        loadsOrIsRefused(file);
      }),
      { numRuns: 500 },
    );
  });

  test('a kernel cut anywhere is loaded or refused', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: valid.length }), (length) => {
        loadsOrIsRefused(valid.subarray(0, length));
      }),
      { numRuns: 200 },
    );
  });
});
