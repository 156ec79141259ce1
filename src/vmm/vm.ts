// A virtual machine as users of the library have it: what they may call, and what they are told of it. Main thread.
//
// What happens behind the calls is `life-cycle.ts`.

import { GuestAgent } from '../agent/guest-agent.js';
import type { PublishedPort, PublishOptions, PublishVsockOptions } from '../agent/publish.js';
import type { ExposedService, ExposeOptions } from '../agent/services.js';
import type { AgentTransport } from '../agent/transport.js';
import { ensureValidVmConfig } from '../config/valid-config.js';
import type { VmConfig, VmConfigInput } from '../config/vm-config.js';
import { VsockError } from '../vsock/in-process/errors.js';
import { agentTransport } from './agent-transport.js';
import type { VmConsole } from './consoles/guest-console.js';
import { loadAttachments } from './devices.js';
import type { VmEvents } from './events.js';
import type { VmExit } from './exit.js';
import { planIoThreads } from './device-plan.js';
import { isBuiltInGuest } from './guest.js';
import { LifeCycle } from './life-cycle.js';
import type { MetricFamily } from './metrics/family.js';
import type { StartTimes } from './start-times.js';
import { balloonOrThrow, type VmBalloon } from './vm-balloon.js';
import type { PrewarmOptions, RestoreOptions, SnapshotOptions, StopOptions, VmLog, VmOptions } from './vm-options.js';
import type { VmVsock } from './vm-vsock.js';
import { endIdleThreads, keepReady } from './worker-pool.js';

export { VmError } from './errors.js';
export { ConsoleError, type ConsoleErrorCode } from './consoles/console-error.js';
export type { WaitOptions } from './consoles/console-reader.js';
export type { VmConsole } from './consoles/guest-console.js';
export type { ConsoleMatch } from './consoles/output-search.js';
export type { VmEvent, VmEventOf, VmEvents, VmEventType } from './events.js';
export type { VmExit } from './exit.js';
export { BUILT_IN_GUEST } from './guest.js';
export type { VmBalloon } from './vm-balloon.js';
export type { PrewarmOptions, RestoreOptions, SnapshotOptions, StopOptions, VmLog, VmOptions } from './vm-options.js';
export type { VmVsock } from './vm-vsock.js';
export type { LogLevel } from './worker-protocol.js';

/** More than that is a slip: each is some threads. */
const MAX_PREWARMED = 256;

/** What `counters()` calls the vsock device, as Cloud Hypervisor does. */
const VSOCK_ID = '_vsock';

/** The consoles of a guest, by their sections of the configuration; undefined where there is none. */
export interface VmConsoles {
  /** The serial port. */
  readonly serial: VmConsole | undefined;
  /** The virtio console. */
  readonly console: VmConsole | undefined;
  /** The debug console, which takes no input. */
  readonly debug_console: VmConsole | undefined;
}

/**
 * One virtual machine, from `create` to `exited`. Any number of them may be in a process; none ends the process or depends on
 * another. A guest that runs keeps the process alive.
 *
 * @example
 * ```ts
 * import { Vm } from 'tsvmm';
 *
 * await using vm = await Vm.create({
 *   payload: { kernel: 'vmlinux', initramfs: 'root.cpio.gz', cmdline: 'console=ttyS0' },
 *   cpus: { boot_vcpus: 2 },
 *   memory: { size: 1024 ** 3 },
 *   serial: { mode: 'Null' },
 *   vsock: { cid: 3 },
 * });
 * await vm.start();
 * await vm.console.waitFor('login:', { timeout: 60_000 });
 * ```
 */
export class Vm {
  /** The configuration, complete and frozen: what was given, with the defaults filled in. */
  readonly config: VmConfig;
  /** What happens to the VM, by type. */
  readonly events: VmEvents;
  /** Says how the VM ended, after everything that it owned was released. Never rejects. */
  readonly exited: Promise<VmExit>;

  private readonly life: LifeCycle;
  private readonly log: VmLog;
  private guestAgent: GuestAgent | undefined;
  private ways: AgentTransport | undefined;
  private configuredPorts: readonly PublishedPort[] = [];

