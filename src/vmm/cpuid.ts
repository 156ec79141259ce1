// What CPUID tells the guest: everything KVM supports on this host, with the parts that name this very vCPU set.
//
// Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.

import type { CpuTopologyConfig } from '../config/vm-config.js';
import type { CpuidEntry } from './kvm/system.js';

const LEAF_FEATURES = 0x1;
const LEAF_CACHE = 0x4;
const LEAF_PERFORMANCE_MONITORING = 0xa;
const LEAF_TOPOLOGY = 0xb;
const LEAF_TOPOLOGY_V2 = 0x1f;
const LEAF_AMD_SIZES = 0x8000_0008;
const LEAF_AMD_TOPOLOGY = 0x8000_001e;

const ECX_TSC_DEADLINE_BIT = 24;
const ECX_HYPERVISOR_BIT = 31;
/** More than one logical processor in the package. */
const EDX_HTT_BIT = 28;
/** Leaf 1 EBX: size of the CLFLUSH line in 8-byte units, bits 15 to 8. */
const CLFLUSH_LINE_64_BYTES = 8 << 8;
/** The highest cache level that the threads of one core have to themselves. */
const LAST_PRIVATE_CACHE_LEVEL = 2;

// Leaves 0xb and 0x1f, ECX bits 15 to 8.
const TOPOLOGY_LEVEL_SMT = 1;
const TOPOLOGY_LEVEL_CORE = 2;
const TOPOLOGY_LEVEL_DIE = 5;
/** KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the leaf has subleaves. */
const SIGNIFICANT_INDEX = 1;

/** What a processor has that does not say: the least of any with 64 bits. */
const LEAST_ADDRESS_BITS = 36;

/** How many bits the guest's physical addresses have. */
export function physicalAddressBits(supported: readonly CpuidEntry[]): number {
  const bits = (supported.find((leaf) => leaf.function === LEAF_AMD_SIZES)?.eax ?? 0) & 0xff;
  return bits === 0 ? LEAST_ADDRESS_BITS : bits;
}

export interface CpuidOptions {
  readonly vcpu: number;
  readonly vcpuCount: number;
  /** Absent: one package of as many cores as there are vCPUs, each with one thread. */
  readonly topology?: CpuTopologyConfig | undefined;
  readonly tscDeadlineTimer: boolean;
}

/** How many logical processors each level holds, and how many low bits of an APIC id number them. */
interface Levels {
  readonly core: { readonly count: number; readonly bits: number };
  readonly die: { readonly count: number; readonly bits: number };
  readonly package: { readonly count: number; readonly bits: number };
  readonly dies: number;
}

function levelsOf({ vcpuCount, topology }: CpuidOptions): Levels {
  const { threads_per_core, cores_per_die, dies_per_package } = topology ?? {
    threads_per_core: 1,
    cores_per_die: vcpuCount,
    dies_per_package: 1,
  };
  const level = (count: number): { count: number; bits: number } => ({ count, bits: Math.ceil(Math.log2(count)) });
  const dieCount = threads_per_core * cores_per_die;
  return {
    core: level(threads_per_core),
    die: level(dieCount),
    package: level(dieCount * dies_per_package),
    dies: dies_per_package,
  };
}

/**
 * The CPUID table of vCPU `vcpu`, whose APIC id is its number: a topology's levels have powers of two of members, but for
 * the last.
 */
export function guestCpuid(supported: readonly CpuidEntry[], options: CpuidOptions): CpuidEntry[] {
  const levels = levelsOf(options);
  const table = supported
    .filter((entry) => entry.function !== LEAF_TOPOLOGY && entry.function !== LEAF_TOPOLOGY_V2)
    .map((entry) => adapt(entry, options, levels));
  const highest = supported.find((entry) => entry.function === 0)?.eax ?? 0;
  if (highest >= LEAF_TOPOLOGY) table.push(...topologyLeaf(LEAF_TOPOLOGY, options.vcpu, levels));
  if (highest >= LEAF_TOPOLOGY_V2) table.push(...topologyLeaf(LEAF_TOPOLOGY_V2, options.vcpu, levels));
  return table;
}

