// What `tsvmm doctor` looks at, one check after the other: whether this host can run a VM, and what of the optional things
// works here. Main thread. Knows the host only through `HostProbes` (host.ts has the real ones), so it is loaded, and
// says something useful, where koffi is not even there.
//
// A problem keeps every VM from running; a warning costs one device or option. Left out: what a particular configuration
// needs (its files, its taps), which is checked when that VM is made.

import { EACCES, EBUSY, ENODEV, ENOENT, ENXIO, EPERM, SysError } from '../../platform/errno.js';
import type { HugePagePool } from '../../platform/huge-pages.js';
import { formatBytes, GIB, KIB, MIB } from '../../platform/units.js';
import { KVM_CAP_MAX_VCPUS, KVM_CAP_TSC_CONTROL, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_XSAVE2 } from '../kvm/abi.js';

/** How a check came out. */
export type CheckStatus = 'ok' | 'warning' | 'problem';

/** One line of the doctor's. */
export interface Check {
  readonly name: string;
  readonly status: CheckStatus;
  /** What was found. */
  readonly detail: string;
  /** What to do about it; with every warning and problem, and only there. */
  readonly mend?: string;
}

/** An open /dev/kvm whose version and required capabilities are good. */
export interface KvmProbe {
  /** What KVM_CHECK_EXTENSION says. */
  capability(number: number): number;
  /** Makes a VM and closes it again. Throws VmError. */
  createVm(): void;
  close(): void;
}

/** What the checks ask of the host. Whatever throws leaves nothing behind. */
export interface HostProbes {
  /** `20.11.1` */
  readonly nodeVersion: string;
  /** `linux`, `x64`: as Node calls them. */
  readonly platform: string;
  readonly arch: string;
  /** `6.1.0-18-amd64` */
  readonly kernelRelease: string;
  /** Processors that this process may use. */
  readonly processors: number;
  /** Where the check of sockets makes one. */
  readonly socketDirectory: string;
  /** Loads koffi and binds the C library. Throws what that throws. */
  loadSystemCalls(): Promise<void>;
  /** Throws VmError. */
  openKvm(): Promise<KvmProbe>;
  /** Runs the built-in guest up to its first output. Throws Error. */
  runGuest(): Promise<void>;
  /** Throws SysError. */
  makeTap(): Promise<void>;
  /** Listens at a new socket in `socketDirectory`, and removes it. Throws VmError. */
  makeSocket(): Promise<void>;
  hugePagePools(): readonly HugePagePool[];
  /** The text of a file of the kernel's; undefined where it is not there or may not be read. */
  readText(path: string): string | undefined;
}

/** What the doctor found. */
export interface Diagnosis {
  /** Whether a VM can run here: there is no problem. */
  readonly usable: boolean;
  readonly checks: readonly Check[];
}

/** The oldest that package.json lets in. */
const OLDEST_NODE = 20;
/** The kernel that brought the youngest of the required capabilities. */
const OLDEST_KERNEL = [4, 12] as const;
/** What a guest gets without --memory, and Node itself beside it. */
const COMFORTABLE_MEMORY = 512 * MIB + 128 * MIB;
/** Descriptors of a VM with a few devices and some hundred vsock connections. */
const COMFORTABLE_DESCRIPTORS = 1024;
/** Threads of Node, of a VM with a few vCPUs and of its devices. */
const COMFORTABLE_THREADS = 64;

/** Examines the host. Never throws for what it finds. */
export async function diagnose(host: HostProbes): Promise<Diagnosis> {
  const checks: Check[] = [machineCheck(host), nodeCheck(host), kernelCheck(host)];
  // Before anything is tried: what fails for a limit must not keep that limit from being read.
  const surroundings = [virtualizationCheck(host), memoryCheck(host), ...limitChecks(host), hugePagesCheck(host)];
  const systemCalls = await systemCallsCheck(host);
  checks.push(systemCalls);
  const reachable = systemCalls.status === 'ok';
  if (reachable) checks.push(...(await kvmChecks(host)));
  checks.push(...surroundings);
  if (reachable) checks.push(await tapCheck(host), await socketCheck(host));
  return { usable: !checks.some(({ status }) => status === 'problem'), checks };
}

function ok(name: string, detail: string): Check {
  return { name, status: 'ok', detail };
}

