// The options that say what the virtual machine is, in Cloud Hypervisor's spelling: the one table behind parsing, error
// messages and help. A new device is a new entry here, a section in vm-config.ts and schema.ts, and its rules.

import { keyedOption, type OptionSpec, optional, plainOption, required, word } from './option-spec.js';
import { byteSize, integer, list, path, text, vsockPeer } from './values.js';

const NO_CONSOLE = 'The guest talks on the serial port; leave --console out, or write --console off.';
const SERIAL_ONLY = 'Use --serial tty, null, off or file=PATH.';
const ANONYMOUS_MEMORY = 'Guest memory is always shared between the threads of tsvmm; leave this out.';
const ONE_CPU = 'There is one vCPU for now; leave this out.';

export const VM_OPTIONS: readonly OptionSpec[] = [
  plainOption({
    name: 'kernel',
    kind: path,
    field: 'payload.kernel',
    help: 'Kernel to boot: a bzImage or an uncompressed ELF image (vmlinux). Without it, the guest built into tsvmm runs',
    into: (kernel) => ({ payload: { kernel } }),
  }),
  plainOption({
    name: 'initramfs',
    kind: path,
    field: 'payload.initramfs',
    help: 'Initial RAM file system for the kernel',
    into: (initramfs) => ({ payload: { initramfs } }),
  }),
  plainOption({
    name: 'cmdline',
    kind: text(),
    field: 'payload.cmdline',
    help: 'Kernel command line',
    into: (cmdline) => ({ payload: { cmdline } }),
  }),
  keyedOption({
    name: 'cpus',
    help: 'Number of vCPUs',
    defaultText: 'boot=1',
    keys: {
      boot: optional(integer, 'cpus.boot_vcpus', 'vCPUs at start; 1 is all there is for now'),
      max: optional(integer, 'cpus.max_vcpus', 'vCPUs at most; the same as boot for now'),
    },
    notSupported: {
      topology: ONE_CPU,
      affinity: ONE_CPU,
      kvm_hyperv: 'tsvmm offers no Hyper-V interface; leave this out.',
      max_phys_bits: 'The host decides; leave this out.',
      features: 'tsvmm has no CPU features to switch; leave this out.',
      nested: 'tsvmm does not offer nested virtualization; leave this out.',
      core_scheduling: ONE_CPU,
    },
    // As in Cloud Hypervisor, more vCPUs at start mean at least as many at most.
    into: ({ boot = 1, max = boot }) => ({ cpus: { boot_vcpus: boot, max_vcpus: max } }),
  }),
  keyedOption({
    name: 'memory',
    help: 'Guest memory',
    defaultText: 'size=512M',
    keys: { size: required(byteSize, 'memory.size', 'Bytes, or with a suffix K, M, G or T; a multiple of 4096') },
    notSupported: {
      mergeable: 'Leave it out.',
      shared: ANONYMOUS_MEMORY,
      hugepages: 'Leave it out.',
      hugepage_size: 'Leave it out.',
      prefault: 'Leave it out.',
      thp: 'Leave it out.',
      hotplug_method: 'Give the guest all its memory at start.',
      hotplug_size: 'Give the guest all its memory at start.',
      hotplugged_size: 'Give the guest all its memory at start.',
      reserve: 'Leave it out.',
    },
    into: ({ size }) => ({ memory: { size } }),
  }),
  keyedOption({
    name: 'serial',
    help: 'Where the serial port goes',
    defaultText: 'tty',
    alternatives: true,
    keys: {
      tty: word('serial.mode', 'This terminal, or whatever stdin and stdout are'),
      null: word('serial.mode', 'The port is there; output is thrown away'),
      off: word('serial.mode', 'There is no port'),
      file: optional(path, 'serial.file', 'Output goes to a file'),
    },
    notSupported: { pty: SERIAL_ONLY, socket: SERIAL_ONLY, tcp: SERIAL_ONLY },
    into: ({ null: nowhere, off, file }) => {
      if (file !== undefined) return { serial: { mode: 'File', file } };
      return { serial: { mode: off === true ? 'Off' : nowhere === true ? 'Null' : 'Tty' } };
    },
  }),
  keyedOption({
    name: 'console',
    help: 'Virtio console, which tsvmm does not have yet',
    defaultText: 'off',
    alternatives: true,
    keys: { off: word('console.mode', 'No virtio console') },
    notSupported: { tty: NO_CONSOLE, null: NO_CONSOLE, pty: NO_CONSOLE, file: NO_CONSOLE, socket: NO_CONSOLE },
    into: () => ({ console: { mode: 'Off' } }),
  }),
  keyedOption({
    name: 'vsock',
    help: 'Virtio-vsock device: sockets between guest and host without a network',
    keys: {
      cid: required(integer, 'vsock.cid', "The guest's context id, 3 to 4294967294"),
      socket: required(
        path,
        'vsock.socket',
        'Unix socket for connections to the guest ("CONNECT <port>"); connections from the guest go to PATH_<port>',
      ),
      peer: optional(
        list(vsockPeer),
        'vsock.peers',
        'Other VMs that the guest reaches by their context id, through their sockets; brackets only around several',
      ),
      max_connections: optional(integer, 'vsock.max_connections', 'Connections at most (65536)'),
      buf_alloc: optional(byteSize, 'vsock.buf_alloc', 'Bytes under way to the host on one connection at most (1M)'),
      poll_us: optional(integer, 'vsock.poll_us', 'Microseconds to look for work before sleeping; 0 is off (0)'),
      connect_timeout_ms: optional(
        integer,
        'vsock.connect_timeout_ms',
        'Milliseconds that the guest has to answer a connection of the host (2000)',
      ),
    },
    notSupported: {
      id: 'There is one vsock device; leave this out.',
      iommu: 'tsvmm has no virtual IOMMU; leave this out.',
      pci_segment: 'Devices are on virtio-mmio; leave this out.',
      pci_device_id: 'Devices are on virtio-mmio; leave this out.',
    },
    into: ({ cid, socket, peer, max_connections, buf_alloc, poll_us, connect_timeout_ms }) => ({
      vsock: {
        cid,
        socket,
        ...(peer !== undefined && { peers: peer }),
        ...(max_connections !== undefined && { max_connections }),
        ...(buf_alloc !== undefined && { buf_alloc }),
        ...(poll_us !== undefined && { poll_us }),
        ...(connect_timeout_ms !== undefined && { connect_timeout_ms }),
      },
    }),
  }),
];
