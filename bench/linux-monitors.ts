// The two monitors of the `linux` benchmark, each in a process of its own: tsvmm as a user starts it, and QEMU's microvm
// machine with the same kernel, disks and tap. A guest is driven over its serial line (test/guest/README.md).

import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { MIB } from '../src/platform/units.js';
import { ACPI_CMDLINE } from '../test/support/linux-guest.js';

const TSVMM = fileURLToPath(new URL('../src/cli/main.js', import.meta.url));
const QEMU = 'qemu-system-x86_64';
const BOOT_LIMIT_MS = 300_000;
const COMMAND_LIMIT_MS = 300_000;
const TICKS_PER_SECOND = 100;

export const GUEST_MEMORY = 64 * MIB;

/** What both monitors are given. */
export interface MachineParts {
  /** A process in the network namespace of the tap. */
  readonly namespacePid: number;
  readonly kernel: string;
  /** An ext4 root file system, which the guest writes to. */
  readonly root: string;
  readonly data: string;
  readonly tap: string;
  readonly mac: string;
}

/** A monitor's program and its arguments. */
export type Command = readonly [string, ...string[]];

const cmdline = `${ACPI_CMDLINE} noreplace-smp root=/dev/vda rw`;

/** Memory is allocated before the guest starts, here and below: what else is resident is the monitor's. */
export function tsvmmCommand({ kernel, root, data, tap, mac }: MachineParts): Command {
  return [
    process.execPath,
    TSVMM,
    ...['--kernel', kernel, '--cmdline', cmdline],
    ...['--memory', `size=${GUEST_MEMORY},prefault=on`, '--serial', 'tty', '--shutdown-timeout', '0'],
    ...['--disk', `path=${root},image_type=raw`, `path=${data},image_type=raw`],
    ...['--net', `tap=${tap},mac=${mac}`],
  ];
}

/**
 * The devices that tsvmm gives its guest, on the version of virtio-mmio that it has. The second IOAPIC, which QEMU emulates
 * itself and prefers for virtio, is off: interrupts from there do not arrive on every host.
 */
export function qemuCommand({ kernel, root, data, tap, mac }: MachineParts): Command {
  const disk = (path: string, id: string, slot: number): string[] => [
    ...['-drive', `if=none,id=${id},format=raw,file=${path}`],
    ...['-device', `virtio-blk-device,drive=${id},bus=virtio-mmio-bus.${slot}`],
  ];
  return [
    QEMU,
    ...['-M', 'microvm,accel=kvm,rtc=on,ioapic2=off', '-global', 'virtio-mmio.force-legacy=false'],
    ...['-cpu', 'kvm64,-cx16,+x2apic,+kvmclock,+tsc-deadline'],
    ...['-m', `${GUEST_MEMORY / MIB}M`, '-mem-prealloc', '-kernel', kernel, '-append', cmdline],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
    // QEMU tells of them from the last slot to the first, and the guest names disks in that order.
    ...disk(root, 'root', 3),
    ...disk(data, 'data', 2),
    ...['-netdev', `tap,id=lan,ifname=${tap},script=no,downscript=no`],
    ...['-device', `virtio-net-device,netdev=lan,mac=${mac},bus=virtio-mmio-bus.1`],
    ...['-device', 'virtio-rng-device,bus=virtio-mmio-bus.0'],
  ];
}

/** A monitor whose guest has booted. */
export class RunningMachine {
  /** From the start of the process to the first word of the guest's init. */
  readonly bootMs: number;
  private readonly child: ChildProcessWithoutNullStreams;
  private readonly output: Output;

  private constructor(child: ChildProcessWithoutNullStreams, output: Output, bootMs: number) {
    this.child = child;
    this.output = output;
    this.bootMs = bootMs;
  }

  static async boot([program, ...args]: Command, namespacePid: number): Promise<RunningMachine> {
    const begin = performance.now();
    // nsenter executes the program in its own place: the process is the monitor.
    const child = spawn('nsenter', ['-t', String(namespacePid), '-n', '--', program, ...args], { stdio: 'pipe' });
    const output = new Output(child, program);
    try {
      await output.waitFor(/tsvmm-guest: ready/, BOOT_LIMIT_MS, 0);
      return new RunningMachine(child, output, performance.now() - begin);
    } catch (error) {
      await end(child);
      throw error;
    }
  }

  /** Runs a shell command in the guest and returns what it printed; rejects when its exit status is not 0. */
  async run(command: string): Promise<string> {
    const from = this.start(command);
    return this.finish(command, from);
  }

  /** Starts one; `finish` wants the position that this returns. */
  start(command: string): number {
    const from = this.output.text.length;
    this.child.stdin.write(`${command}\n`);
    return from;
  }

  async waitFor(pattern: RegExp, from: number): Promise<void> {
    await this.output.waitFor(pattern, COMMAND_LIMIT_MS, from);
  }

  async finish(command: string, from: number): Promise<string> {
    const match = await this.output.waitFor(/([^]*?)tsvmm-guest: exit (\d+)\n/, COMMAND_LIMIT_MS, from);
    if (match[2] !== '0') throw new Error(`${command}: exit status ${match[2]}\n${match[1]}`);
    return match[1].trim();
  }

  /** Processor time that the monitor has used, its guest's included. */
  cpuSeconds(): number {
    return cpuSecondsOf(`/proc/${this.pid}/stat`);
  }

  /** The same without the thread that used most: the vCPU's. */
  cpuSecondsBesideVcpu(): number {
    const tasks = `/proc/${this.pid}/task`;
    const threads = readdirSync(tasks).map((tid) => cpuSecondsOf(`${tasks}/${tid}/stat`));
    return this.cpuSeconds() - Math.max(...threads);
  }

  /** Bytes that are resident beyond the guest's memory, which is as a whole. */
  overheadBytes(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024 - GUEST_MEMORY;
  }

  async stop(): Promise<void> {
    await end(this.child);
  }

  private get pid(): number {
    return this.child.pid ?? 0;
  }
}

/** What a process printed, and waiting for it. */
class Output {
  text = '';
  private wake: () => void = () => undefined;
  private ended = false;

  constructor(child: ChildProcessWithoutNullStreams, program: string) {
    child.stdout.on('data', (bytes: Buffer) => {
      this.text += bytes.toString('latin1');
      this.wake();
    });
    // A monitor that cannot start says why, and that is then part of the error.
    child.stderr.on('data', (bytes: Buffer) => (this.text += bytes.toString()));
    child.on('error', (error) => (this.text += `${program}: ${error.message}`));
    child.on('close', () => {
      this.ended = true;
      this.wake();
    });
  }

  async waitFor(pattern: RegExp, limitMs: number, from: number): Promise<RegExpExecArray> {
    const signal = AbortSignal.timeout(limitMs);
    for (;;) {
      const match = pattern.exec(this.text.slice(from));
      if (match !== null) return match;
      if (this.ended || signal.aborted) throw new Error(`no ${String(pattern)} in:\n${this.text}`);
      await new Promise<void>((resolve) => {
        this.wake = resolve;
        signal.onabort = () => {
          resolve();
        };
      });
    }
  }
}

async function end(child: ChildProcessWithoutNullStreams): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill('SIGTERM');
  await closed;
}

/** Time in user and kernel mode, of `/proc/…/stat` (proc(5)): fields 14 and 15, behind the name in parentheses. */
function cpuSecondsOf(statFile: string): number {
  const stat = readFileSync(statFile, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
