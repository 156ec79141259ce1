// Fields of Cloud Hypervisor's VmConfig that do not exist here, in a configuration written for it or printed by it. Such
// a field is passed over where its value means that the thing is not there, as it does wherever nobody asked for it, and
// refused with the reason where it asks for something.

import { type Complaint, showValue } from './config-error.js';
import { PCI_KEYS, PCI_KEYS_OF_ONLY_DEVICE } from './options/refused.js';
import type { Complain } from './rules/rule.js';
import { CLOUD_HYPERVISOR_ONLY } from './unknown-option.js';
import { VM_OPTIONS } from './vm-options.js';
import { defineField } from './without-absent.js';

interface ForeignField {
  /** Values that ask for nothing, besides null. */
  readonly inert: readonly unknown[];
  readonly reason: string;
}

/** The reason that the option table has for a key: the field means the same. */
function keyReason(option: string, key: string): string {
  const reason = VM_OPTIONS.find(({ name }) => name === option)?.notSupported[key];
  if (reason === undefined) throw new Error(`--${option} says nothing about ${key}`);
  return reason;
}

function optionReason(option: string): string {
  if (!Object.hasOwn(CLOUD_HYPERVISOR_ONLY, option)) throw new Error(`nothing is said about --${option}`);
  return CLOUD_HYPERVISOR_ONLY[option];
}

const NOTHING: readonly unknown[] = [false, 0, ''];

function field(reason: string, ...inert: readonly unknown[]): ForeignField {
  return { inert: [...NOTHING, ...inert], reason };
}

const PCI_FIELDS: Readonly<Record<string, ForeignField>> = {
  iommu: field(PCI_KEYS.iommu),
  pci_segment: field(PCI_KEYS.pci_segment),
  pci_device_id: field(PCI_KEYS.pci_device_id),
};

/** Of a device of which there is one. Its name may be the one that Cloud Hypervisor gives by itself. */
function onlyDevice(name: string): Readonly<Record<string, ForeignField>> {
  return { ...PCI_FIELDS, id: field(PCI_KEYS_OF_ONLY_DEVICE.id, name) };
}

const TESTING_ONLY = 'This is for tests of Cloud Hypervisor; leave it out.';

