// The 64-bit Linux boot protocol: zero page, page tables, entry state. Main thread.
//
// Specification: Documentation/arch/x86/boot.rst ("64-bit Boot Protocol") and zero-page.rst. A bzImage brings the
// setup header to start from. An ELF kernel has none, so the fields that a boot loader must set are written onto zeroes.

import { BOOT_FLAG_MAGIC, HEADER_MAGIC, SETUP_HEADER } from './bzimage.js';
import {
  BOOT_STACK_GPA,
  COMMAND_LINE_GPA,
  IDENTITY_MAPPED_SIZE,
  PD_GPA,
  PDPT_GPA,
  PML4_GPA,
  ZERO_PAGE_GPA,
} from './layout.js';
import type { MemoryMapEntry } from './memory-map.js';
import type { BootMemory, MemoryRange } from './memory.js';
import { writeSegments } from './segments.js';
import type { GeneralRegisters, SpecialRegisters } from './state.js';
import { MIB, PAGE_SIZE } from '../platform/units.js';

/*
 * struct boot_params (arch/x86/include/uapi/asm/bootparam.h), the fields used here:
 *   __u64                  acpi_rsdp_addr;    // 0x070
 *   __u8                   e820_entries;      // 0x1e8
 *   struct setup_header    hdr;               // 0x1f1
 *     __u16 boot_flag;                        // 0x1fe
 *     __u32 header;                           // 0x202
 *     __u16 version;                          // 0x206
 *     __u8  type_of_loader, loadflags;        // 0x210, 0x211
 *     __u32 ramdisk_image, ramdisk_size;      // 0x218, 0x21c
 *     __u32 cmd_line_ptr;                     // 0x228
 *     __u32 kernel_alignment;                 // 0x230
 *     __u32 cmdline_size;                     // 0x238
 *   struct boot_e820_entry e820_table[128];   // 0x2d0
 * };                                          // 0x1000
 */
export const BOOT_PARAMS = {
  ACPI_RSDP_ADDR: 0x070,
  E820_ENTRIES: 0x1e8,
  BOOT_FLAG: 0x1fe,
  HEADER: 0x202,
  VERSION: 0x206,
  TYPE_OF_LOADER: 0x210,
  LOADFLAGS: 0x211,
  RAMDISK_IMAGE: 0x218,
  RAMDISK_SIZE: 0x21c,
  CMD_LINE_PTR: 0x228,
  KERNEL_ALIGNMENT: 0x230,
  CMDLINE_SIZE: 0x238,
  E820_TABLE: 0x2d0,
  SIZE: 0x1000,
} as const;

/*
 * struct boot_e820_entry { __u64 addr; __u64 size; __u32 type; } __attribute__((packed));
 */
export const E820_ENTRY_SIZE = 20;
const E820_MAX_ENTRIES = 128;

/** 2.12: what Linux's own PVH entry claims; all the fields above are older. */
const PROTOCOL_VERSION = 0x020c;
const LOADER_UNDEFINED = 0xff;
const LOADED_HIGH = 0x01;
const KERNEL_ALIGNMENT = 16 * MIB;

const CR0_PE = 0x1;
const CR0_ET = 0x10;
const CR0_PG = 0x8000_0000;
const CR4_PAE = 0x20;
const EFER_LME = 0x100;
const EFER_LMA = 0x400;
/** Bit 1 always reads as 1; interrupts are off, as the protocol demands. */
const RFLAGS_RESERVED_ONE = 0x2;

const PTE_PRESENT_WRITABLE = 0x3n;
const PTE_LARGE_PAGE = 0x80n;
const LARGE_PAGE_SIZE = 2 * MIB;

/** What the zero page tells the kernel. */
export interface ZeroPageContent {
  /** The setup header of a bzImage. */
  readonly setupHeader: Uint8Array | undefined;
  /** In bytes without the final NUL. */
  readonly cmdlineSize: number;
  readonly initramfs: MemoryRange | undefined;
  readonly map: readonly MemoryMapEntry[];
  /** Where the ACPI tables begin, if there are any. */
  readonly rsdp: number | undefined;
}

