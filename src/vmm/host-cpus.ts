// What a configuration's vCPUs ask of the host, checked before anything starts. Main thread.

import { readFileSync } from 'node:fs';
import type { CpusConfig } from '../config/vm-config.js';
import { libc } from '../platform/libc.js';
import { VmError } from './errors.js';
import { KVM_CAP_MAX_VCPUS } from './kvm/abi.js';
import type { KvmSystem } from './kvm/system.js';

const SYS_ARCH_PRCTL = 158;
const ARCH_REQ_XCOMP_GUEST_PERM = 0x1025;
/** The state component that holds the tiles of AMX. */
const XFEATURE_XTILEDATA = 18;

/** Throws VmError HOST_CPU or KVM_CAPABILITY. With `amx`, asks the kernel for it on behalf of the guests of this process. */
export function checkHostCpus(cpus: CpusConfig, system: KvmSystem): void {
  const most = system.capability(KVM_CAP_MAX_VCPUS);
  if (cpus.boot_vcpus > most) {
    throw new VmError(
      'HOST_CPU',
      `--cpus boot=${cpus.boot_vcpus} is more than the ${most} vCPUs that KVM gives a VM here`,
      'ask for fewer',
    );
  }
  checkAffinity(cpus);
  if (cpus.features?.amx === true) requestAmx();
}

function checkAffinity({ affinity = [] }: CpusConfig): void {
  if (affinity.length === 0) return;
  const text = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';
  const allowed = new Set(parseCpuList(text));
  for (const { vcpu, host_cpus } of affinity) {
    const missing = host_cpus.find((cpu) => !allowed.has(cpu));
    if (missing === undefined) continue;
    throw new VmError(
      'HOST_CPU',
      `--cpus affinity: vCPU ${vcpu} is to run on host processor ${missing}, and this process may use ${text}`,
      'name processors of that list',
    );
  }
}

/** The numbers in a list as the kernel writes it: `0-3,8`. */
export function parseCpuList(text: string): number[] {
  return text.split(',').flatMap((part) => {
    const [first = NaN, last = first] = part.split('-').map(Number);
    return Number.isNaN(first) ? [] : Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
}

function requestAmx(): void {
  if (libc.syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_GUEST_PERM, XFEATURE_XTILEDATA, 0) < 0) {
    throw new VmError(
      'HOST_CPU',
      '--cpus features=amx: this host has no AMX for guests',
      'leave it out, or use a processor with AMX and a kernel 5.17 or newer',
    );
  }
}
