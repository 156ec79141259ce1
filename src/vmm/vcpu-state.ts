// Puts a new vCPU into the state a boot protocol asks for: CPUID, MSRs, FPU, local APIC, registers. vCPU worker.

import type { BootState, SegmentState, SpecialRegisters } from '../boot/state.js';
import { NativeBuffer } from '../platform/native-buffer.js';
import {
  DTABLE,
  FPU,
  KVM_GET_LAPIC,
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_SET_FPU,
  KVM_SET_LAPIC,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  LAPIC,
  REGISTER_NAMES,
  REGS_SIZE,
  SEGMENT,
  SREGS,
  type RegisterName,
} from './kvm/abi.js';
import type { CpuidEntry } from './kvm/system.js';
import type { KvmVcpu, MsrValue } from './kvm/vcpu-fd.js';
import { hex } from '../platform/units.js';

// Model-specific registers (Intel SDM volume 4) in the state firmware would leave them in.
const MSR_IA32_SYSENTER_CS = 0x174;
const MSR_IA32_SYSENTER_ESP = 0x175;
const MSR_IA32_SYSENTER_EIP = 0x176;
const MSR_IA32_MISC_ENABLE = 0x1a0;
const MSR_MTRR_DEF_TYPE = 0x2ff;
const MSR_STAR = 0xc000_0081;
const MSR_LSTAR = 0xc000_0082;
const MSR_CSTAR = 0xc000_0083;
const MSR_SYSCALL_MASK = 0xc000_0084;
const MSR_KERNEL_GS_BASE = 0xc000_0102;

const MISC_ENABLE_FAST_STRING = 1n;
/** MTRRs on, everything write-back: there is nothing in this machine to map otherwise. */
const MTRR_ENABLED_WRITE_BACK = (1n << 11n) | 6n;

const BOOT_MSRS: readonly MsrValue[] = [
  { index: MSR_IA32_SYSENTER_CS, data: 0n },
  { index: MSR_IA32_SYSENTER_ESP, data: 0n },
  { index: MSR_IA32_SYSENTER_EIP, data: 0n },
  { index: MSR_STAR, data: 0n },
  { index: MSR_CSTAR, data: 0n },
  { index: MSR_KERNEL_GS_BASE, data: 0n },
  { index: MSR_SYSCALL_MASK, data: 0n },
  { index: MSR_LSTAR, data: 0n },
  { index: MSR_IA32_MISC_ENABLE, data: MISC_ENABLE_FAST_STRING },
  { index: MSR_MTRR_DEF_TYPE, data: MTRR_ENABLED_WRITE_BACK },
];

/** x87 control word and MXCSR as FNINIT and reset leave them: all exceptions masked. */
const FCW_INIT = 0x37f;
const MXCSR_INIT = 0x1f80;

// Local vector table, bits 10 to 8: LINT0 takes the 8259's interrupts (ExtINT), LINT1 is NMI.
const DELIVERY_MODE_MASK = 0x700;
const DELIVERY_MODE_EXTINT = 7 << 8;
const DELIVERY_MODE_NMI = 4 << 8;

/** What every vCPU begins with. Throws SysError, or Error naming an MSR that KVM refuses. */
export function setUpVcpu(vcpu: KvmVcpu, cpuid: readonly CpuidEntry[]): void {
  vcpu.setCpuid(cpuid);
  const refused = vcpu.setMsrs(BOOT_MSRS);
  if (refused !== undefined) throw new Error(`KVM refuses to set MSR ${hex(refused.index)} to ${hex(refused.data)}`);
  setUpFpu(vcpu);
}

/** Brings the boot processor into `boot`'s entry state; the others keep that of a reset until it wakes them. */
export function enterBootState(vcpu: KvmVcpu, boot: BootState): void {
  setUpLocalApic(vcpu);
  setUpSpecialRegisters(vcpu, boot.sregs);
  setUpRegisters(vcpu, boot);
}

function setUpFpu(vcpu: KvmVcpu): void {
  const fpu = new NativeBuffer(FPU.SIZE);
  fpu.view.setUint16(FPU.FCW, FCW_INIT, true);
  fpu.setU32(FPU.MXCSR, MXCSR_INIT);
  vcpu.set(KVM_SET_FPU, fpu, 'KVM_SET_FPU');
}