  private constructor(life: LifeCycle, { log = () => undefined }: VmOptions) {
    this.life = life;
    this.log = log;
    this.config = life.config;
    this.events = life.events;
    this.exited = life.exited;
  }

  /**
   * Builds a VM that is ready to start: opens KVM and what the configuration names, allocates memory, loads the guest. Rejects
   * with ConfigError, BootError or VmError, with everything released again.
   *
   * @param config all of it may be left out
   * @param options a log, and a listener from the first event on
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * const vm = await Vm.create(
   *   { payload: { kernel: 'bzImage' }, disks: [{ path: 'root.img' }], serial: { mode: 'File', file: 'boot.log' } },
   *   { log: (level, component, message) => console.error(`${level} ${component}: ${message}`) },
   * );
   * await vm.start();
   * const { reason } = await vm.exited;
   * ```
   */
  static async create(config: VmConfigInput, options: VmOptions = {}): Promise<Vm> {
    const life = new LifeCycle(await ensureValidVmConfig(config), options);
    await life.create();
    return Vm.withPorts(life, options);
  }

  /**
   * Has the threads for `vms` more VMs of this configuration loaded from now on, so that `create` and `restore` take a few
   * milliseconds instead of some fifty; those that are taken are replaced soon afterwards. Without it only threads that a VM
   * left behind when it ended are used again, for ten seconds. Idle threads take memory (docs/performance.md), and do not keep
   * the process alive. Resolves when they are loaded. Rejects with ConfigError, or RangeError for a number of VMs that cannot be.
   *
   * @param config what is going to be created: its numbers of vCPUs and I/O threads and its kinds of device matter. Of
   *   several configurations each has what it needs, and they share what both need
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * const config = { serial: { mode: 'Null' }, vsock: { cid: 3 } } as const;
   * await Vm.prewarm(config, { vms: 4 });
   * const vms = await Promise.all([1, 2, 3, 4].map(() => Vm.create(config)));
   * ```
   */
  static async prewarm(config: VmConfigInput, { vms = 1 }: PrewarmOptions = {}): Promise<void> {
    if (!Number.isInteger(vms) || vms < 1 || vms > MAX_PREWARMED) {
      throw new RangeError(`vms: ${vms} is not a number of VMs to be warm for; use 1 to ${MAX_PREWARMED}`);
    }
    const valid = await ensureValidVmConfig(config);
    const loading = keepReady({ vcpus: valid.cpus.boot_vcpus, io: planIoThreads(valid) }, vms);
    await loadAttachments(valid);
    await loading;
  }

  /** Takes `prewarm` back, and ends the threads that no VM uses. Resolves when they are gone. Running VMs are not touched. */
  static cooldown(): Promise<void> {
    return endIdleThreads();
  }

  /**
   * Brings a saved VM back, paused: `resume` lets it go on. Its clocks are advanced by the time it was away; its vsock
   * connections are gone. `overrides` replaces parts of the saved configuration that name things of the host, such as the
   * vsock socket, which two VMs cannot share. Rejects with VmError SNAPSHOT when the folder has no whole snapshot, or that
   * would be another machine; and with whatever `create` rejects with.
   *
   * @param directory the folder that `snapshot` wrote; its memory file must stay as it is while the VM lives
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * const clone = await Vm.restore('/var/lib/app/base', {
   *   overrides: { vsock: { socket: '/run/clone1.vsock' }, disks: [{ path: 'clone1.img' }] },
   * });
   * await clone.resume();
   * ```
   */
  static async restore(directory: string, options: RestoreOptions = {}): Promise<Vm> {
    const { openSnapshot } = await import('./snapshot/read.js');
    const { applyOverrides, refuseOtherMachine } = await import('./snapshot/overrides.js');
    const { overrides, ...vmOptions } = options;
    const saved = await openSnapshot(directory);
    try {
      const config = await ensureValidVmConfig(applyOverrides(saved.config, overrides));
      refuseOtherMachine(directory, saved.config, config);
      const life = new LifeCycle(config, vmOptions);
      await life.restore(directory, saved);
      return await Vm.withPorts(life, vmOptions);
    } finally {
      saved.close();
    }
  }

