// Rules for the vCPUs: how many, how they are grouped, and where they may run. How many KVM runs on this host is asked
// when the machine is made.

import { readFileSync } from 'node:fs';
import { MAX_HOST_CPU } from '../cpu-values.js';
import type { CpuAffinityConfig, CpusConfig, CpuTopologyConfig } from '../vm-config.js';
import { checkCount } from './numbers.js';
import type { Complain } from './rule.js';

/** APIC ids have 8 bits in the MP table and in the local APIC: 255 means all of them, and the IOAPIC has one. */
export const MAX_VCPUS = 254;

export function checkCpus(cpus: CpusConfig, complain: Complain): void {
  const { boot_vcpus, max_vcpus, topology, affinity } = cpus;
  checkCount(complain, 'cpus.boot_vcpus', boot_vcpus, { min: 1, max: MAX_VCPUS, unit: 'vCPUs' });
  checkCount(complain, 'cpus.max_vcpus', max_vcpus, { min: 1, max: MAX_VCPUS, unit: 'vCPUs' });
  if (max_vcpus < boot_vcpus) {
    complain('cpus.max_vcpus', max_vcpus, {
      code: 'CONFLICT',
      problem: `${max_vcpus} are fewer than the ${boot_vcpus} vCPUs at start`,
      mend: `Use ${boot_vcpus}, or leave it out.`,
    });
  }
  if (max_vcpus > boot_vcpus) {
    complain('cpus.max_vcpus', max_vcpus, {
      code: 'NOT_SUPPORTED',
      problem: `${max_vcpus} are more than the ${boot_vcpus} vCPUs at start, and tsvmm does not plug vCPUs in later`,
      mend: `Start with ${max_vcpus}, or leave it out.`,
    });
  }
  if (topology !== undefined) checkTopology(topology, max_vcpus, complain);
  if (affinity !== undefined) checkAffinity(affinity, boot_vcpus, complain);
}

function checkTopology(topology: CpuTopologyConfig, vcpus: number, complain: Complain): void {
  const field = 'cpus.topology';
  const parts = [topology.threads_per_core, topology.cores_per_die, topology.dies_per_package, topology.packages];
  const text = parts.join(':');
  if (parts.some((part) => !Number.isInteger(part) || part < 1)) {
    complain(field, text, {
      code: 'OUT_OF_RANGE',
      problem: `${text} has a part that is not a number of at least 1`,
      mend: `For instance, ${vcpus} cores are 1:${vcpus}:1:1.`,
    });
  }
  const product = parts.reduce((total, part) => total * part);
  if (product !== vcpus) {
    complain(field, text, {
      code: 'CONFLICT',
      problem: `${text} makes ${product} vCPUs, and there are ${vcpus}`,
      mend: `Make the product ${vcpus}, or the number of vCPUs ${product}.`,
    });
  }
}

function checkAffinity(affinity: readonly CpuAffinityConfig[], vcpus: number, complain: Complain): void {
  const seen = new Set<number>();
  const online = onlineCpus();
  affinity.forEach(({ vcpu, host_cpus }, index) => {
    const field = `cpus.affinity[${index}]`;
    if (!Number.isInteger(vcpu) || vcpu < 0 || vcpu >= vcpus) {
      complain(`${field}.vcpu`, vcpu, {
        code: 'OUT_OF_RANGE',
        problem: `there is no vCPU ${vcpu}`,
        mend: vcpus === 1 ? 'There is vCPU 0 only.' : `There are vCPUs 0 to ${vcpus - 1}.`,
      });
    }
    if (seen.has(vcpu)) {
      complain(`${field}.vcpu`, vcpu, {
        code: 'DUPLICATE',
        problem: `vCPU ${vcpu} is named twice`,
        mend: 'Give all its host CPUs in one list.',
      });
    }
    seen.add(vcpu);
    checkHostCpus(`${field}.host_cpus`, host_cpus, online, complain);
  });
}

function checkHostCpus(field: string, cpus: readonly number[], online: HostCpus | undefined, complain: Complain): void {
  if (cpus.length === 0) {
    const mend = 'Name the host CPUs, or leave the vCPU out.';
    complain(field, cpus, { code: 'MISSING_VALUE', problem: 'a vCPU has no host CPU to run on', mend });
  }
  cpus.forEach((cpu, index) => {
    if (!Number.isInteger(cpu) || cpu < 0 || cpu > MAX_HOST_CPU) {
      complain(`${field}[${index}]`, cpu, {
        code: 'OUT_OF_RANGE',
        problem: `${cpu} is not the number of a host CPU`,
        mend: `Use 0 to ${MAX_HOST_CPU}.`,
      });
    }
    if (cpus.indexOf(cpu) !== index) {
      const problem = `host CPU ${cpu} is named twice for one vCPU`;
      complain(`${field}[${index}]`, cpu, { code: 'DUPLICATE', problem, mend: 'Name it once.' });
    }
    if (online !== undefined && !online.has(cpu)) {
      complain(`${field}[${index}]`, cpu, {
        code: 'NOT_FOUND',
        problem: `host CPU ${cpu} is not online`,
        mend: `This host has ${online.text}.`,
      });
    }
  });
}

interface HostCpus {
  readonly text: string;
  readonly has: (cpu: number) => boolean;
}

/** The host's CPUs as the kernel lists them: `0-3,6`. Undefined where sysfs is not there: then nothing is judged. */
function onlineCpus(): HostCpus | undefined {
  let text;
  try {
    text = readFileSync('/sys/devices/system/cpu/online', 'latin1').trim();
  } catch {
    return undefined;
  }
  const ranges = text.split(',').map((range) => {
    const [first, last = first] = range.split('-').map(Number);
    return { first, last };
  });
  return { text, has: (cpu) => ranges.some(({ first, last }) => cpu >= first && cpu <= last) };
}
