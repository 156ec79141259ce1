// What is said about an option that is not in the table: that Cloud Hypervisor has it and tsvmm does not, and what to do
// instead, or which option was probably meant.

import { ConfigError } from './config-error.js';
import { nearest } from './nearest.js';

const NO_DBUS = 'There is no D-Bus API; use --api-socket, or the npm library, to control VMs from a program.';
const NO_PASS_THROUGH = 'Devices of the host are not passed through; use --disk and --net.';
const NO_FILE_SHARING = 'Directories of the host are not shared; put the files on a --disk, or send them over --vsock.';
const NO_CONFIDENTIAL = 'Confidential guests are not supported; leave it out.';
const NO_CONFINEMENT = 'tsvmm does not confine itself; run it as a user of its own, in a container or under systemd.';
const NO_NUMA = 'The guest has one NUMA node; give it its memory with --memory, and bind vCPUs with --cpus affinity=.';

/**
 * Cloud Hypervisor's options that do not exist here, each with the reason and what to do instead. Whoever adds one to
 * the table takes it out of this list. Those of all its builds are here, and those that it had once.
 */
export const CLOUD_HYPERVISOR_ONLY: Readonly<Record<string, string>> = {
  'dbus-object-path': NO_DBUS,
  'dbus-service-name': NO_DBUS,
  'dbus-system-bus': NO_DBUS,
  device: NO_PASS_THROUGH,
  firmware: 'There is no firmware to start from; name the kernel with --kernel.',
  fs: NO_FILE_SHARING,
  'fw-cfg-config': 'There is no fw_cfg device; pass what the guest must know in --cmdline or over --vsock.',
  gdb: 'There is no debugger stub; a guest that crashes leaves a report of its registers.',
  'generic-vhost-user': 'Devices in other processes (vhost-user) are not supported; use those that tsvmm has.',
  'host-data': NO_CONFIDENTIAL,
  igvm: NO_CONFIDENTIAL,
  ivshmem: 'Memory is not shared between guests; let them talk by --vsock peer=.',
  landlock: NO_CONFINEMENT,
  'landlock-rules': NO_CONFINEMENT,
  'memory-zone': NO_NUMA,
  numa: NO_NUMA,
  'pci-segment': 'Devices are on virtio-mmio, and there is no PCI bus; leave it out.',
  platform: 'There is no SMBIOS table and no PCI bus to describe; leave it out.',
  pvmemcontrol: 'There is no pvmemcontrol device; use --balloon.',
  'rate-limit-group': 'Each device has its own limit; use bw_size=, ops_size= and their partners of --disk and --net.',
  rtc: 'There is no virtio clock; Linux guests use the clock of KVM.',
  seccomp: NO_CONFINEMENT,
  'sgx-epc': NO_CONFIDENTIAL,
  tdx: NO_CONFIDENTIAL,
  tpm: 'There is no TPM; leave it out.',
  'user-device': 'Devices in other processes (vfio-user) are not supported; use those that tsvmm has.',
  vdpa: NO_PASS_THROUGH,
};

/** The error for the option `given` (with its dashes) when those in `known` (without) are all there are. */
export function unknownOption(given: string, known: readonly string[]): ConfigError {
  const name = given.replace(/^-+/, '');
  if (given.startsWith('--') && Object.hasOwn(CLOUD_HYPERVISOR_ONLY, name)) {
    return new ConfigError(
      { option: given, label: given },
      {
        code: 'NOT_SUPPORTED',
        problem: 'an option of Cloud Hypervisor that is not supported by tsvmm',
        mend: CLOUD_HYPERVISOR_ONLY[name] ?? '',
      },
    );
  }
  const near = nearest(name, known);
  const meant = near === undefined ? '' : `Did you mean ${near.length === 1 ? '-' : '--'}${near}? `;
  return new ConfigError(
    { option: given, label: given },
    { code: 'UNKNOWN_OPTION', problem: 'no such option', mend: `${meant}tsvmm --help lists what there is.` },
  );
}