/** By path, `[]` for any index. */
const FOREIGN_FIELDS: ReadonlyMap<string, ForeignField> = new Map([
  ...within('cpus', {
    kvm_hyperv: field(keyReason('cpus', 'kvm_hyperv')),
    // The defaults, which Cloud Hypervisor prints into every configuration.
    max_phys_bits: field(keyReason('cpus', 'max_phys_bits'), 46),
    nested: field(keyReason('cpus', 'nested'), true),
    core_scheduling: field(keyReason('cpus', 'core_scheduling'), 'Vm', 'Off'),
    profile: field(keyReason('cpus', 'profile'), 'Host', 'host'),
  }),
  ...within('memory', {
    hotplug_method: field(keyReason('memory', 'hotplug_method'), 'Acpi', 'VirtioMem'),
    hotplug_size: field(keyReason('memory', 'hotplug_size')),
    hotplugged_size: field(keyReason('memory', 'hotplugged_size')),
    reserve: field(keyReason('memory', 'reserve')),
    zones: field(optionReason('memory-zone')),
  }),
  ...within('payload', {
    firmware: field(optionReason('firmware')),
    igvm: field(optionReason('igvm')),
    host_data: field(optionReason('host-data')),
    fw_cfg_config: field(optionReason('fw-cfg-config')),
  }),
  ...within('serial', { iommu: field(PCI_KEYS.iommu) }),
  ...within('console', onlyDevice('_console')),
  ...within('rng', onlyDevice('_rng')),
  ...within('balloon', onlyDevice('_balloon')),
  ...within('vsock', onlyDevice('_vsock')),
  ...within('disks[]', {
    ...PCI_FIELDS,
    vhost_user: field(keyReason('disk', 'vhost_user')),
    vhost_socket: field(keyReason('disk', 'socket')),
    rate_limit_group: field(keyReason('disk', 'rate_limit_group')),
    queue_affinity: field(keyReason('disk', 'queue_affinity')),
    sparse: field(keyReason('disk', 'sparse'), true),
    lock_granularity: field(keyReason('disk', 'lock_granularity'), 'ByteRange', 'Full'),
    disable_io_uring: field(TESTING_ONLY),
    disable_aio: field(TESTING_ONLY),
  }),
  ...within('net[]', {
    ...PCI_FIELDS,
    vhost_user: field(keyReason('net', 'vhost_user')),
    vhost_socket: field(keyReason('net', 'socket')),
    vhost_mode: field(keyReason('net', 'vhost_mode'), 'Client'),
    fds: field(keyReason('net', 'fd')),
  }),
  ...within('pmem[]', PCI_FIELDS),
  ...within('', {
    devices: field(optionReason('device')),
    user_devices: field(optionReason('user-device')),
    generic_vhost_user: field(optionReason('generic-vhost-user')),
    vdpa: field(optionReason('vdpa')),
    fs: field(optionReason('fs')),
    ivshmem: field(optionReason('ivshmem')),
    pvmemcontrol: field(optionReason('pvmemcontrol')),
    rtc: field(optionReason('rtc')),
    tpm: field(optionReason('tpm')),
    numa: field(optionReason('numa')),
    platform: field(optionReason('platform')),
    pci_segments: field(optionReason('pci-segment')),
    rate_limit_groups: field(optionReason('rate-limit-group')),
    sgx_epc: field(optionReason('sgx-epc')),
    tdx: field(optionReason('tdx')),
    gdb: field(optionReason('gdb')),
    landlock_enable: field(optionReason('landlock')),
    landlock_rules: field(optionReason('landlock-rules')),
    iommu: field(PCI_KEYS.iommu),
    preserved_fds: field('Descriptors are not handed over; leave this out.'),
  }),
]);

function within(prefix: string, fields: Readonly<Record<string, ForeignField>>): [string, ForeignField][] {
  return Object.entries(fields).map(([key, value]) => [prefix === '' ? key : `${prefix}.${key}`, value]);
}

/**
 * A copy of `input` without what is null or undefined, which counts as absent, and without Cloud Hypervisor's fields
 * that ask for nothing. Throws ConfigError NOT_SUPPORTED for one that does.
 */
export function withoutForeignFields(input: unknown, complain: Complain): unknown {
  return copy(input, '', '', complain);
}

function copy(value: unknown, path: string, pattern: string, complain: Complain): unknown {
  if (Array.isArray(value)) {
    return value.map((element, index) => copy(element, `${path}[${index}]`, `${pattern}[]`, complain));
  }
  if (typeof value !== 'object' || value === null) return value;
  const result: Record<string, unknown> = {};
  for (const [key, inner] of Object.entries(value)) {
    if (inner === undefined || inner === null) continue;
    const [innerPath, innerPattern] = [join(path, key), join(pattern, key)];
    const foreign = FOREIGN_FIELDS.get(innerPattern);
    if (foreign !== undefined && isInert(inner, foreign)) continue;
    if (foreign !== undefined) complain(innerPath, inner, complaintAbout(inner, foreign));
    defineField(result, key, copy(inner, innerPath, innerPattern, complain));
  }
  return result;
}

function isInert(value: unknown, { inert }: ForeignField): boolean {
  return inert.includes(value) || (Array.isArray(value) && value.length === 0);
}

function complaintAbout(value: unknown, { reason }: ForeignField): Complaint {
  return { code: 'NOT_SUPPORTED', problem: `${showValue(value)} is not supported by tsvmm`, mend: reason };
}

function join(path: string, key: string): string {
  return path === '' ? key : `${path}.${key}`;
}