  /** The VM with the ports that its configuration has; it is ended when one cannot be had. */
  private static async withPorts(life: LifeCycle, options: VmOptions): Promise<Vm> {
    const vm = new Vm(life, options);
    const { publish = [], host_services = [] } = life.config;
    if (publish.length + host_services.length === 0) return vm;
    try {
      const { openConfiguredPorts } = await import('./vm-ports.js');
      vm.configuredPorts = await openConfiguredPorts(vm, vm.transport);
      return vm;
    } catch (error) {
      await vm.stop();
      throw error;
    }
  }

  /** Whether the guest is the one built into tsvmm. */
  get builtInGuest(): boolean {
    return isBuiltInGuest(this.config);
  }

  /**
   * The console that a user types at: the serial port, or the virtio console when that is on the terminal or there is no
   * serial port. There is always one; without either its `waitFor` rejects with ConsoleError NO_CONSOLE.
   */
  get console(): VmConsole {
    return this.life.built.consoles.main;
  }

  /** Each console that the configuration has. */
  get consoles(): VmConsoles {
    const { serial, virtio, debug } = this.life.built.consoles;
    return { serial, console: virtio, debug_console: debug };
  }

  /** Streams to and from the guest. Throws VsockError NO_DEVICE when the configuration has no vsock. */
  get vsock(): VmVsock {
    const { vsock } = this.life;
    if (vsock === undefined) throw new VsockError('NO_DEVICE');
    return vsock;
  }

  /**
   * The agent in the guest. Its first use takes port 7351 of this VM for the agent's calls. Throws VsockError NO_DEVICE, or
   * PORT_IN_USE when the program listens there itself.
   */
  get agent(): GuestAgent {
    return (this.guestAgent ??= new GuestAgent(this.transport));
  }

  /** The ports that the configuration publishes, in its order, with the numbers that the kernel chose for 0. */
  get publishedPorts(): readonly PublishedPort[] {
    return this.configuredPorts;
  }

  /** Memory to ask the guest for. Throws Error when the configuration has no balloon. */
  get balloon(): VmBalloon {
    return balloonOrThrow(this.config, this.life.devices);
  }

  /** Exits to user space that vCPU 0 has taken since the guest last booted, to within 64. */
  get exitCount(): number {
    return this.life.machine?.control.exitCount(0) ?? 0;
  }

  /** Where the time of this VM's start went. */
  get startTimes(): StartTimes {
    return this.life.startTimes;
  }

  /** What each device has counted since the VM was created, by the device's id and the counter's name. */
  counters(): Record<string, Record<string, number>> {
    const counters = this.life.devices.counters();
    const { vsock } = this.life;
    return vsock === undefined ? counters : { ...counters, [VSOCK_ID]: { ...vsock.counters() } };
  }

  /** What is measured of the VM and its process, for Prometheus: `prometheusText` makes text of it. */
  async metrics(): Promise<MetricFamily[]> {
    const { vmMetrics } = await import('./metrics/vm-metrics.js');
    const { config } = this;
    const { state, machine, devices } = this.life;
    const counters = this.counters();
    return vmMetrics({
      state: state === 'ending' ? 'ended' : state,
      vcpus: config.cpus.boot_vcpus,
      memoryBytes: config.memory.size,
      times: this.startTimes,
      events: this.events,
      exits: Array.from({ length: config.cpus.boot_vcpus }, (_, vcpu) => machine?.control.exitCount(vcpu) ?? 0),
      devices: [...devices.kinds].map(([name, kind]) => {
        const id = kind === 'vsock' ? VSOCK_ID : name;
        return { id, kind, counters: counters[id] ?? {} };
      }),
    });
  }

  /**
   * Lets the guest run. It runs in threads of its own from here on, until `exited`. Rejects with Error when it was started
   * before, or has ended.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * const vm = await Vm.create({});
   * await vm.start();
   * console.log((await vm.exited).reason);
   * ```
   */
  start(): Promise<void> {
    return this.life.start();
  }

  /**
   * Holds the guest: no vCPU runs and no device moves a byte until `resume`. Its clocks go on, as those of a machine that
   * was busy elsewhere. Does nothing when it is paused. Rejects with VmError NOT_RUNNING.
   */
  pause(): Promise<void> {
    return this.life.pause();
  }

  /** Lets a paused guest go on. Does nothing when it runs. Rejects with VmError NOT_RUNNING when it is neither paused nor running. */
  resume(): Promise<void> {
    return this.life.resume();
  }

