// An ELF core of a guest, for crash, gdb and drgn: its memory and the registers of its vCPUs. Main thread, while the VM is
// paused.
//
//   ELF header, program headers
//   notes: for each vCPU NT_PRSTATUS "CORE" (general registers) and 0 "QEMU" (those, segments and control registers)
//   from the next page on: guest RAM, sparse, one range after the other
//
// Specification: System V ABI, chapter 5; struct elf_prstatus of linux/elfcore.h for x86-64; QEMUCPUState version 1, which
// crash and drgn read for CR3. Virtual addresses are the physical ones: whoever reads it has the page tables. Left out:
// floating-point registers, and memory of devices (pmem).

import { closeSync, fsyncSync, linkSync, openSync, rmSync, writeSync } from 'node:fs';
import type { MemoryChunk, MemoryMap } from '../platform/guest-memory.js';
import { PAGE_SIZE, type Fd } from '../platform/units.js';
import { VmError } from './errors.js';
import { DTABLE, REGISTER_NAMES, REGS_SIZE, SEGMENT, SREGS, type RegisterName } from './kvm/abi.js';
import { fileOffsets, writeMemory } from './snapshot/memory-file.js';
import type { VcpuSnapshot } from './snapshot/vcpu.js';

/** What of a vCPU's state goes into a core. */
export type CoreVcpu = Pick<VcpuSnapshot, 'regs' | 'sregs' | 'msrs'>;

const EHDR_SIZE = 64;
const PHDR_SIZE = 56;
const ET_CORE = 4;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_NOTE = 4;
const PF_RWX = 7;

const NHDR_SIZE = 12;
const NT_PRSTATUS = 1;
const NT_QEMU = 0;

/** struct elf_prstatus { ...; pid_t pr_pid; // 32 ...; elf_gregset_t pr_reg; // 112 int pr_fpvalid; // 328 }; // 336 */
const PRSTATUS = { SIZE: 336, PID: 32, REG: 112 } as const;
/** struct user_regs_struct of asm/user_64.h: u64 each, in this order. */
const USER_REGS = [
  ...[
    'r15',
    'r14',
    'r13',
    'r12',
    'rbp',
    'rbx',
    'r11',
    'r10',
    'r9',
    'r8',
    'rax',
    'rcx',
    'rdx',
    'rsi',
    'rdi',
    'orig_rax',
  ],
  ...['rip', 'cs', 'rflags', 'rsp', 'ss', 'fs_base', 'gs_base', 'ds', 'es', 'fs', 'gs'],
] as const;

/**
 * struct QEMUCPUState { u32 version, size; u64 rax, ..., rip, rflags; // 8
 *   QEMUCPUSegment cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt; // 152 u64 cr[5]; // 392 u64 kernel_gs_base; // 432 }; // 440
 * struct QEMUCPUSegment { u32 selector, limit, flags, pad; u64 base; }; // 24
 */
const QEMU_STATE = { SIZE: 440, REGS: 8, SEGMENTS: 152, CR: 392, KERNEL_GS_BASE: 432 } as const;
const QEMU_STATE_VERSION = 1;
const QEMU_SEGMENT = { SIZE: 24, SELECTOR: 0, LIMIT: 4, FLAGS: 8, BASE: 16 } as const;
const QEMU_SEGMENTS = [SREGS.CS, SREGS.DS, SREGS.ES, SREGS.FS, SREGS.GS, SREGS.SS, SREGS.LDT, SREGS.TR] as const;
const QEMU_TABLES = [SREGS.GDT, SREGS.IDT] as const;
/** Those from CR0 to CR4; there is no CR1. */
const CONTROL_REGISTERS = [SREGS.CR0, undefined, SREGS.CR2, SREGS.CR3, SREGS.CR4] as const;
const MSR_KERNEL_GS_BASE = 0xc000_0102;

const TEMPORARY_SUFFIX = '.tmp';

/**
 * Writes a core of RAM and vCPUs to `path`, which must not exist; what is there under that name is always whole. Rejects
 * with VmError CORE_DUMP.
 */
