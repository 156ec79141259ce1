// Processors and memory, and the threads that serve the devices.

import { cpuAffinity, cpuTopology } from '../cpu-values.js';
import { keyedOption, optional } from '../keyed-option.js';
import { type OptionSpec, plainOption } from '../option-spec.js';
import { byteSize, choice, integer, list, toggle } from '../values.js';
import { given } from './given.js';

const NO_HOTPLUG =
  'Memory is not plugged in later; give the guest all of it in size=, and take some back with --balloon.';

export const MACHINE_OPTIONS: readonly OptionSpec[] = [
  keyedOption({
    name: 'cpus',
    help: 'Number of vCPUs, and where they run',
    defaultText: 'boot=1',
    keys: {
      boot: optional(integer, 'cpus.boot_vcpus', 'vCPUs at start, 1 to 254 (1)'),
      max: optional(integer, 'cpus.max_vcpus', 'The same: vCPUs are not plugged in later (as boot)'),
      topology: optional(
        cpuTopology,
        'cpus.topology',
        'Threads a core, cores a die, dies a package, packages; their product is the number of vCPUs',
      ),
      affinity: optional(
        list(cpuAffinity),
        'cpus.affinity',
        'Host CPUs that a vCPU may run on: [0@[0-3,7],1@[4]] (any)',
      ),
      features: optional(
        list(choice({ amx: 'amx' })),
        'cpus.features',
        'CPU features that the guest gets on demand only',
      ),
    },
    notSupported: {
      kvm_hyperv: 'tsvmm offers no Hyper-V interface; leave this out.',
      max_phys_bits: 'The guest gets the address width of the host; leave this out.',
      nested: 'There is no nested virtualization; leave this out.',
      core_scheduling: 'tsvmm does not tag its threads for core scheduling; use affinity, or leave this out.',
      profile: 'The guest gets the CPU model of the host; leave this out.',
    },
    // As in Cloud Hypervisor, more vCPUs at start mean at least as many at most.
    into: ({ boot = 1, max = boot, topology, affinity, features }) => ({
      cpus: {
        boot_vcpus: boot,
        max_vcpus: max,
        ...given({ topology, affinity }),
        ...(features !== undefined && { features: { amx: features.includes('amx') } }),
      },
    }),
  }),
  keyedOption({
    name: 'memory',
    help: 'Guest memory',
    defaultText: 'size=512M',
    keys: {
      size: optional(
        byteSize,
        'memory.size',
        'Bytes, or with a suffix K, M, G or T; a multiple of the page size (512M)',
      ),
      mergeable: optional(toggle, 'memory.mergeable', 'Equal pages are shared with other guests by the host (off)'),
      shared: optional(toggle, 'memory.shared', 'A memory file instead of private memory (off)'),
      hugepages: optional(toggle, 'memory.hugepages', "Pages of the host's huge page pool (off)"),
      hugepage_size: optional(byteSize, 'memory.hugepage_size', "2M or 1G (the host's default)"),
      prefault: optional(toggle, 'memory.prefault', 'All of it is allocated before the guest starts (off)'),
      thp: optional(toggle, 'memory.thp', 'Transparent huge pages for private memory (on)'),
    },
    notSupported: {
      hotplug_method: NO_HOTPLUG,
      hotplug_size: NO_HOTPLUG,
      hotplugged_size: NO_HOTPLUG,
      reserve: 'Swap space is never reserved; use prefault=on to have the memory for certain.',
      file: 'Guest memory has no file of its own; leave this out.',
    },
    into: (values) => ({ memory: given(values) }),
  }),
  plainOption({
    name: 'io-threads',
    kind: integer,
    field: 'io_threads',
    help: 'Threads that the devices other than vsock share, 1 to 64 (1); vsock has one of its own',
    into: (io_threads) => ({ io_threads }),
  }),
];