/** Writes what the protocol asks for and returns the entry state. `entry` must be identity-mapped. */
export function prepareLinux64(
  memory: BootMemory,
  guest: { entry: number } & ZeroPageContent,
): { registers: GeneralRegisters; sregs: SpecialRegisters } {
  memory.write(ZERO_PAGE_GPA, buildZeroPage(guest));
  writePageTables(memory);
  return {
    registers: {
      rip: guest.entry,
      rsp: BOOT_STACK_GPA,
      rbp: BOOT_STACK_GPA,
      rbx: 0,
      rsi: ZERO_PAGE_GPA,
      rflags: RFLAGS_RESERVED_ONE,
    },
    sregs: {
      ...writeSegments(memory, 64),
      cr0: CR0_PE + CR0_ET + CR0_PG, // a sum: `|` would make it negative
      cr3: PML4_GPA,
      cr4: CR4_PAE,
      efer: EFER_LME | EFER_LMA,
    },
  };
}

/** struct boot_params. */
export function buildZeroPage(guest: ZeroPageContent): Uint8Array {
  if (guest.map.length > E820_MAX_ENTRIES) throw new RangeError(`${guest.map.length} memory map entries`);
  const page = new Uint8Array(BOOT_PARAMS.SIZE);
  const view = new DataView(page.buffer);
  // A kernel that finds 0 here searches the BIOS area.
  view.setBigUint64(BOOT_PARAMS.ACPI_RSDP_ADDR, BigInt(guest.rsdp ?? 0), true);
  if (guest.setupHeader === undefined) {
    view.setUint16(BOOT_PARAMS.BOOT_FLAG, BOOT_FLAG_MAGIC, true);
    view.setUint32(BOOT_PARAMS.HEADER, HEADER_MAGIC, true);
    view.setUint16(BOOT_PARAMS.VERSION, PROTOCOL_VERSION, true);
    view.setUint8(BOOT_PARAMS.LOADFLAGS, LOADED_HIGH);
    view.setUint32(BOOT_PARAMS.CMDLINE_SIZE, guest.cmdlineSize, true);
    view.setUint32(BOOT_PARAMS.KERNEL_ALIGNMENT, KERNEL_ALIGNMENT, true);
  } else {
    page.set(guest.setupHeader, SETUP_HEADER.START);
  }
  view.setUint8(BOOT_PARAMS.TYPE_OF_LOADER, LOADER_UNDEFINED);
  // Below 4 GiB by construction (initramfs.ts), so the ext_ fields with the high halves stay 0.
  view.setUint32(BOOT_PARAMS.RAMDISK_IMAGE, guest.initramfs?.gpa ?? 0, true);
  view.setUint32(BOOT_PARAMS.RAMDISK_SIZE, guest.initramfs?.size ?? 0, true);
  view.setUint32(BOOT_PARAMS.CMD_LINE_PTR, COMMAND_LINE_GPA, true);
  view.setUint8(BOOT_PARAMS.E820_ENTRIES, guest.map.length);
  for (const [index, entry] of guest.map.entries()) {
    const at = BOOT_PARAMS.E820_TABLE + index * E820_ENTRY_SIZE;
    view.setBigUint64(at, BigInt(entry.gpa), true);
    view.setBigUint64(at + 8, BigInt(entry.size), true);
    view.setUint32(at + 16, entry.type, true);
  }
  return page;
}

/** Maps the first GiB one to one with 2 MiB pages: everything that is loaded, and room for the kernel to work. */
function writePageTables(memory: BootMemory): void {
  writeTable(memory, PML4_GPA, [BigInt(PDPT_GPA) | PTE_PRESENT_WRITABLE]);
  writeTable(memory, PDPT_GPA, [BigInt(PD_GPA) | PTE_PRESENT_WRITABLE]);
  const pages = Array.from({ length: IDENTITY_MAPPED_SIZE / LARGE_PAGE_SIZE }, (_, index) => {
    return BigInt(index * LARGE_PAGE_SIZE) | PTE_PRESENT_WRITABLE | PTE_LARGE_PAGE;
  });
  writeTable(memory, PD_GPA, pages);
}

function writeTable(memory: BootMemory, gpa: number, entries: readonly bigint[]): void {
  const table = new BigUint64Array(PAGE_SIZE / BigUint64Array.BYTES_PER_ELEMENT);
  table.set(entries);
  memory.write(gpa, new Uint8Array(table.buffer));
}