export async function writeCore(path: string, memory: MemoryMap, vcpus: readonly CoreVcpu[]): Promise<void> {
  const temporary = path + TEMPORARY_SUFFIX;
  try {
    const ram = memory.filter(({ backing }) => backing.kind !== 'device');
    const fd = openSync(temporary, 'w', 0o600);
    try {
      const head = coreHead(ram, vcpus);
      for (let done = 0; done < head.length;) done += writeSync(fd, head, done);
      await writeMemory(ram, fd as Fd, head.length);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    // Unlike a renaming, this replaces nothing.
    linkSync(temporary, path);
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new VmError(
      'CORE_DUMP',
      `the core cannot be written to ${path} (${reason})`,
      'name a file that does not exist, where you may create files, with room for the memory of the guest',
      error,
    );
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Everything before the memory, padded to whole pages. */
function coreHead(ram: readonly MemoryChunk[], vcpus: readonly CoreVcpu[]): Buffer {
  const notes = Buffer.concat(
    vcpus.flatMap((vcpu, index) => [
      note('CORE', NT_PRSTATUS, prStatus(vcpu, index)),
      note('QEMU', NT_QEMU, qemuState(vcpu)),
    ]),
  );
  const notesOffset = EHDR_SIZE + (1 + ram.length) * PHDR_SIZE;
  const size = Math.ceil((notesOffset + notes.length) / PAGE_SIZE) * PAGE_SIZE;
  const head = Buffer.alloc(size);
  head.set(elfHeader(1 + ram.length));
  head.set(programHeader(PT_NOTE, 0, { offset: notesOffset, gpa: 0, size: notes.length, align: 4 }), EHDR_SIZE);
  const offsets = fileOffsets(ram);
  ram.forEach(({ guestAddress, size: length }, index) => {
    const place = { offset: size + offsets[index], gpa: guestAddress, size: length, align: PAGE_SIZE };
    head.set(programHeader(PT_LOAD, PF_RWX, place), EHDR_SIZE + (1 + index) * PHDR_SIZE);
  });
  head.set(notes, notesOffset);
  return head;
}

/** Elf64_Ehdr */
function elfHeader(programHeaders: number): Buffer {
  const header = Buffer.alloc(EHDR_SIZE);
  // EI_CLASS 64 bits, EI_DATA little-endian, EI_VERSION 1.
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  header.writeUInt16LE(ET_CORE, 16);
  header.writeUInt16LE(EM_X86_64, 18);
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(EHDR_SIZE), 32);
  header.writeUInt16LE(EHDR_SIZE, 52);
  header.writeUInt16LE(PHDR_SIZE, 54);
  header.writeUInt16LE(programHeaders, 56);
  return header;
}

/** Elf64_Phdr */
function programHeader(
  type: number,
  flags: number,
  { offset, gpa, size, align }: { offset: number; gpa: number; size: number; align: number },
): Buffer {
  const header = Buffer.alloc(PHDR_SIZE);
  header.writeUInt32LE(type, 0);
  header.writeUInt32LE(flags, 4);
  [offset, gpa, gpa, size, size, align].forEach((value, index) => {
    header.writeBigUInt64LE(BigInt(value), 8 + index * 8);
  });
  return header;
}

/** Elf64_Nhdr with its name and descriptor, each padded to four bytes. */
function note(name: string, type: number, descriptor: Uint8Array): Buffer {
  const nameSize = name.length + 1;
  const descriptorOffset = NHDR_SIZE + padded(nameSize);
  const bytes = Buffer.alloc(descriptorOffset + padded(descriptor.length));
  bytes.writeUInt32LE(nameSize, 0);
  bytes.writeUInt32LE(descriptor.length, 4);
  bytes.writeUInt32LE(type, 8);
  bytes.write(name, NHDR_SIZE, 'latin1');
  bytes.set(descriptor, descriptorOffset);
  return bytes;
}

function padded(size: number): number {
  return Math.ceil(size / 4) * 4;
}

function prStatus(vcpu: CoreVcpu, index: number): Buffer {
  const regs = viewOf(vcpu.regs);
  const sregs = viewOf(vcpu.sregs);
  const selector = (segment: number): bigint => BigInt(sregs.getUint16(segment + SEGMENT.SELECTOR, true));
  const values: Record<string, bigint> = {
    // No system call is under way.
    orig_rax: 0xffff_ffff_ffff_ffffn,
    cs: selector(SREGS.CS),
    ss: selector(SREGS.SS),
    ds: selector(SREGS.DS),
    es: selector(SREGS.ES),
    fs: selector(SREGS.FS),
    gs: selector(SREGS.GS),
    fs_base: sregs.getBigUint64(SREGS.FS + SEGMENT.BASE, true),
    gs_base: sregs.getBigUint64(SREGS.GS + SEGMENT.BASE, true),
  };
  const status = Buffer.alloc(PRSTATUS.SIZE);
  // As threads of a process would be numbered.
  status.writeUInt32LE(index + 1, PRSTATUS.PID);
  USER_REGS.forEach((name, position) => {
    const value = values[name] ?? regs.getBigUint64(REGISTER_NAMES.indexOf(name as RegisterName) * 8, true);
    status.writeBigUInt64LE(value, PRSTATUS.REG + position * 8);
  });
  return status;
}

function qemuState({ regs, sregs: sregsBytes, msrs }: CoreVcpu): Buffer {
  const sregs = viewOf(sregsBytes);
  const state = Buffer.alloc(QEMU_STATE.SIZE);
  state.writeUInt32LE(QEMU_STATE_VERSION, 0);
  state.writeUInt32LE(QEMU_STATE.SIZE, 4);
  // The order of kvm_regs.
  state.set(regs.subarray(0, REGS_SIZE), QEMU_STATE.REGS);
  QEMU_SEGMENTS.forEach((segment, index) => {
    const at = QEMU_STATE.SEGMENTS + index * QEMU_SEGMENT.SIZE;
    state.writeUInt32LE(sregs.getUint16(segment + SEGMENT.SELECTOR, true), at + QEMU_SEGMENT.SELECTOR);
    state.writeUInt32LE(sregs.getUint32(segment + SEGMENT.LIMIT, true), at + QEMU_SEGMENT.LIMIT);
    state.writeUInt32LE(descriptorFlags(sregs, segment), at + QEMU_SEGMENT.FLAGS);
    state.writeBigUInt64LE(sregs.getBigUint64(segment + SEGMENT.BASE, true), at + QEMU_SEGMENT.BASE);
  });
  QEMU_TABLES.forEach((table, index) => {
    const at = QEMU_STATE.SEGMENTS + (QEMU_SEGMENTS.length + index) * QEMU_SEGMENT.SIZE;
    state.writeUInt32LE(sregs.getUint16(table + DTABLE.LIMIT, true), at + QEMU_SEGMENT.LIMIT);
    state.writeBigUInt64LE(sregs.getBigUint64(table + DTABLE.BASE, true), at + QEMU_SEGMENT.BASE);
  });
  CONTROL_REGISTERS.forEach((register, index) => {
    if (register === undefined) return;
    state.writeBigUInt64LE(sregs.getBigUint64(register, true), QEMU_STATE.CR + index * 8);
  });
  const kernelGsBase = msrs.find(({ index }) => index === MSR_KERNEL_GS_BASE)?.data ?? 0n;
  state.writeBigUInt64LE(kernelGsBase, QEMU_STATE.KERNEL_GS_BASE);
  return state;
}

/** The upper half of a segment descriptor, without base and limit (Intel SDM 3A, 3.4.5). */
function descriptorFlags(sregs: DataView, segment: number): number {
  const field = (offset: number): number => sregs.getUint8(segment + offset);
  return (
    ((field(SEGMENT.TYPE) << 8) |
      (field(SEGMENT.S) << 12) |
      (field(SEGMENT.DPL) << 13) |
      (field(SEGMENT.PRESENT) << 15) |
      (field(SEGMENT.AVL) << 20) |
      (field(SEGMENT.L) << 21) |
      (field(SEGMENT.DB) << 22) |
      (field(SEGMENT.G) << 23)) >>>
    0
  );
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
