// A bzImage: a setup header, real-mode code that nobody runs here, and a self-extracting 64-bit kernel. Main thread.
//
// Specification: Documentation/arch/x86/boot.rst of Linux, "The Real-Mode Kernel Header", "Loading The Rest of The
// Kernel" and "64-bit Boot Protocol". Left out: 32-bit kernels, protocols before 2.12 (they do not say whether there is a
// 64-bit entry point), and loading above 4 GiB.

import { BootError } from './errors.js';
import type { BootFile } from './file.js';
import { IDENTITY_MAPPED_SIZE, KERNEL_MIN_GPA } from './layout.js';
import { memoryTooSmall } from './load-elf.js';
import { isRam } from './memory-map.js';
import type { BootMemory } from './memory.js';
import { alignUp, formatBytes, hex, TWO_POW_32 } from '../platform/units.js';

/*
 * struct setup_header (arch/x86/include/uapi/asm/bootparam.h), by offset in the file, which is that in boot_params too:
 *   __u8  setup_sects;          // 0x1f1: of 512 bytes, the boot sector not counted; 0 means 4
 *   __u32 syssize;              // 0x1f4: of the protected-mode code, in units of 16 bytes
 *   __u16 boot_flag;            // 0x1fe
 *   __u8  jump[2];              // 0x200: the second byte is where the header ends, counted from 0x202
 *   __u32 header;               // 0x202
 *   __u16 version;              // 0x206
 *   __u16 kernel_version;       // 0x20e: where its text is, counted from 0x200; 0 for none
 *   __u32 initrd_addr_max;      // 0x22c: of the initramfs's last byte
 *   __u32 kernel_alignment;     // 0x230
 *   __u8  relocatable_kernel;   // 0x234
 *   __u16 xloadflags;           // 0x236
 *   __u32 cmdline_size;         // 0x238: without the final NUL
 *   __u64 pref_address;         // 0x258
 *   __u32 init_size;            // 0x260
 */
export const SETUP_HEADER = {
  START: 0x1f1,
  SETUP_SECTS: 0x1f1,
  SYSSIZE: 0x1f4,
  BOOT_FLAG: 0x1fe,
  LENGTH: 0x201,
  HEADER: 0x202,
  VERSION: 0x206,
  KERNEL_VERSION: 0x20e,
  INITRD_ADDR_MAX: 0x22c,
  KERNEL_ALIGNMENT: 0x230,
  RELOCATABLE_KERNEL: 0x234,
  XLOADFLAGS: 0x236,
  CMDLINE_SIZE: 0x238,
  PREF_ADDRESS: 0x258,
  INIT_SIZE: 0x260,
  /** Where the header of protocol 2.12, the oldest that is taken, ends at least. */
  MIN_END: 0x264,
  /** What comes next in boot_params. A longer header would be of a protocol that does not exist yet. */
  MAX_END: 0x290,
} as const;

export const BOOT_FLAG_MAGIC = 0xaa55;
export const HEADER_MAGIC = 0x5372_6448; // "HdrS"

const VERSION_2_12 = 0x020c;
const XLF_KERNEL_64 = 0x1;
const XLF_CAN_BE_LOADED_ABOVE_4G = 0x2;

const SECTOR_SIZE = 512;
const VERSION_BASE = 0x200;
/** __NEW_UTS_LEN of Linux. */
const MAX_RELEASE = 64;
const PARAGRAPH_SIZE = 16;
const DEFAULT_SETUP_SECTS = 4;
const ENTRY_64_OFFSET = 0x200;

const REBUILT = 'it is damaged: build or copy it again';

/** What a bzImage says about itself; checked against the file, not against RAM. */
export interface BzImage {
  /** The setup header as it is in the file, from SETUP_HEADER.START on. */
  readonly setupHeader: Uint8Array;
  /** Where the protected-mode code is in the file. */
  readonly fileOffset: number;
  readonly fileSize: number;
  /** Bytes from its start that the kernel needs before it knows the memory map; at least `fileSize`. */
  readonly memorySize: number;
  readonly prefAddress: number;
  /** A power of two, or undefined when the kernel runs at `prefAddress` only. */
  readonly relocationAlignment: number | undefined;
  /** The longest command line in bytes, without the final NUL. */
  readonly cmdlineLimit: number;
  /** The initramfs must end at or below this address. */
  readonly initramfsLimit: number;
}

/** Whether a file that begins with `head` has a setup header. */
export function isBzImage(head: Uint8Array): boolean {
  if (head.length < SETUP_HEADER.VERSION) return false;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  return (
    view.getUint16(SETUP_HEADER.BOOT_FLAG, true) === BOOT_FLAG_MAGIC &&
    view.getUint32(SETUP_HEADER.HEADER, true) === HEADER_MAGIC
  );
}

/**
 * The version that a kernel has by `uname -r`, as its file says it: "6.1.0-18-amd64 (builder@host) #1 SMP ..." is the text.
 * Undefined for a file that is no bzImage, or does not say it. Throws BootError io.
 */
export function kernelRelease(file: BootFile): string | undefined {
  const head = file.read(0, SETUP_HEADER.MAX_END);
  if (head.length < SETUP_HEADER.MAX_END || !isBzImage(head)) return undefined;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const pointer = view.getUint16(SETUP_HEADER.KERNEL_VERSION, true);
  if (pointer === 0) return undefined;
  const text = Buffer.from(file.read(VERSION_BASE + pointer, MAX_RELEASE + 1)).toString('latin1');
  return /^(\d+\.[\w.+~-]+)[ \0]/.exec(text)?.[1];
}

