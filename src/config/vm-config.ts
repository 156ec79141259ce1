// What a virtual machine is to be: the one shape that the command line, the HTTP API and the library all end in, and
// that src/vmm builds from. Field names and spellings are those of Cloud Hypervisor's VmConfig, so its API bodies work
// here. Types and defaults only: checks are in rules.ts, the schema for untyped input in schema.ts.

import { MIB } from '../platform/units.js';

/** How the guest's vCPUs are grouped; the product of all four is `max_vcpus`. */
export interface CpuTopologyConfig {
  /** Threads that share a core. */
  readonly threads_per_core: number;
  /** Cores that share a die. */
  readonly cores_per_die: number;
  /** Dies that share a package. */
  readonly dies_per_package: number;
  /** Packages, which is what sockets are filled with. */
  readonly packages: number;
}

/** The host processors that one vCPU's thread may run on. */
export interface CpuAffinityConfig {
  /** Which vCPU, from 0. */
  readonly vcpu: number;
  /** The host's numbers of the processors, as in /proc/cpuinfo; at least one. */
  readonly host_cpus: readonly number[];
}

/** Features of the processor that are given only when they are asked for. */
export interface CpuFeaturesConfig {
  /** Advanced Matrix Extensions, which the kernel gives a guest only on demand. */
  readonly amx: boolean;
}

/** The guest's processors. */
export interface CpusConfig {
  /** vCPUs that run from the start, 1 to 254; each is a thread. 1 unless given. */
  readonly boot_vcpus: number;
  /** The same number: vCPUs are not plugged in later. */
  readonly max_vcpus: number;
  /** How they are grouped. Absent: one package of single-threaded cores. */
  readonly topology?: CpuTopologyConfig;
  /** Which processors of the host they may run on. Absent: any that this process may. */
  readonly affinity?: readonly CpuAffinityConfig[];
  /** Features beyond the usual. */
  readonly features?: CpuFeaturesConfig;
}

/** The guest's memory. */
export interface MemoryConfig {
  /** Guest RAM in bytes, a multiple of 4096 (of the huge page size with `hugepages`). 512 MiB unless given. */
  readonly size: number;
  /** Lets the host merge equal pages (KSM). Absent: no. */
  readonly mergeable?: boolean;
  /** A memory file that other processes could map, instead of private memory. Absent: no. */
  readonly shared?: boolean;
  /** Pages of the host's huge page pool. Absent: no. */
  readonly hugepages?: boolean;
  /** Their size in bytes: 2 MiB or 1 GiB. Absent: the host's default. */
  readonly hugepage_size?: number;
  /** All memory is allocated before the guest starts. Absent: no. */
  readonly prefault?: boolean;
  /** Transparent huge pages where memory is private. Absent: yes. */
  readonly thp?: boolean;
}

/** What the guest boots. Without a kernel it is the guest built into tsvmm. */
export interface PayloadConfig {
  /** Path of an ELF64 vmlinux or a bzImage. */
  readonly kernel?: string;
  /** Path of an initramfs; needs a kernel. */
  readonly initramfs?: string;
  /** Kernel command line, before the entries that tsvmm adds for its devices. */
  readonly cmdline?: string;
}

/**
 * Where a console goes: this terminal (both ways), nowhere, not there at all, a file (output only), a pseudo-terminal
 * (both ways; the command prints its path), or a Unix socket (both ways, one client at a time).
 */
export type ConsoleMode = 'Tty' | 'Null' | 'Off' | 'File' | 'Pty' | 'Socket';

/** A console port of the guest: the 8250 serial port (`serial`) or the virtio console (`console`). */
export interface ConsoleConfig {
  /** Where it goes. A serial port goes to the terminal, and a virtio console is `Off`, unless given. */
  readonly mode: ConsoleMode;
  /** Path of the output file; with mode `File`, and only then. */
  readonly file?: string;
  /** Path of the listening socket; with mode `Socket`, and only then. */
  readonly socket?: string;
}

/** The 8250 serial port, /dev/ttyS0 in the guest. */
export type SerialConfig = ConsoleConfig;

/** The debug console: bytes that the guest writes to one port, output only. */
export interface DebugConsoleConfig {
  /** Where it goes; nothing is ever typed at it. */
  readonly mode: 'Tty' | 'Null' | 'Off' | 'File' | 'Pty';
  /** Path of the output file; with mode `File`, and only then. */
  readonly file?: string;
  /** The port. Absent: 0xe9. */
  readonly iobase?: number;
}

/** A token bucket: `size` tokens, refilled evenly over `refill_time` milliseconds, on top of a burst that comes once. */
export interface TokenBucketConfig {
  /** Tokens that it holds: bytes of a `bandwidth`, operations of an `ops`. */
  readonly size: number;
  /** Tokens on top of that which come once. Absent: none. */
  readonly one_time_burst?: number;
  /** Milliseconds in which an empty bucket is full again. */
  readonly refill_time: number;
}