function warning(name: string, detail: string, mend: string): Check {
  return { name, status: 'warning', detail, mend };
}

function problem(name: string, detail: string, mend: string): Check {
  return { name, status: 'problem', detail, mend };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The two halves of an error that has a mend (VmError), by shape. */
function halves(error: unknown): { detail: string; mend: string | undefined } {
  const message = messageOf(error);
  const mend = error instanceof Error && 'mend' in error && typeof error.mend === 'string' ? error.mend : undefined;
  const tail = mend === undefined ? '' : `; ${mend}`;
  return { detail: tail !== '' && message.endsWith(tail) ? message.slice(0, -tail.length) : message, mend };
}

function machineCheck({ platform, arch }: HostProbes): Check {
  const name = 'machine';
  if (platform === 'linux' && arch === 'x64') return ok(name, 'Linux on x86-64');
  return problem(name, `${platform} on ${arch}`, 'run tsvmm on Linux on an x86-64 machine: it knows no other');
}

function nodeCheck({ nodeVersion }: HostProbes): Check {
  const name = 'node';
  if (Number.parseInt(nodeVersion, 10) >= OLDEST_NODE) return ok(name, nodeVersion);
  return problem(name, `Node ${nodeVersion} is too old`, `install Node ${OLDEST_NODE} or newer`);
}

function kernelCheck({ kernelRelease }: HostProbes): Check {
  const name = 'kernel';
  const [major = 0, minor = 0] = kernelRelease.split('.').map((part) => Number.parseInt(part, 10));
  const [oldestMajor, oldestMinor] = OLDEST_KERNEL;
  if (major > oldestMajor || (major === oldestMajor && minor >= oldestMinor)) return ok(name, kernelRelease);
  return problem(
    name,
    `Linux ${kernelRelease} is too old`,
    `use a kernel ${OLDEST_KERNEL.join('.')} or newer: KVM lacks what tsvmm needs before it`,
  );
}

async function systemCallsCheck(host: HostProbes): Promise<Check> {
  const name = 'koffi';
  try {
    await host.loadSystemCalls();
    return ok(name, 'loads, and finds the C library');
  } catch (error) {
    return problem(
      name,
      `koffi, which makes the system calls, does not load: ${messageOf(error)}`,
      'install the packages again on this machine (npm ci): koffi brings a binary for each kind of machine',
    );
  }
}

async function kvmChecks(host: HostProbes): Promise<Check[]> {
  let kvm: KvmProbe;
  try {
    kvm = await host.openKvm();
  } catch (error) {
    const { detail, mend = 'see `dmesg`' } = halves(error);
    return [problem('kvm', detail, mend)];
  }
  const checks = [ok('kvm', '/dev/kvm opens, API version 12, all required capabilities')];
  try {
    checks.push(...capabilityChecks(kvm), processorsCheck(host, kvm));
    kvm.createVm();
  } catch (error) {
    const { detail, mend = 'see `dmesg`' } = halves(error);
    return [...checks, problem('vm', detail, mend)];
  } finally {
    kvm.close();
  }
  return [...checks, await guestCheck(host)];
}

/** What to do where a limit of this process was in the way, whatever the call was. */
function limitMend(detail: string): string | undefined {
  if (/\bEMFILE\b/.test(detail)) return `raise the limit of open files: ulimit -n ${COMFORTABLE_DESCRIPTORS}`;
  if (/\bENFILE\b/.test(detail)) return 'the whole host is out of open files: sysctl fs.file-max, or end programs';
  return undefined;
}

async function guestCheck(host: HostProbes): Promise<Check> {
  const name = 'vm';
  try {
    await host.runGuest();
    return ok(name, 'a VM was made, and the built-in guest ran in it');
  } catch (error) {
    const { detail, mend } = halves(error);
    const advice = 'see `dmesg`; where KVM itself is emulated or nested, try another host';
    return problem(name, `the built-in guest does not run: ${detail}`, limitMend(detail) ?? mend ?? advice);
  }
}

/** Capabilities that tsvmm can do without, by name: number, and what is lost without it. */
const OPTIONAL_CAPABILITIES = [
  ['KVM_CAP_TSC_DEADLINE_TIMER', KVM_CAP_TSC_DEADLINE_TIMER, 'guests use slower timers'],
  ['KVM_CAP_TSC_CONTROL', KVM_CAP_TSC_CONTROL, 'a snapshot of a host with another clock rate cannot keep its TSC'],
  ['KVM_CAP_XSAVE2', KVM_CAP_XSAVE2, 'snapshots of guests with AMX cannot be taken'],
] as const;

function capabilityChecks(kvm: KvmProbe): Check[] {
  const missing = OPTIONAL_CAPABILITIES.filter(([, number]) => kvm.capability(number) <= 0);
  if (missing.length === 0) return [ok('capabilities', 'all optional ones')];
  const list = missing.map(([name, , loss]) => `${name} (${loss})`).join(', ');
  return [warning('capabilities', `KVM lacks ${list}`, 'use a newer kernel or processor if you need them')];
}

function processorsCheck({ processors }: HostProbes, kvm: KvmProbe): Check {
  const name = 'processors';
  const most = kvm.capability(KVM_CAP_MAX_VCPUS);
  const found = `${processors} for this process; a VM may have ${most} vCPUs`;
  if (processors > 1) return ok(name, found);
  const mend = 'give this process a second processor (taskset, cpuset): devices and vCPUs wait for each other on one';
  return warning(name, found, mend);
}

const NESTED_PARAMETERS = ['/sys/module/kvm_intel/parameters/nested', '/sys/module/kvm_amd/parameters/nested'];

/** Whether this host is a VM itself. Guests get no virtualization of their own either way. */
function virtualizationCheck(host: HostProbes): Check {
  const name = 'virtualization';
  const flags = new Set(/^flags\s*:(.*)$/m.exec(host.readText('/proc/cpuinfo') ?? '')?.[1]?.split(/\s+/));
  const hardware = flags.has('vmx') ? 'Intel VT-x' : flags.has('svm') ? 'AMD-V' : 'no VT-x or AMD-V to be seen';
  const nested = NESTED_PARAMETERS.map((path) => host.readText(path)?.trim()).find((value) => value !== undefined);
  const offered = nested === undefined ? '' : `, KVM's nested=${nested}`;
  if (!flags.has('hypervisor')) return ok(name, `${hardware}${offered}`);
  return warning(
    name,
    `this host is a virtual machine itself (${hardware}${offered}): guests run, but every exit costs more`,
    'measure on real hardware',
  );
}

/** The value of a line of /proc/meminfo, in bytes. */
function meminfo(host: HostProbes, key: string): number | undefined {
  const text = host.readText('/proc/meminfo') ?? '';
  const kib = new RegExp(`^${key}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1];
  return kib === undefined ? undefined : Number(kib) * KIB;
}

/**
 * What the control group of this process, and those that it is in, may use of `what` and have not used yet, with cgroup 2;
 * undefined without a limit.
 */
function controlGroupRoom(host: HostProbes, what: 'memory' | 'pids'): number | undefined {
  const path = /^0::(.*)$/m.exec(host.readText('/proc/self/cgroup') ?? '')?.[1];
  if (path === undefined) return undefined;
  const parts = path.split('/').filter((part) => part !== '');
  const rooms = [...parts.keys(), parts.length].flatMap((count) => {
    const directory = ['/sys/fs/cgroup', ...parts.slice(0, count)].join('/');
    const limit = Number(host.readText(`${directory}/${what}.max`)?.trim());
    const used = Number(host.readText(`${directory}/${what}.current`)?.trim());
    return Number.isFinite(limit) && Number.isFinite(used) ? [Math.max(0, limit - used)] : [];
  });
  return rooms.length === 0 ? undefined : Math.min(...rooms);
}

function memoryCheck(host: HostProbes): Check {
  const name = 'memory';
  const available = meminfo(host, 'MemAvailable');
  if (available === undefined) {
    return warning(name, '/proc/meminfo does not say what is available', 'mount /proc for this process');
  }
  const group = controlGroupRoom(host, 'memory');
  const room = Math.min(available, group ?? available);
  const found = `${formatBytes(room)} available${group === room ? ' in this control group' : ''}`;
  if (room >= COMFORTABLE_MEMORY) return ok(name, found);
  return warning(
    name,
    found,
    'give guests less (--memory size=128M), or end other programs: a guest has 512 MiB otherwise',
  );
}

/** The soft and hard limit of a line of /proc/self/limits. */
function limit(host: HostProbes, title: string): { soft: number; hard: number } | undefined {
  const text = host.readText('/proc/self/limits') ?? '';
  const match = new RegExp(`^${title}\\s+(\\S+)\\s+(\\S+)`, 'm').exec(text);
  if (match === null) return undefined;
  const [, soft, hard] = match;
  const value = (text: string): number => (text === 'unlimited' ? Infinity : Number(text));
  return { soft: value(soft), hard: value(hard) };
}

function limitChecks(host: HostProbes): Check[] {
  const files = limit(host, 'Max open files');
  const locked = limit(host, 'Max locked memory');
  const checks: Check[] = [];
  if (files !== undefined) {
    const found = `${files.soft} at once`;
    checks.push(
      files.soft >= COMFORTABLE_DESCRIPTORS
        ? ok('open files', found)
        : warning(
            'open files',
            `${found}: each vsock connection takes one, each device some`,
            `raise the limit in the shell that starts tsvmm: ulimit -n ${Math.min(files.hard, 65_536)}` +
              (files.hard < COMFORTABLE_DESCRIPTORS ? '; the hard limit is raised in limits.conf or by systemd' : ''),
          ),
    );
  }
  if (locked !== undefined) {
    const amount = Number.isFinite(locked.soft) ? formatBytes(locked.soft) : 'unlimited';
    checks.push(ok('locked memory', `${amount}; tsvmm locks none`));
  }
  const threads = controlGroupRoom(host, 'pids');
  if (threads !== undefined && threads < COMFORTABLE_THREADS) {
    checks.push(
      warning(
        'threads',
        `${threads} more in this control group: each vCPU is one, and so are devices and what Node does beside`,
        'raise pids.max of the group (TasksMax= of systemd, --pids-limit of a container)',
      ),
    );
  }
  const size = limit(host, 'Max address space');
  if (size !== undefined && size.soft < 8 * GIB) {
    checks.push(
      warning(
        'address space',
        `limited to ${formatBytes(size.soft)}, which Node and the memory of guests share`,
        'lift the limit: ulimit -v unlimited',
      ),
    );
  }
  return checks;
}

function hugePagesCheck(host: HostProbes): Check {
  const name = 'huge pages';
  const pools = host.hugePagePools();
  if (pools.length === 0) return ok(name, 'the kernel has none; only --memory hugepages=on needs them');
  const list = pools.map(
    ({ pageSize, pages, available }) => `${available} of ${pages} pages of ${formatBytes(pageSize)} free`,
  );
  return ok(name, `${list.join(', ')}; only --memory hugepages=on needs them (sysctl vm.nr_hugepages=N)`);
}

async function tapCheck(host: HostProbes): Promise<Check> {
  const name = 'taps';
  try {
    await host.makeTap();
    return ok(name, 'a tap was made');
  } catch (error) {
    const { errno, path } = error instanceof SysError ? error : { errno: 0, path: undefined };
    const device = path === '/dev/net/tun';
    if (device && (errno === ENOENT || errno === ENODEV || errno === ENXIO)) {
      return warning(name, 'there is no /dev/net/tun, so no --net', "load the kernel's module for it: modprobe tun");
    }
    if (device && (errno === EACCES || errno === EPERM)) {
      return warning(
        name,
        '/dev/net/tun may not be opened, so no --net',
        'let this user read and write it (chmod 666 /dev/net/tun is usual: making a tap still takes CAP_NET_ADMIN)',
      );
    }
    if (errno === EPERM) {
      return warning(
        name,
        'this user may not make taps (no CAP_NET_ADMIN); a tap that exists can be used',
        'make one as root: ip tuntap add dev tap0 mode tap user "$USER", then --net tap=tap0',
      );
    }
    const detail = `a tap cannot be made: ${messageOf(error)}`;
    return warning(name, detail, limitMend(detail) ?? (errno === EBUSY ? 'try again' : 'see `dmesg`'));
  }
}

async function socketCheck(host: HostProbes): Promise<Check> {
  const name = 'sockets';
  try {
    await host.makeSocket();
    return ok(name, `a Unix socket was made in ${host.socketDirectory}`);
  } catch (error) {
    const { detail, mend } = halves(error);
    return warning(
      name,
      detail,
      limitMend(detail) ?? mend ?? 'name another directory for sockets: TMPDIR for this check, --vsock socket=',
    );
  }
}