/** Parses and checks the setup header of a file for which `isBzImage` holds. Throws BootError. */
export function parseBzImage(file: BootFile): BzImage {
  const { path } = file;
  const head = file.read(0, SETUP_HEADER.MAX_END);
  const end = headerEnd(file, head);
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  checkBootable(view, path);

  const setupSects = view.getUint8(SETUP_HEADER.SETUP_SECTS);
  const fileOffset = (1 + (setupSects === 0 ? DEFAULT_SETUP_SECTS : setupSects)) * SECTOR_SIZE;
  const fileSize = view.getUint32(SETUP_HEADER.SYSSIZE, true) * PARAGRAPH_SIZE;
  if (fileSize <= ENTRY_64_OFFSET) throw bad(path, `its kernel has ${fileSize} bytes, too few for an entry point`);
  // What follows, such as a signature, is not the kernel's.
  if (fileOffset + fileSize > file.size) throw truncated(file, fileOffset + fileSize);

  const aboveFourGiB = (view.getUint16(SETUP_HEADER.XLOADFLAGS, true) & XLF_CAN_BE_LOADED_ABOVE_4G) !== 0;
  return {
    setupHeader: head.slice(SETUP_HEADER.START, end),
    fileOffset,
    fileSize,
    memorySize: Math.max(fileSize, view.getUint32(SETUP_HEADER.INIT_SIZE, true)),
    prefAddress: prefAddress(view, path),
    relocationAlignment: relocationAlignment(view, path),
    cmdlineLimit: view.getUint32(SETUP_HEADER.CMDLINE_SIZE, true),
    // Such a kernel takes its initramfs from anywhere as well, and the field is only for older boot loaders.
    initramfsLimit: aboveFourGiB ? TWO_POW_32 : view.getUint32(SETUP_HEADER.INITRD_ADDR_MAX, true) + 1,
  };
}

/**
 * Where in RAM `image` goes: the address that it prefers, or, when that is not usable and the kernel is relocatable, the
 * next usable one above. Not one below: there Linux moves itself up to the preferred address. Throws BootError.
 */
export function placeBzImage(file: BootFile, image: BzImage, memory: BootMemory): number {
  const { path } = file;
  const { prefAddress: preferred, relocationAlignment: alignment, memorySize } = image;
  const start = alignment === undefined ? preferred : alignUp(Math.max(preferred, KERNEL_MIN_GPA), alignment);
  const end = start + memorySize;
  const at = `${hex(start)} to ${hex(end)} (${formatBytes(memorySize)})`;
  if (start < KERNEL_MIN_GPA) {
    const detail = `the kernel runs at ${hex(start)} only, below 1 MiB, where boot data is`;
    throw new BootError('bad-placement', detail, 'build it with CONFIG_RELOCATABLE=y', { path });
  }
  if (end > IDENTITY_MAPPED_SIZE) {
    const detail = `the kernel wants ${at}, and only the first GiB is mapped at entry`;
    throw new BootError('bad-placement', detail, 'build it with a lower CONFIG_PHYSICAL_START, or smaller', { path });
  }
  if (!isRam(memory, start, memorySize)) throw memoryTooSmall(path, end, memory);
  return start;
}

/** Guest-physical address of the 64-bit entry point of a kernel that was loaded at `start`. */
export function entry64(start: number): number {
  return start + ENTRY_64_OFFSET;
}

function headerEnd(file: BootFile, head: Uint8Array): number {
  if (head.length < SETUP_HEADER.MAX_END) throw truncated(file, SETUP_HEADER.MAX_END);
  return Math.min(SETUP_HEADER.HEADER + head[SETUP_HEADER.LENGTH], SETUP_HEADER.MAX_END);
}

function checkBootable(view: DataView, path: string): void {
  const version = view.getUint16(SETUP_HEADER.VERSION, true);
  if (version < VERSION_2_12) {
    const detail = `a bzImage of boot protocol ${version >> 8}.${String(version & 0xff).padStart(2, '0')}`;
    throw new BootError('old-protocol', detail, '2.12 or later is needed: take a kernel from Linux 3.8 on', { path });
  }
  if (SETUP_HEADER.HEADER + view.getUint8(SETUP_HEADER.LENGTH) < SETUP_HEADER.MIN_END) {
    throw bad(path, 'its setup header is shorter than its boot protocol says');
  }
  if ((view.getUint16(SETUP_HEADER.XLOADFLAGS, true) & XLF_KERNEL_64) === 0) {
    const mend = 'a kernel built for x86-64 is needed';
    throw new BootError('wrong-machine', 'a bzImage without a 64-bit entry point: a 32-bit kernel', mend, { path });
  }
}

function prefAddress(view: DataView, path: string): number {
  const address = view.getBigUint64(SETUP_HEADER.PREF_ADDRESS, true);
  // As in elf.ts: sums of two such values are exact.
  if (address >> 52n !== 0n) throw bad(path, `its preferred address is ${hex(address)}, which is beyond 52 bits`);
  return Number(address);
}

function relocationAlignment(view: DataView, path: string): number | undefined {
  if (view.getUint8(SETUP_HEADER.RELOCATABLE_KERNEL) === 0) return undefined;
  const alignment = view.getUint32(SETUP_HEADER.KERNEL_ALIGNMENT, true);
  if (alignment === 0 || (alignment & (alignment - 1)) !== 0) {
    throw bad(path, `its kernel_alignment is ${hex(alignment)}, which is not a power of two`);
  }
  return alignment;
}

function bad(path: string, detail: string): BootError {
  return new BootError('bad-bzimage', `a bzImage, but ${detail}`, REBUILT, { path });
}

function truncated(file: BootFile, end: number): BootError {
  const detail = `the file has ${file.size} bytes, but as a bzImage it reaches to byte ${end}`;
  return new BootError('truncated', detail, 'it was cut short: build or copy it again', { path: file.path });
}
