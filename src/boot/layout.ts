// Where the boot code puts things in guest-physical memory. The low addresses are the ones that Firecracker uses, which
// many kernels have therefore been booted with.
//
//   0x0000_0500  GDT (32 bytes)                      0x0000_b000  page directory
//   0x0000_0520  IDT (8 bytes, empty)                0x0002_0000  command line
//   0x0000_6000  PVH start info, modules, memory map 0x0009_fc00  MP table (the "EBDA")
//   0x0000_7000  Linux boot_params ("zero page")     0x000a_0000  legacy hole, up to 1 MiB
//   0x0000_8ff0  boot stack, downwards               0x0010_0000  kernel, wherever its headers say
//   0x0000_9000  PML4                                ...          initramfs, as high as it fits below 3 GiB
//   0x0000_a000  page directory pointers             0xc000_0000  hole for devices, up to 4 GiB
//
// In the legacy hole are the ACPI tables (0x000e_0000), the VM generation id (0x000e_f000) and, if it is large, the MP
// table (0x000f_0000).

import { GIB, KIB, MIB, TWO_POW_32 } from '../platform/units.js';

export const GDT_GPA = 0x500;
export const IDT_GPA = 0x520;
export const PVH_START_INFO_GPA = 0x6000;
export const ZERO_PAGE_GPA = 0x7000;
export const BOOT_STACK_GPA = 0x8ff0;
export const PML4_GPA = 0x9000;
export const PDPT_GPA = 0xa000;
export const PD_GPA = 0xb000;
export const COMMAND_LINE_GPA = 0x2_0000;

/** Of Linux on x86: the longest command line it keeps, the final NUL included. A bzImage says its own. */
export const COMMAND_LINE_SIZE = 2048;

/** The room at COMMAND_LINE_GPA: for kernels that say that they keep more. */
export const COMMAND_LINE_AREA_SIZE = 64 * KIB;

/** The last KiB of conventional memory: one of the places where Linux scans for an MP table. */
export const MP_TABLE_GPA = 0x9_fc00;
/** The MP configuration table when it is too big for that KiB: the BIOS area, never RAM for the guest's allocator. */
export const MP_TABLE_OVERFLOW_GPA = 0xf_0000;

/** The ACPI tables, RSDP first: the lower half of the BIOS area, all of which guests scan for an RSDP. */
export const ACPI_AREA_GPA = 0xe_0000;
export const ACPI_AREA_END = 0xe_f000;

/** The VM generation id, in a page of its own that no guest takes for RAM, nor for tables to be forgotten once read. */
export const GENERATION_ID_GPA = ACPI_AREA_END;
export const GENERATION_ID_PAGE_END = MP_TABLE_OVERFLOW_GPA;

/** [640 KiB, 1 MiB) is video memory and ROM on a PC: never given to the guest as RAM. */
export const LEGACY_HOLE_START = 640 * KIB;
export const LEGACY_HOLE_END = MIB;

/** No kernel segment starts below: everything above is the boot code's. */
export const KERNEL_MIN_GPA = LEGACY_HOLE_END;

/** RAM stops here and goes on at 4 GiB; between are device registers, the IOAPIC and the local APICs. */
export const DEVICE_HOLE_START = 3 * GIB;
export const DEVICE_HOLE_END = TWO_POW_32;

/** What the boot page tables map one to one. */
export const IDENTITY_MAPPED_SIZE = GIB;
