// The PVH boot protocol: start info, module list, memory map, entry state in 32-bit protected mode. Main thread.
//
// Specification: docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h of Xen (version 1).

import { COMMAND_LINE_GPA, PVH_START_INFO_GPA, ZERO_PAGE_GPA } from './layout.js';
import type { MemoryMapEntry } from './memory-map.js';
import type { BootMemory, MemoryRange } from './memory.js';
import { writeSegments } from './segments.js';
import type { GeneralRegisters, SpecialRegisters } from './state.js';

/*
 * struct hvm_start_info {
 *   uint32_t magic;            // 0
 *   uint32_t version;          // 4
 *   uint32_t flags;            // 8
 *   uint32_t nr_modules;       // 12
 *   uint64_t modlist_paddr;    // 16
 *   uint64_t cmdline_paddr;    // 24
 *   uint64_t rsdp_paddr;       // 32
 *   uint64_t memmap_paddr;     // 40
 *   uint32_t memmap_entries;   // 48
 *   uint32_t reserved;         // 52
 * };                           // 56
 */
export const START_INFO = {
  MAGIC: 0,
  VERSION: 4,
  NR_MODULES: 12,
  MODLIST_PADDR: 16,
  CMDLINE_PADDR: 24,
  RSDP_PADDR: 32,
  MEMMAP_PADDR: 40,
  MEMMAP_ENTRIES: 48,
  SIZE: 56,
} as const;

/*
 * struct hvm_modlist_entry {
 *   uint64_t paddr;            // 0
 *   uint64_t size;             // 8
 *   uint64_t cmdline_paddr;    // 16
 *   uint64_t reserved;         // 24
 * };                           // 32
 */
export const MODLIST_ENTRY = { PADDR: 0, LENGTH: 8, SIZE: 32 } as const;

/*
 * struct hvm_memmap_table_entry {
 *   uint64_t addr;             // 0
 *   uint64_t size;             // 8
 *   uint32_t type;             // 16
 *   uint32_t reserved;         // 20
 * };                           // 24
 */
export const MEMMAP_ENTRY = { ADDR: 0, LENGTH: 8, TYPE: 16, SIZE: 24 } as const;

/** "xEn3" with bit 7 of the E set. */
export const XEN_HVM_START_MAGIC_VALUE = 0x336e_c578;
const START_INFO_VERSION = 1;

const CR0_PE = 0x1;
const CR0_ET = 0x10; // hard-wired to 1
/** Bit 1 always reads as 1; interrupts, trap and virtual-8086 mode are off, as the protocol demands. */
const RFLAGS_RESERVED_ONE = 0x2;

/** Writes what the protocol asks for and returns the entry state. `entry` must be below 4 GiB. */
export function preparePvh(
  memory: BootMemory,
  guest: {
    entry: number;
    initramfs: MemoryRange | undefined;
    map: readonly MemoryMapEntry[];
    rsdp: number | undefined;
  },
): { registers: GeneralRegisters; sregs: SpecialRegisters } {
  memory.write(PVH_START_INFO_GPA, buildStartInfo(guest));
  return {
    registers: { rip: guest.entry, rsp: 0, rbp: 0, rbx: PVH_START_INFO_GPA, rsi: 0, rflags: RFLAGS_RESERVED_ONE },
    sregs: { ...writeSegments(memory, 32), cr0: CR0_PE | CR0_ET, cr3: 0, cr4: 0, efer: 0 },
  };
}

/** The start info, and after it the module list and the memory map, as they lie from PVH_START_INFO_GPA on. */
export function buildStartInfo(guest: {
  initramfs: MemoryRange | undefined;
  map: readonly MemoryMapEntry[];
  rsdp: number | undefined;
}): Uint8Array {
  const { initramfs, map, rsdp } = guest;
  const moduleCount = initramfs === undefined ? 0 : 1;
  const modules = alignTo8(START_INFO.SIZE);
  const memmap = alignTo8(modules + moduleCount * MODLIST_ENTRY.SIZE);
  const bytes = new Uint8Array(memmap + map.length * MEMMAP_ENTRY.SIZE);
  if (PVH_START_INFO_GPA + bytes.length > ZERO_PAGE_GPA) throw new RangeError(`${map.length} memory map entries`);
  const view = new DataView(bytes.buffer);
  const putU64 = (at: number, value: number): void => {
    view.setBigUint64(at, BigInt(value), true);
  };

  view.setUint32(START_INFO.MAGIC, XEN_HVM_START_MAGIC_VALUE, true);
  view.setUint32(START_INFO.VERSION, START_INFO_VERSION, true);
  view.setUint32(START_INFO.NR_MODULES, moduleCount, true);
  // An address of 0 means "not present".
  putU64(START_INFO.MODLIST_PADDR, moduleCount === 0 ? 0 : PVH_START_INFO_GPA + modules);
  putU64(START_INFO.CMDLINE_PADDR, COMMAND_LINE_GPA);
  putU64(START_INFO.RSDP_PADDR, rsdp ?? 0);
  putU64(START_INFO.MEMMAP_PADDR, PVH_START_INFO_GPA + memmap);
  view.setUint32(START_INFO.MEMMAP_ENTRIES, map.length, true);

  if (initramfs !== undefined) {
    putU64(modules + MODLIST_ENTRY.PADDR, initramfs.gpa);
    putU64(modules + MODLIST_ENTRY.LENGTH, initramfs.size);
  }
  for (const [index, entry] of map.entries()) {
    const at = memmap + index * MEMMAP_ENTRY.SIZE;
    putU64(at + MEMMAP_ENTRY.ADDR, entry.gpa);
    putU64(at + MEMMAP_ENTRY.LENGTH, entry.size);
    view.setUint32(at + MEMMAP_ENTRY.TYPE, entry.type, true);
  }
  return bytes;
}

function alignTo8(value: number): number {
  return (value + 7) & ~7;
}
