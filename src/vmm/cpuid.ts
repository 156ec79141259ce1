// What CPUID tells the guest: everything KVM supports on this host, with the parts that name this very vCPU set.
//
// Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.

import type { CpuidEntry } from './kvm/system.js';

const LEAF_FEATURES = 0x1;
const LEAF_CACHE = 0x4;
const LEAF_PERFORMANCE_MONITORING = 0xa;
const LEAF_TOPOLOGY = 0xb;
const LEAF_TOPOLOGY_V2 = 0x1f;
const LEAF_AMD_TOPOLOGY = 0x8000_001e;

const ECX_TSC_DEADLINE_BIT = 24;
const ECX_HYPERVISOR_BIT = 31;
/** Leaf 1 EBX: size of the CLFLUSH line in 8-byte units, bits 15 to 8. */
const CLFLUSH_LINE_64_BYTES = 8 << 8;

const TOPOLOGY_LEVEL_SMT = 1;
const TOPOLOGY_LEVEL_CORE = 2;
/** KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the leaf has subleaves. */
const SIGNIFICANT_INDEX = 1;

export interface CpuidOptions {
  readonly vcpu: number;
  readonly vcpuCount: number;
  readonly tscDeadlineTimer: boolean;
}

/** The CPUID table of vCPU `vcpu`, whose APIC id is its number. One core per vCPU, one socket. */
export function guestCpuid(supported: readonly CpuidEntry[], options: CpuidOptions): CpuidEntry[] {
  const table = supported
    .filter((entry) => entry.function !== LEAF_TOPOLOGY && entry.function !== LEAF_TOPOLOGY_V2)
    .map((entry) => adapt(entry, options));
  const highest = supported.find((entry) => entry.function === 0)?.eax ?? 0;
  if (highest >= LEAF_TOPOLOGY) table.push(...topology(LEAF_TOPOLOGY, options));
  return table;
}

function adapt(entry: CpuidEntry, { vcpu, vcpuCount, tscDeadlineTimer }: CpuidOptions): CpuidEntry {
  switch (entry.function) {
    case LEAF_FEATURES: {
      let ecx = entry.ecx | (1 << ECX_HYPERVISOR_BIT);
      if (tscDeadlineTimer) ecx |= 1 << ECX_TSC_DEADLINE_BIT;
      const ebx = ((vcpu << 24) | (vcpuCount << 16) | CLFLUSH_LINE_64_BYTES | (entry.ebx & 0xff)) >>> 0;
      return { ...entry, ebx, ecx: ecx >>> 0 };
    }
    case LEAF_CACHE: {
      if ((entry.eax & 0x1f) === 0) return entry; // No more caches.
      // EAX bits 31 to 26: cores in the package less one; bits 25 to 14: threads that share the cache less one.
      const level = (entry.eax >>> 5) & 7;
      const sharing = level < 3 ? 0 : vcpuCount - 1;
      const eax = ((entry.eax & 0x3fff) | ((sharing & 0xfff) << 14) | (((vcpuCount - 1) & 0x3f) << 26)) >>> 0;
      return { ...entry, eax };
    }
    case LEAF_PERFORMANCE_MONITORING:
      // No performance counters: they would leak the host's activity and cost time on every switch.
      return { ...entry, eax: 0, ebx: 0, ecx: 0, edx: 0 };
    case LEAF_AMD_TOPOLOGY:
      // EAX: extended APIC id; EBX: core id and threads per core less one; ECX: node id.
      return { ...entry, eax: vcpu, ebx: vcpu & 0xff, ecx: 0 };
    default:
      return entry;
  }
}

function topology(leaf: number, { vcpu, vcpuCount }: CpuidOptions): CpuidEntry[] {
  // EAX: how far to shift an APIC id to the right for the next level's id; EBX: logical processors at this level.
  const coreShift = Math.ceil(Math.log2(Math.max(1, vcpuCount)));
  const common = { function: leaf, flags: SIGNIFICANT_INDEX, edx: vcpu };
  return [
    { ...common, index: 0, eax: 0, ebx: 1, ecx: TOPOLOGY_LEVEL_SMT << 8 },
    { ...common, index: 1, eax: coreShift, ebx: vcpuCount, ecx: (TOPOLOGY_LEVEL_CORE << 8) | 1 },
    { ...common, index: 2, eax: 0, ebx: 0, ecx: 2 },
  ];
}