/** How much a disk or a network card may move; for a card each direction has as much. Absent buckets limit nothing. */
export interface RateLimiterConfig {
  /** Bytes. */
  readonly bandwidth?: TokenBucketConfig;
  /** Requests of a disk, or frames of a card. */
  readonly ops?: TokenBucketConfig;
}

/** A disk: /dev/vda, /dev/vdb and so on in the guest, in the order of the list. */
export interface DiskConfig {
  /** Path of an image (raw or qcow2) or of a block device. It is locked while the VM lives. */
  readonly path: string;
  /** Whether the guest may only read. Absent: no. */
  readonly readonly?: boolean;
  /** O_DIRECT: past the host's page cache. Absent: no. */
  readonly direct?: boolean;
  /** Queues, 1 to 16, which a guest with several vCPUs spreads its requests over. Absent: 1. */
  readonly num_queues?: number;
  /** Descriptors a queue, a power of two from 2 to 1024. Absent: 128. */
  readonly queue_size?: number;
  /** How much it may move. Absent: as much as it can. */
  readonly rate_limiter_config?: RateLimiterConfig;
  /** Name of the device in logs and counters. Absent: `_disk<n>`. */
  readonly id?: string;
  /** What the guest's GET_ID says, at most 20 bytes. Absent: made from the file's device and inode. */
  readonly serial?: string;
  /** The image's format. Absent: by the file's first bytes. */
  readonly image_type?: 'Raw' | 'Qcow2';
  /** Whether a qcow2 image may name another file as its base. Absent: yes. */
  readonly backing_files?: boolean;
}

/** A network card, which is a tap on the host. */
export interface NetConfig {
  /** Name of the tap. Absent: the kernel chooses one. One that does not exist is created and goes with the VM. */
  readonly tap?: string;
  /** IPv4 address of the tap on the host. Absent: what it has. */
  readonly ip?: string;
  /** Network mask of that address. Absent: 255.255.255.0 where there is an address. */
  readonly mask?: string;
  /** The guest's address, six bytes in hexadecimal. Absent: random. */
  readonly mac?: string;
  /** The tap's own address on the host. Absent: what it has. */
  readonly host_mac?: string;
  /** Largest packet in bytes, of the tap and for the guest. Absent: what the tap has. */
  readonly mtu?: number;
  /** Two for each pair of receive and transmit. Absent: 2. */
  readonly num_queues?: number;
  /** Descriptors a queue, a power of two. Absent: 256. */
  readonly queue_size?: number;
  /** Name of the device in logs and counters. Absent: `_net<n>`. */
  readonly id?: string;
  /** Segmentation offloads. Absent: yes. */
  readonly offload_tso?: boolean;
  /** UDP fragmentation offload. Absent: yes. */
  readonly offload_ufo?: boolean;
  /** Checksum offload. Absent: yes. */
  readonly offload_csum?: boolean;
  /** How much it may move, each way. Absent: as much as it can. */
  readonly rate_limiter_config?: RateLimiterConfig;
}

/** A source of random numbers for the guest. */
export interface RngConfig {
  /** Path of the source on the host: /dev/urandom, usually. */
  readonly src: string;
}

/** Memory that the guest can be asked to give back while it runs (`vm.balloon`). */
export interface BalloonConfig {
  /** Bytes taken from the guest at the start, a multiple of 4096. */
  readonly size: number;
  /** Whether the guest may take memory back when it runs out. Absent: no. */
  readonly deflate_on_oom?: boolean;
  /** Whether the guest tells of pages that it does not use. Absent: no. */
  readonly free_page_reporting?: boolean;
}

/** Persistent memory: a file as a range of the guest's memory, /dev/pmem0 and so on. */
export interface PmemConfig {
  /** Path of a file, or of a directory where a temporary file of `size` bytes is made. */
  readonly file: string;
  /** Bytes, a multiple of 2 MiB. Absent: the file's size. */
  readonly size?: number;
  /** What the guest writes is not kept in the file. Absent: no. */
  readonly discard_writes?: boolean;
  /** Name of the device in logs. Absent: `_pmem<n>`. */
  readonly id?: string;
}

/** Another VM, of this monitor or of any that speaks `CONNECT <port>`. It need not run yet. */
export interface VsockPeerConfig {
  /** Its guest's context id. */
  readonly cid: number;
  /** Path of its Unix socket. */
  readonly socket: string;
}

