// The Linux test guest (test/guest): boots it once for a whole file of tests and talks to it over the serial line.

import { Vm } from '../../src/vmm/vm.js';
import type { VmConfig } from '../../src/config/vm-config.js';
import { MIB } from '../../src/platform/units.js';
import { ConsoleRecorder, testConfig } from './vms.js';

/**
 * What the guest needs on hosts that emulate its kernel mode and lack some instructions there (see test/guest/README.md);
 * none of it matters on others.
 */
const COMMON_CMDLINE =
  'console=ttyS0 reboot=k panic=-1 quiet noxsave clearcpuid=smap,popcnt,cx16,erms,fsrm,clwb ' +
  'rodata=off pci=off retain_initrd norandmaps';

/** For one vCPU, with the devices on the command line: the shortest boot. */
export const LINUX_CMDLINE = `${COMMON_CMDLINE} acpi=off noreplace-smp`;

/** For any number of vCPUs, which the guest finds by ACPI, as it does the devices. */
export const ACPI_CMDLINE = COMMON_CMDLINE;

/** A boot takes 20 to 30 s on such hosts, and several times that when they are busy. */
export const BOOT_LIMIT_MS = 240_000;
/** Each exec in the guest takes half a second there, of a dynamic program three. */
export const COMMAND_LIMIT_MS = 60_000;

/**
 * The path of something that test/guest/build.sh builds: the kernel as an ELF file or bzImage, a root with its modules, and
 * what it boots from, an initramfs or an image of an ext4 root file system. All are read-only: copy the disk to write to it.
 */
export function testArtefact(name: 'kernel' | 'bzimage' | 'modules' | 'initramfs' | 'disk'): string {
  const variable = `TSVMM_TEST_${name.toUpperCase()}`;
  const path = process.env[variable];
  if (path === undefined) throw new Error(`${variable} is not set: run the Linux tests with \`npm test -- linux\``);
  return path;
}

/** A booted Linux guest. */
export class LinuxGuest {
  readonly vm: Vm;
  readonly console: ConsoleRecorder;

  /** `console` has heard everything that `vm` printed since its init was ready. */
  constructor(vm: Vm, console: ConsoleRecorder) {
    this.vm = vm;
    this.console = console;
  }

  /** Boots the guest to its init. The caller stops `vm`. */
  static async boot(changes: Partial<VmConfig> = {}): Promise<LinuxGuest> {
    const payload = {
      kernel: testArtefact('kernel'),
      initramfs: testArtefact('initramfs'),
      cmdline: LINUX_CMDLINE,
    };
    const vm = await Vm.create(testConfig({ memory: { size: 64 * MIB }, payload, ...changes }));
    const guest = new LinuxGuest(vm, new ConsoleRecorder(vm));
    try {
      await vm.start();
      await guest.console.waitFor(/tsvmm-guest: ready/, BOOT_LIMIT_MS);
      return guest;
    } catch (error) {
      await vm.stop();
      throw error;
    }
  }

  /** Runs a shell command in the guest and returns what it printed; rejects when its exit status is not 0. */
  async run(command: string): Promise<string> {
    const from = this.console.text.length;
    await this.vm.console.write(Buffer.from(`${command}\n`));
    const match = await this.console.waitFor(/([^]*?)tsvmm-guest: exit (\d+)\n/, COMMAND_LIMIT_MS, from);
    if (match[2] !== '0') throw new Error(`${command}: exit status ${match[2]}\n${match[1]}`);
    return match[1].trim();
  }

  /** Starts a shell command in the guest and returns when it has printed `pattern`; it goes on running. */
  async startUntil(command: string, pattern: RegExp, limitMs = COMMAND_LIMIT_MS): Promise<void> {
    const from = this.console.text.length;
    await this.vm.console.write(Buffer.from(`${command}\n`));
    await this.console.waitFor(pattern, limitMs, from);
  }

  /** Waits for the end of the command that runs, and returns what it printed since position `from`. */
  async finish(from: number): Promise<string> {
    const match = await this.console.waitFor(/([^]*?)tsvmm-guest: exit (\d+)\n/, COMMAND_LIMIT_MS, from);
    if (match[2] !== '0') throw new Error(`exit status ${match[2]}\n${match[1]}`);
    return match[1].trim();
  }
}