  /**
   * Saves the VM into a folder, from which `Vm.restore` brings it back as often as one likes. One that runs is paused for it
   * and goes on afterwards; its vsock connections stay, but the restored guests have none. With `diff`, a VM that was
   * restored writes only the memory that has changed since. Disk images are not part of a snapshot. Rejects with
   * VmError SNAPSHOT or NOT_RUNNING; when writing was broken off, the folder holds no snapshot.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * await using vm = await Vm.create({ payload: { kernel: 'vmlinux', initramfs: 'root.cpio.gz' }, vsock: { cid: 3 } });
   * await vm.start();
   * await vm.agent.waitReady({ timeout: 60_000 });
   * await vm.snapshot('/var/lib/app/base');
   * ```
   */
  snapshot(directory: string, options: SnapshotOptions = {}): Promise<void> {
    return this.life.snapshot(directory, options);
  }

  /**
   * Leads a TCP port of the host into the guest, without a network: with `guestPort` to a TCP port of 127.0.0.1 there, by its
   * agent; with `vsockPort` to a vsock port, whatever listens there. It is listened at when this resolves, and until it is
   * closed or the VM ends; connections that come before the guest is ready wait for it. Rejects with AgentError HOST_PORT
   * when the host's port cannot be had and GUEST_GONE after the VM's end, RangeError for a number that is no port, and VsockError NO_DEVICE without vsock.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * await using vm = await Vm.create({ payload: { kernel: 'vmlinux', initramfs: 'root.cpio.gz' }, vsock: { cid: 3 } });
   * const port = await vm.publish({ hostPort: 0, guestPort: 80 });
   * await vm.start();
   * const page = await fetch(`http://127.0.0.1:${port.hostPort}/`);
   * console.log(page.status);
   * ```
   */
  async publish(options: PublishOptions | PublishVsockOptions): Promise<PublishedPort> {
    const { openPort } = await import('./vm-ports.js');
    return openPort(this, this.transport, options);
  }

  /** The same as `vm.agent.expose`: a service of the host, or of this program, that the guest reaches by name. */
  async expose(options: ExposeOptions): Promise<ExposedService> {
    return this.agent.expose(options);
  }

  /**
   * Presses the power button. What then happens is the guest's policy: most shut down. Throws VmError NO_POWER_BUTTON
   * when the guest does not use ACPI, and NOT_RUNNING.
   */
  powerButton(): void {
    this.life.powerButton();
  }

  /** Resets the machine, as its reset button would; a paused one runs again. Rejects with VmError NOT_RUNNING. */
  reboot(): Promise<void> {
    return this.life.reboot();
  }

  /** Interrupts every vCPU with an NMI, which a paused guest takes when it goes on. Throws VmError NOT_RUNNING, or SysError. */
  nmi(): void {
    this.life.nmi();
  }

  /**
   * Writes an ELF core of the guest's memory and registers to a new file, for crash, gdb or drgn. A VM that runs is paused
   * for it and goes on afterwards. Rejects with VmError CORE_DUMP or NOT_RUNNING.
   */
  coredump(path: string): Promise<void> {
    return this.life.coredump(path);
  }

  /**
   * Ends the VM; returns when everything is released. Does nothing if it has ended. Without options that is as pulling the
   * plug; so it is with them where the guest cannot hear of its power button, because it is paused or does not use ACPI.
   * Whether the guest shut down is what `exited` says. Rejects with RangeError for a `graceMs` that is no time.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * const vm = await Vm.create({ payload: { kernel: 'bzImage' }, disks: [{ path: 'root.img' }] });
   * await vm.start();
   * await vm.stop({ graceMs: 10_000 });
   * const exit = await vm.exited;
   * console.log(exit.reason === 'shutdown' ? 'it shut down by itself' : 'the plug was pulled');
   * ```
   */
  stop(options: StopOptions = {}): Promise<void> {
    return this.life.stop(options);
  }

  private get transport(): AgentTransport {
    return (this.ways ??= agentTransport(this.vsock, this.exited, this.log));
  }

  /** `await using vm = await Vm.create(...)`: it is stopped and gone at the end of the block, whatever happens in it. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}
