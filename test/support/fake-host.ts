// A host for the doctor's checks on which everything is as it should be; a test replaces what is to be wrong.

import { KVM_CAP_MAX_VCPUS } from '../../src/vmm/kvm/abi.js';
import type { HostProbes, KvmProbe } from '../../src/vmm/doctor/checks.js';

export const HEALTHY_FILES: Readonly<Record<string, string>> = {
  '/proc/cpuinfo': 'processor\t: 0\nflags\t\t: fpu vmx lm\n',
  '/proc/meminfo': 'MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n',
  '/proc/self/cgroup': '0::/\n',
  '/proc/self/limits':
    'Limit                     Soft Limit           Hard Limit           Units     \n' +
    'Max open files            20000                20000                files     \n' +
    'Max locked memory         65536                65536                bytes     \n' +
    'Max address space         unlimited            unlimited            bytes     \n',
  '/sys/module/kvm_intel/parameters/nested': 'Y\n',
};

/** What the healthy host's KVM is, and whether it was closed. */
export class FakeKvm implements KvmProbe {
  closed = false;
  private readonly capabilities: Readonly<Record<number, number>>;
  private readonly createFailure: Error | undefined;

  constructor(capabilities: Readonly<Record<number, number>> = {}, createFailure?: Error) {
    this.capabilities = capabilities;
    this.createFailure = createFailure;
  }

  capability(number: number): number {
    return this.capabilities[number] ?? (number === KVM_CAP_MAX_VCPUS ? 288 : 1);
  }

  createVm(): void {
    if (this.createFailure !== undefined) throw this.createFailure;
  }

  close(): void {
    this.closed = true;
  }
}

/** A healthy host but for `changes`; `files` are files of the kernel's that differ, undefined for one that is missing. */
export function fakeHost(
  changes: Partial<HostProbes> = {},
  files: Readonly<Record<string, string | undefined>> = {},
): HostProbes {
  const all: Readonly<Record<string, string | undefined>> = { ...HEALTHY_FILES, ...files };
  const works = () => Promise.resolve();
  return {
    nodeVersion: '20.11.1',
    platform: 'linux',
    arch: 'x64',
    kernelRelease: '6.1.0-18-amd64',
    processors: 4,
    socketDirectory: '/tmp',
    loadSystemCalls: works,
    openKvm: () => Promise.resolve(new FakeKvm()),
    runGuest: works,
    makeTap: works,
    makeSocket: works,
    hugePagePools: () => [],
    readText: (path) => all[path],
    ...changes,
  };
}