/** The vsock device: sockets between guest and host that need no network. */
export interface VsockConfig {
  /** The guest's context id, 3 to 4294967294. */
  readonly cid: number;
  /**
   * Path of the Unix socket for host-initiated connections; guest-initiated ones go to `<socket>_<port>`. Without it
   * only streams of the process itself reach the guest; the command line, which has none, requires it.
   */
  readonly socket?: string;
  /** Guests that this one can reach by their context id. */
  readonly peers?: readonly VsockPeerConfig[];
  /** Connections at most, 1 to 1048576; beyond that they are refused. Absent: 65536. */
  readonly max_connections?: number;
  /** Bytes that the guest may have under way on one connection, 4 KiB to 64 MiB. Absent: 1 MiB. */
  readonly buf_alloc?: number;
  /** How long to look for work before sleeping, in microseconds, 0 to 10000; 0 never does. Absent: 0. */
  readonly poll_us?: number;
  /** How long the guest may take to answer a connection of the host, in milliseconds, 1 to 600000. Absent: 2000. */
  readonly connect_timeout_ms?: number;
}

/** A TCP port of the host that leads into the guest, over vsock. One of `guest_port` and `vsock_port` is there. */
export interface PublishConfig {
  /** Address of the host, such as `127.0.0.1` or `::1`. Absent: 127.0.0.1. */
  readonly host?: string;
  /** 0 to 65535; 0 for one that is free. */
  readonly host_port: number;
  /** TCP port at 127.0.0.1 in the guest, whose agent connects to it: 1 to 65535. */
  readonly guest_port?: number;
  /** vsock port of the guest: 0 to 4294967294. */
  readonly vsock_port?: number;
}

/** A service of the host that programs in the guest reach by its name, through the agent. */
export interface HostServiceConfig {
  /** Letters, digits, and behind the first `-`, `_` and `.`; at most 63. It is `/run/tsvmm/NAME.sock` in the guest. */
  readonly name: string;
  /** TCP port at 127.0.0.1 in the guest, 1 to 65535. Absent: the socket alone. */
  readonly port?: number;
  /** Where it is on the host: `127.0.0.1:5432`, or the path of a Unix socket. */
  readonly to: string;
}

/** A whole configuration, as `vm.config` has it. Spelt as Cloud Hypervisor's. */
export interface VmConfig {
  /** Processors. */
  readonly cpus: CpusConfig;
  /** Memory. */
  readonly memory: MemoryConfig;
  /** Kernel, initramfs, command line. Absent kernel: the built-in guest. */
  readonly payload: PayloadConfig;
  /** The serial port. Absent: on the terminal, unless `console` is. */
  readonly serial: SerialConfig;
  /** The virtio console, /dev/hvc0. Absent: `Off`. */
  readonly console: ConsoleConfig;
  /** Sockets between guest and host. Absent: none. */
  readonly vsock?: VsockConfig;
  /** Disks. Absent: none. */
  readonly disks?: readonly DiskConfig[];
  /** Network cards. Absent: none. */
  readonly net?: readonly NetConfig[];
  /** Persistent memory. Absent: none. */
  readonly pmem?: readonly PmemConfig[];
  /** Absent: from /dev/urandom when a kernel is named, as every distribution's kernel wants; else not there. */
  readonly rng?: RngConfig;
  /** Memory to be given back. Absent: no balloon. */
  readonly balloon?: BalloonConfig;
  /** A port for bytes of a guest's early code. Absent: none. */
  readonly debug_console?: DebugConsoleConfig;
  /** A watchdog timer that resets a guest which stops feeding it. Absent: no. */
  readonly watchdog?: boolean;
  /** A port where the guest tells that it panicked. Absent: no. */
  readonly pvpanic?: boolean;
  /** Threads that the devices other than vsock share. Absent: 1. */
  readonly io_threads?: number;
  /** Whether a guest's reboot ends the VM instead of starting it again. Absent: no. */
  readonly no_reboot?: boolean;
  /** Ports of the host that lead into the guest. With some there is a vsock device, with CID 3 unless `vsock` says so. */
  readonly publish?: readonly PublishConfig[];
  /** Services of the host for the guest; they bring a vsock device, too. */
  readonly host_services?: readonly HostServiceConfig[];
}

/**
 * What `Vm.create` takes: a VmConfig of which everything may be left out. `{}` is the built-in guest with one vCPU, 512 MiB
 * and its serial port on this terminal.
 */
export type VmConfigInput = Partial<Omit<VmConfig, 'cpus' | 'memory'>> & {
  /** Processors; one unless given. */
  readonly cpus?: Partial<CpusConfig>;
  /** Memory; 512 MiB unless given. */
  readonly memory?: Partial<MemoryConfig>;
};

export const DEFAULT_RNG_SOURCE = '/dev/urandom';

/** The serial port has the terminal, unless the console was given it. */
export function defaultSerial(console: ConsoleConfig): SerialConfig {
  return { mode: console.mode === 'Tty' ? 'Null' : 'Tty' };
}

/** Cloud Hypervisor's defaults, but the terminal goes to the serial port, where a kernel's first words are. */
export const DEFAULT_VM_CONFIG: VmConfig = {
  cpus: { boot_vcpus: 1, max_vcpus: 1 },
  memory: { size: 512 * MIB },
  payload: {},
  serial: { mode: 'Tty' },
  console: { mode: 'Off' },
};
