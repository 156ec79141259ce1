// What a virtual machine is to be: the one shape that the command line, the HTTP API and the library all end in, and
// that src/vmm builds from. Field names and spellings are those of Cloud Hypervisor's VmConfig, so its API bodies work
// here. Types and defaults only: checks are in rules.ts, the schema for untyped input in schema.ts.

import { MIB } from '../platform/units.js';

export interface CpusConfig {
  /** vCPUs that run from the start. */
  readonly boot_vcpus: number;
  /** vCPUs that could be plugged in later; at least `boot_vcpus`. */
  readonly max_vcpus: number;
}

export interface MemoryConfig {
  /** Guest RAM in bytes, a multiple of 4096. */
  readonly size: number;
}

/** What the guest boots. Without a kernel it is the guest built into tsvmm. */
export interface PayloadConfig {
  /** Path of an ELF64 vmlinux. */
  readonly kernel?: string;
  /** Path of an initramfs; needs a kernel. */
  readonly initramfs?: string;
  /** Kernel command line, before the entries that tsvmm adds for its devices. */
  readonly cmdline?: string;
}

/** Where the 8250 serial port goes: this terminal (both ways), nowhere, not there at all, or a file (output only). */
export type SerialMode = 'Tty' | 'Null' | 'Off' | 'File';

export interface SerialConfig {
  readonly mode: SerialMode;
  /** Path of the output file; with mode `File`, and only then. */
  readonly file?: string;
}

/** The virtio console, which tsvmm does not have yet: `Off` is all there is. */
export interface ConsoleConfig {
  readonly mode: 'Off';
}

/** Another VM, of this monitor or of any that speaks `CONNECT <port>`. It need not run yet. */
export interface VsockPeerConfig {
  /** Its guest's context id. */
  readonly cid: number;
  /** Path of its Unix socket. */
  readonly socket: string;
}

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

export interface VmConfig {
  readonly cpus: CpusConfig;
  readonly memory: MemoryConfig;
  readonly payload: PayloadConfig;
  readonly serial: SerialConfig;
  readonly console: ConsoleConfig;
  readonly vsock?: VsockConfig;
}

/** What a library user may leave out: everything. Absent parts are taken from `DEFAULT_VM_CONFIG`. */
export interface VmConfigInput {
  readonly cpus?: Partial<CpusConfig>;
  readonly memory?: Partial<MemoryConfig>;
  readonly payload?: PayloadConfig;
  readonly serial?: SerialConfig;
  readonly console?: ConsoleConfig;
  readonly vsock?: VsockConfig;
}

/** Cloud Hypervisor's defaults, but for the serial port: with no virtio console, the terminal goes to the serial port. */
export const DEFAULT_VM_CONFIG: VmConfig = {
  cpus: { boot_vcpus: 1, max_vcpus: 1 },
  memory: { size: 512 * MIB },
  payload: {},
  serial: { mode: 'Tty' },
  console: { mode: 'Off' },
};