function setUpLocalApic(vcpu: KvmVcpu): void {
  const lapic = vcpu.get(KVM_GET_LAPIC, LAPIC.SIZE, 'KVM_GET_LAPIC');
  lapic.setU32(LAPIC.LVT_LINT0, (lapic.u32(LAPIC.LVT_LINT0) & ~DELIVERY_MODE_MASK) | DELIVERY_MODE_EXTINT);
  lapic.setU32(LAPIC.LVT_LINT1, (lapic.u32(LAPIC.LVT_LINT1) & ~DELIVERY_MODE_MASK) | DELIVERY_MODE_NMI);
  vcpu.set(KVM_SET_LAPIC, lapic, 'KVM_SET_LAPIC');
}

function setUpSpecialRegisters(vcpu: KvmVcpu, wanted: SpecialRegisters): void {
  const sregs = vcpu.get(KVM_GET_SREGS, SREGS.SIZE, 'KVM_GET_SREGS');
  writeSegment(sregs, SREGS.CS, wanted.cs);
  writeSegment(sregs, SREGS.DS, wanted.ds);
  writeSegment(sregs, SREGS.ES, wanted.es);
  writeSegment(sregs, SREGS.FS, wanted.fs);
  writeSegment(sregs, SREGS.GS, wanted.gs);
  writeSegment(sregs, SREGS.SS, wanted.ss);
  writeSegment(sregs, SREGS.TR, wanted.tr);
  writeSegment(sregs, SREGS.LDT, wanted.ldt);
  for (const [offset, table] of [
    [SREGS.GDT, wanted.gdt],
    [SREGS.IDT, wanted.idt],
  ] as const) {
    sregs.setU64(offset + DTABLE.BASE, table.base);
    sregs.view.setUint16(offset + DTABLE.LIMIT, table.limit, true);
  }
  sregs.setU64(SREGS.CR0, wanted.cr0);
  sregs.setU64(SREGS.CR3, wanted.cr3);
  sregs.setU64(SREGS.CR4, wanted.cr4);
  sregs.setU64(SREGS.EFER, wanted.efer);
  vcpu.set(KVM_SET_SREGS, sregs, 'KVM_SET_SREGS');
}

function writeSegment(sregs: NativeBuffer, at: number, segment: SegmentState): void {
  const { view } = sregs;
  sregs.setU64(at + SEGMENT.BASE, segment.base);
  view.setUint32(at + SEGMENT.LIMIT, segment.limit, true);
  view.setUint16(at + SEGMENT.SELECTOR, segment.selector, true);
  view.setUint8(at + SEGMENT.TYPE, segment.type);
  view.setUint8(at + SEGMENT.PRESENT, segment.present);
  view.setUint8(at + SEGMENT.DPL, segment.dpl);
  view.setUint8(at + SEGMENT.DB, segment.db);
  view.setUint8(at + SEGMENT.S, segment.s);
  view.setUint8(at + SEGMENT.L, segment.l);
  view.setUint8(at + SEGMENT.G, segment.g);
  view.setUint8(at + SEGMENT.AVL, segment.avl);
  view.setUint8(at + SEGMENT.UNUSABLE, segment.unusable);
}

function setUpRegisters(vcpu: KvmVcpu, boot: BootState): void {
  const regs = new NativeBuffer(REGS_SIZE);
  for (const [name, value] of Object.entries(boot.registers) as [RegisterName, number][]) {
    regs.setU64(REGISTER_NAMES.indexOf(name) * 8, value);
  }
  vcpu.set(KVM_SET_REGS, regs, 'KVM_SET_REGS');
}

/** The general registers of a stopped vCPU by name. Throws SysError. */
export function readRegisters(vcpu: KvmVcpu): Record<RegisterName, bigint> {
  const regs = vcpu.get(KVM_GET_REGS, REGS_SIZE, 'KVM_GET_REGS');
  return Object.fromEntries(REGISTER_NAMES.map((name, index) => [name, regs.u64(index * 8)])) as Record<
    RegisterName,
    bigint
  >;
}

/** The control registers of a stopped vCPU by name. Throws SysError. */
export function readControlRegisters(vcpu: KvmVcpu): Record<'cr0' | 'cr2' | 'cr3' | 'cr4' | 'efer' | 'cs', bigint> {
  const sregs = vcpu.get(KVM_GET_SREGS, SREGS.SIZE, 'KVM_GET_SREGS');
  return {
    cr0: sregs.u64(SREGS.CR0),
    cr2: sregs.u64(SREGS.CR2),
    cr3: sregs.u64(SREGS.CR3),
    cr4: sregs.u64(SREGS.CR4),
    efer: sregs.u64(SREGS.EFER),
    cs: BigInt(sregs.view.getUint16(SREGS.CS + SEGMENT.SELECTOR, true)),
  };
}
