// The segment registers and the GDT that both boot protocols begin with: flat, at privilege level 0. Main thread.
//
// Specification: Intel SDM volume 3, 3.4.5 (segment descriptors) and 8.2.2 (TSS descriptor).
//
//   selector 0x08: TSS     0x10: code (__BOOT_CS of boot.rst)     0x18: data (__BOOT_DS)

import { GDT_GPA, IDT_GPA } from './layout.js';
import type { BootMemory } from './memory.js';
import type { DescriptorTable, SegmentState, SpecialRegisters } from './state.js';

export const TSS_SELECTOR = 0x08;
export const BOOT_CS = 0x10;
export const BOOT_DS = 0x18;

const FLAT_LIMIT = 0xffff_ffff;
const TYPE_CODE_EXECUTE_READ_ACCESSED = 0xb;
const TYPE_DATA_READ_WRITE_ACCESSED = 0x3;
const TYPE_TSS_BUSY = 0xb;
/** The PVH specification asks for exactly this limit: a TSS without an I/O bitmap. */
const TSS_LIMIT = 0x67;

const DESCRIPTOR_SIZE = 8;
const GDT_ENTRIES = 4;

export const GDT_SIZE = GDT_ENTRIES * DESCRIPTOR_SIZE;

type SegmentRegisters = Pick<SpecialRegisters, 'cs' | 'ds' | 'es' | 'fs' | 'gs' | 'ss' | 'tr' | 'ldt' | 'gdt' | 'idt'>;

/** Writes the GDT (and an empty IDT) and returns the registers that refer to it. `codeBits` is what CS runs in. */
export function writeSegments(memory: BootMemory, codeBits: 32 | 64): SegmentRegisters {
  const cs = segment(BOOT_CS, TYPE_CODE_EXECUTE_READ_ACCESSED, codeBits === 64 ? { l: 1, db: 0 } : { l: 0, db: 1 });
  const ds = segment(BOOT_DS, TYPE_DATA_READ_WRITE_ACCESSED, { l: 0, db: 1 });
  const tr: SegmentState = {
    ...segment(TSS_SELECTOR, TYPE_TSS_BUSY, { l: 0, db: 0 }),
    limit: TSS_LIMIT,
    s: 0,
    g: 0,
  };
  const ldt: SegmentState = { ...tr, selector: 0, type: 0, limit: 0, present: 0, unusable: 1 };

  const table = new Uint8Array(GDT_SIZE);
  const view = new DataView(table.buffer);
  for (const entry of [tr, cs, ds]) view.setBigUint64(entry.selector, encodeDescriptor(entry), true);
  memory.write(GDT_GPA, table);
  // Too short for one gate: an exception before the guest has its own IDT is a triple fault, as it should be.
  memory.write(IDT_GPA, new Uint8Array(DESCRIPTOR_SIZE));
  const gdt: DescriptorTable = { base: GDT_GPA, limit: GDT_SIZE - 1 };
  const idt: DescriptorTable = { base: IDT_GPA, limit: DESCRIPTOR_SIZE - 1 };
  return { cs, ds, es: ds, fs: ds, gs: ds, ss: ds, tr, ldt, gdt, idt };
}

/** The 8 bytes in memory that the hidden part of `segment` is loaded from. */
export function encodeDescriptor(segment: SegmentState): bigint {
  const limit = BigInt(segment.g === 1 ? Math.floor(segment.limit / 4096) : segment.limit);
  const base = BigInt(segment.base);
  const access = BigInt(segment.type | (segment.s << 4) | (segment.dpl << 5) | (segment.present << 7));
  const flags = BigInt(segment.avl | (segment.l << 1) | (segment.db << 2) | (segment.g << 3));
  return (
    (limit & 0xffffn) |
    ((base & 0xff_ffffn) << 16n) |
    (access << 40n) |
    ((limit >> 16n) << 48n) |
    (flags << 52n) |
    ((base >> 24n) << 56n)
  );
}

function segment(selector: number, type: number, mode: { l: 0 | 1; db: 0 | 1 }): SegmentState {
  return { selector, base: 0, limit: FLAT_LIMIT, type, s: 1, dpl: 0, present: 1, avl: 0, ...mode, g: 1, unusable: 0 };
}