function adapt(entry: CpuidEntry, { vcpu, tscDeadlineTimer }: CpuidOptions, levels: Levels): CpuidEntry {
  switch (entry.function) {
    case LEAF_FEATURES: {
      let ecx = entry.ecx | (1 << ECX_HYPERVISOR_BIT);
      if (tscDeadlineTimer) ecx |= 1 << ECX_TSC_DEADLINE_BIT;
      const logical = Math.min(levels.package.count, 0xff);
      const ebx = ((vcpu << 24) | (logical << 16) | CLFLUSH_LINE_64_BYTES | (entry.ebx & 0xff)) >>> 0;
      const edx = logical > 1 ? entry.edx | (1 << EDX_HTT_BIT) : entry.edx & ~(1 << EDX_HTT_BIT);
      return { ...entry, ebx, ecx: ecx >>> 0, edx: edx >>> 0 };
    }
    case LEAF_CACHE: {
      if ((entry.eax & 0x1f) === 0) return entry; // No more caches.
      // EAX bits 31 to 26: cores in the package less one; bits 25 to 14: threads that share the cache less one. Both
      // are rounded up to what their APIC id bits can tell apart.
      const isPrivate = ((entry.eax >>> 5) & 7) <= LAST_PRIVATE_CACHE_LEVEL;
      const sharing = 2 ** (isPrivate ? levels.core.bits : levels.die.bits) - 1;
      const cores = 2 ** (levels.package.bits - levels.core.bits) - 1;
      const eax = ((entry.eax & 0x3fff) | ((sharing & 0xfff) << 14) | ((cores & 0x3f) << 26)) >>> 0;
      return { ...entry, eax };
    }
    case LEAF_PERFORMANCE_MONITORING:
      // No performance counters: they would leak the host's activity and cost time on every switch.
      return { ...entry, eax: 0, ebx: 0, ecx: 0, edx: 0 };
    case LEAF_AMD_SIZES: {
      // ECX bits 7 to 0: logical processors in the package less one; bits 15 to 12: their bits of the APIC id.
      const ecx = ((entry.ecx & ~0xf0ff) | ((levels.package.count - 1) & 0xff) | (levels.package.bits << 12)) >>> 0;
      return { ...entry, ecx };
    }
    case LEAF_AMD_TOPOLOGY: {
      // EAX: extended APIC id; EBX: core id, and threads per core less one in bits 15 to 8; ECX: node id, nodes less one.
      const core = (vcpu & (2 ** levels.package.bits - 1)) >>> levels.core.bits;
      const die = (vcpu & (2 ** levels.package.bits - 1)) >>> levels.die.bits;
      const ebx = (core & 0xff) | ((levels.core.count - 1) << 8);
      return { ...entry, eax: vcpu, ebx, ecx: die | ((levels.dies - 1) << 8) };
    }
    default:
      return entry;
  }
}

/** Leaf 0xb, which knows no dies, or 0x1f, which does when there are several. */
function topologyLeaf(leaf: number, vcpu: number, levels: Levels): CpuidEntry[] {
  const known = [
    { type: TOPOLOGY_LEVEL_SMT, ...levels.core },
    { type: TOPOLOGY_LEVEL_CORE, ...levels.die },
    { type: TOPOLOGY_LEVEL_DIE, ...levels.package },
  ];
  const used =
    leaf === LEAF_TOPOLOGY_V2 && levels.dies > 1 ? known : [known[0], { type: TOPOLOGY_LEVEL_CORE, ...levels.package }];
  // EAX: how far to shift an APIC id to the right for the next level's id; EBX: logical processors at this level.
  const subleaves = used.map(({ type, count, bits }, index) => ({ eax: bits, ebx: count, ecx: (type << 8) | index }));
  const end = { eax: 0, ebx: 0, ecx: used.length };
  return [...subleaves, end].map((registers, index) => ({
    function: leaf,
    index,
    flags: SIGNIFICANT_INDEX,
    edx: vcpu,
    ...registers,
  }));
}
