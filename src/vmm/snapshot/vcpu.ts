// Everything that a vCPU is, taken out of KVM and put back. vCPU worker, while the vCPU is outside the guest.
//
// The order of putting back is not free: CPUID decides which registers exist, the APIC base decides how the local APIC is
// read, and the TSC must be right before a deadline is set by it.

import { NativeBuffer } from '../../platform/native-buffer.js';
import { hex } from '../../platform/units.js';
import {
  DEBUGREGS_SIZE,
  KVM_GET_DEBUGREGS,
  KVM_GET_LAPIC,
  KVM_GET_MP_STATE,
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_GET_VCPU_EVENTS,
  KVM_GET_XCRS,
  KVM_GET_XSAVE,
  KVM_GET_XSAVE2,
  KVM_SET_DEBUGREGS,
  KVM_SET_LAPIC,
  KVM_SET_MP_STATE,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_VCPU_EVENTS,
  KVM_SET_XCRS,
  KVM_SET_XSAVE,
  LAPIC,
  MP_STATE_SIZE,
  REGS_SIZE,
  SREGS,
  VCPU_EVENTS_SIZE,
  XCRS_SIZE,
  XSAVE_SIZE,
} from '../kvm/abi.js';
import type { CpuidEntry } from '../kvm/system.js';
import type { KvmVcpu, MsrValue } from '../kvm/vcpu-fd.js';

/** One vCPU outside the guest: KVM's structures as they are, plain data for another thread. */
export interface VcpuSnapshot {
  readonly regs: Uint8Array;
  readonly sregs: Uint8Array;
  readonly xsave: Uint8Array;
  readonly xcrs: Uint8Array;
  readonly debugregs: Uint8Array;
  readonly lapic: Uint8Array;
  readonly events: Uint8Array;
  readonly mpState: number;
  /** Frequency of the time stamp counter; 0 when KVM does not say. */
  readonly tscKhz: number;
  readonly msrs: readonly MsrValue[];
  readonly cpuid: readonly CpuidEntry[];
}

const MSR_IA32_TSC = 0x10;
const MSR_IA32_TSC_DEADLINE = 0x6e0;

/** What saving needs to know of this host's KVM. */
export interface SaveRequest {
  readonly msrIndices: readonly number[];
  /** Bytes of the XSAVE area: KVM_CAP_XSAVE2's answer. */
  readonly xsaveSize: number;
}

/** Takes the state of `vcpu`, whose CPUID is `cpuid`. Throws SysError. */
export function saveVcpu(vcpu: KvmVcpu, cpuid: readonly CpuidEntry[], known: SaveRequest): VcpuSnapshot {
  const wide = known.xsaveSize > XSAVE_SIZE;
  // The multiprocessor state first: KVM takes pending INIT and SIPI into account when it is read.
  const mpState = vcpu.get(KVM_GET_MP_STATE, MP_STATE_SIZE, 'KVM_GET_MP_STATE').u32(0);
  return {
    mpState,
    regs: vcpu.get(KVM_GET_REGS, REGS_SIZE, 'KVM_GET_REGS').bytes,
    sregs: vcpu.get(KVM_GET_SREGS, SREGS.SIZE, 'KVM_GET_SREGS').bytes,
    xsave: vcpu.get(
      wide ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
      Math.max(known.xsaveSize, XSAVE_SIZE),
      wide ? 'KVM_GET_XSAVE2' : 'KVM_GET_XSAVE',
    ).bytes,
    xcrs: vcpu.get(KVM_GET_XCRS, XCRS_SIZE, 'KVM_GET_XCRS').bytes,
    debugregs: vcpu.get(KVM_GET_DEBUGREGS, DEBUGREGS_SIZE, 'KVM_GET_DEBUGREGS').bytes,
    lapic: vcpu.get(KVM_GET_LAPIC, LAPIC.SIZE, 'KVM_GET_LAPIC').bytes,
    events: vcpu.get(KVM_GET_VCPU_EVENTS, VCPU_EVENTS_SIZE, 'KVM_GET_VCPU_EVENTS').bytes,
    tscKhz: vcpu.tscKhz(),
    msrs: vcpu.getMsrs(known.msrIndices),
    cpuid,
  };
}

/**
 * Puts `snapshot` into a new vCPU. `elapsedNs` is how long the guest was away: its clocks go on as if it had slept. Throws
 * SysError, or Error naming an MSR that KVM refuses.
 */
export function restoreVcpu(vcpu: KvmVcpu, snapshot: VcpuSnapshot, elapsedNs: bigint): void {
  vcpu.setCpuid(snapshot.cpuid);
  if (snapshot.tscKhz > 0) vcpu.setTscKhz(snapshot.tscKhz);
  const mpState = new NativeBuffer(MP_STATE_SIZE);
  mpState.setU32(0, snapshot.mpState);
  vcpu.set(KVM_SET_MP_STATE, mpState, 'KVM_SET_MP_STATE');
  vcpu.set(KVM_SET_REGS, native(snapshot.regs), 'KVM_SET_REGS');
  vcpu.set(KVM_SET_SREGS, native(snapshot.sregs), 'KVM_SET_SREGS');
  vcpu.set(KVM_SET_XSAVE, native(snapshot.xsave), 'KVM_SET_XSAVE');
  vcpu.set(KVM_SET_XCRS, native(snapshot.xcrs), 'KVM_SET_XCRS');
  vcpu.set(KVM_SET_DEBUGREGS, native(snapshot.debugregs), 'KVM_SET_DEBUGREGS');
  vcpu.set(KVM_SET_LAPIC, native(snapshot.lapic), 'KVM_SET_LAPIC');
  restoreMsrs(vcpu, snapshot, elapsedNs);
  vcpu.set(KVM_SET_VCPU_EVENTS, native(snapshot.events), 'KVM_SET_VCPU_EVENTS');
}

function restoreMsrs(vcpu: KvmVcpu, { msrs, tscKhz }: VcpuSnapshot, elapsedNs: bigint): void {
  const advance = (elapsedNs * BigInt(tscKhz)) / 1_000_000n;
  const first = msrs
    .filter(({ index }) => index !== MSR_IA32_TSC_DEADLINE)
    .map((msr) => (msr.index === MSR_IA32_TSC ? { ...msr, data: msr.data + advance } : msr));
  // The deadline is in terms of the counter, so it comes after it; one that has passed meanwhile fires at once.
  const deadline = msrs.filter(({ index }) => index === MSR_IA32_TSC_DEADLINE);
  for (const group of [first, deadline]) {
    let rest: readonly MsrValue[] = group;
    while (rest.length > 0) {
      const refused = vcpu.setMsrs(rest);
      if (refused === undefined) break;
      // KVM lists some that may be read and not written; what they hold is then what they held.
      if (vcpu.getMsrs([refused.index]).at(0)?.data !== refused.data) {
        throw new Error(`KVM refuses to set MSR ${hex(refused.index)} to ${hex(refused.data)}`);
      }
      rest = rest.slice(rest.indexOf(refused) + 1);
    }
  }
}

function native(bytes: Uint8Array): NativeBuffer {
  const buffer = new NativeBuffer(bytes.length, 64);
  buffer.bytes.set(bytes);
  return buffer;
}
