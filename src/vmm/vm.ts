// A virtual machine: builds it, supervises its workers, takes it down. Main thread.
//
// Creation starts the worker threads (or takes those started before), and while they load their modules opens KVM,
// allocates memory and loads the guest. Every end (guest shutdown or reset, `stop`, a crash of the
// guest, the failure of a worker) goes through `finish`, which stops all workers, joins them within a bounded time and
// releases everything in reverse order.

import { ensureValidVmConfig } from '../config/valid-config.js';
import type { VmConfig, VmConfigInput } from '../config/vm-config.js';
import { formatBytes, PAGE_SIZE } from '../platform/units.js';
import { createCounterMemory } from '../vsock/counters.js';
import { GuestAgent } from '../agent/guest-agent.js';
import { BALLOON_ID } from './attach/balloon.js';
import type { VmConsole } from './consoles/guest-console.js';
import { planIoThreads } from './device-plan.js';
import { DeviceSet } from './device-set.js';
import { VmError } from './errors.js';
import { isVsockEvent, protect, VmEvents, type VmEvent } from './events.js';
import type { VmExit } from './exit.js';
import { changeGeneration, guestUsesAcpi, isBuiltInGuest, loadConfiguredGuest } from './guest.js';
import { buildHardware, type Hardware } from './hardware.js';
import { Machine, takeVcpuThreads, type MachineBegin } from './machine.js';
import { ReleaseStack } from './release-stack.js';
import type { MetricFamily } from './metrics/family.js';
import type { SnapshotOverrides } from './snapshot/overrides.js';
import type { SavedState } from './snapshot/format.js';
import type { OpenSnapshot } from './snapshot/read.js';
import { epochNow, newStartTimes, type StartTimes } from './start-times.js';
import type { VcpuOutcome } from './vcpu-loop.js';
import { VmVsock, vsockOrThrow, vsockTransport } from './vm-vsock.js';
import type { VcpuThread } from './worker-pool.js';
import type { LogLevel } from './worker-protocol.js';

export { VmError } from './errors.js';
export { ConsoleError, type ConsoleErrorCode } from './consoles/console-error.js';
export type { WaitOptions } from './consoles/console-reader.js';
export type { VmConsole } from './consoles/guest-console.js';
export type { ConsoleMatch } from './consoles/output-search.js';
export type { VmEvent, VmEventOf, VmEvents, VmEventType } from './events.js';
export type { VmExit } from './exit.js';
export { BUILT_IN_GUEST } from './guest.js';
export type { VmVsock } from './vm-vsock.js';
export type { LogLevel } from './worker-protocol.js';

/** What the built-in guest writes to port 0x80 before anything else. */
const POST_CODE_FIRST_INSTRUCTION = 1;
/** What setTimeout takes. */
const MAX_TIMEOUT_MS = 0x7fff_ffff;

/** What `counters()` calls the vsock device, as Cloud Hypervisor does. */
const VSOCK_ID = '_vsock';

/** Receives what the VM has to say. */
export type VmLog = (level: LogLevel, component: string, message: string) => void;

export interface VmOptions {
  readonly log?: VmLog;
  /** With 'debug' the log has a line about every vsock connection that ends, which otherwise is not even put together. */
  readonly logLevel?: LogLevel;
  /** Hears every event from the beginning, those about vsock connections only with `logLevel` 'debug'. */
  readonly onEvent?: (event: VmEvent) => void;
}

export interface RestoreOptions extends VmOptions {
  /** What to put over the saved configuration. */
  readonly overrides?: SnapshotOverrides;
}

/** The consoles of a guest, by their sections of the configuration; undefined where there is none. */
export interface VmConsoles {
  readonly serial: VmConsole | undefined;
  readonly console: VmConsole | undefined;
  /** Takes no input. */
  readonly debug_console: VmConsole | undefined;
}

interface LoadedMachine {
  readonly machine: Machine;
  readonly begin: MachineBegin;
}

export interface StopOptions {
  /**
   * Milliseconds that the guest has to shut down after its power button was pressed; then the plug is pulled. Another
   * `stop` without it does not wait. 0: pulled at once.
   */
  readonly graceMs?: number | undefined;
}

/** Memory that the guest gives up to the host, which `counters()` tells of under `_balloon`. */
export interface VmBalloon {
  /**
   * Asks the guest to give up `size` bytes in all, a multiple of 4096, at most its memory. It does so in its own time, as
   * far as it can. Throws RangeError.
   */
  resize(size: number): void;
  /** Asks the guest for new statistics. `statisticsUpdates` counts when they have come. */
  refreshStatistics(): void;
}

/** One virtual machine, from `create` to `exited`. */
export class Vm {
  readonly config: VmConfig;
  /** What happens to the VM, by type. */
  readonly events = new VmEvents();
  /** Settles once, after everything the VM owned was released. */
  readonly exited: Promise<VmExit>;

  private readonly times = newStartTimes();
  private readonly log: VmLog;
  private readonly logLevel: LogLevel;
  private readonly onEvent: ((event: VmEvent) => void) | undefined;
  private readonly vsockCounters = createCounterMemory();
  private readonly resources = new ReleaseStack();
  private readonly devices: DeviceSet;
  private readonly settle: (exit: VmExit) => void;
  /** Those of the first machine, which load their code while it is built. */
  private vcpuThreads: VcpuThread[];
  private hardware: Hardware | undefined;
  private machine: Machine | undefined;
  /** What `start` starts. */
  private prepared: LoadedMachine | undefined;
  /** Whether the guest has said, since it last booted, that its kernel panicked. */
  private panicked = false;
  private vmVsock: VmVsock | undefined;
  private guestAgent: GuestAgent | undefined;
  private state: 'created' | 'running' | 'paused' | 'ending' = 'created';
  /** Settles when the last change of state that was asked for is through. */
  private lastChange: Promise<void> = Promise.resolve();
  /** Settles when everything is released; set by the first who asks for that. */
  private tornDown: Promise<void> | undefined;
  /** Settles when the reboot under way is through. */
  private rebooting: Promise<void> | undefined;

  private constructor(config: VmConfig, options: VmOptions) {
    const { log = () => undefined, logLevel = 'info', onEvent } = options;
    this.config = config;
    this.log = log;
    this.logLevel = logLevel;
    this.onEvent = onEvent;
    let settle: ((exit: VmExit) => void) | undefined;
    this.exited = new Promise((resolve) => {
      settle = resolve;
    });
    this.settle = (exit) => settle?.(exit);
    this.vcpuThreads = takeVcpuThreads(config.cpus);
    this.devices = new DeviceSet(planIoThreads(config), this.resources, {
      onLog: ({ level, component, message }) => {
        log(level, component, message);
      },
      onFailure: (worker, error) => {
        this.fail(worker, error);
      },
    });
  }

  /**
   * Builds a VM that is ready to start. Throws VmError, BootError or ConfigError, with everything released again.
   */
  static async create(config: VmConfigInput, options: VmOptions = {}): Promise<Vm> {
    const vm = new Vm(await ensureValidVmConfig(config), options);
    vm.times.create = epochNow();
    try {
      await vm.build();
      return vm;
    } catch (error) {
      await vm.tearDown();
      throw error;
    }
  }

  /**
   * Brings a saved VM back, paused: `resume` lets it go on. Its clocks are advanced by the time it was away; its vsock
   * connections are gone. `overrides` replaces parts of the saved configuration that name things of the host, such as the
   * vsock socket, which two VMs cannot share. Rejects with VmError SNAPSHOT when that would be another machine, and with
   * whatever `create` rejects with.
   */
  static async restore(directory: string, options: RestoreOptions = {}): Promise<Vm> {
    const { openSnapshot } = await import('./snapshot/read.js');
    const { applyOverrides, refuseOtherMachine } = await import('./snapshot/overrides.js');
    const { overrides, ...vmOptions } = options;
    const saved = await openSnapshot(directory);
    try {
      const config = await ensureValidVmConfig(applyOverrides(saved.config, overrides));
      refuseOtherMachine(directory, saved.config, config);
      const vm = new Vm(config, vmOptions);
      vm.times.create = epochNow();
      try {
        vm.tell({ type: 'restoring', directory });
        await vm.build(saved);
        await vm.enterRestored();
        vm.tell({ type: 'restored', directory });
        return vm;
      } catch (error) {
        await vm.tearDown();
        throw error;
      }
    } finally {
      saved.close();
    }
  }

  /** Whether the guest is the one built into tsvmm. */
  get builtInGuest(): boolean {
    return isBuiltInGuest(this.config);
  }

  /** The console that a user types at: the virtio console when it is on the terminal or there is no serial port. */
  get console(): VmConsole {
    return this.built.consoles.main;
  }

  /** Each console that the configuration has. */
  get consoles(): VmConsoles {
    const { serial, virtio, debug } = this.built.consoles;
    return { serial, console: virtio, debug_console: debug };
  }

  /** Streams to and from the guest. Throws VsockError NO_DEVICE when the configuration has no vsock. */
  get vsock(): VmVsock {
    return vsockOrThrow(this.vmVsock);
  }

  /**
   * The agent in the guest. Its first use takes port 7351 of this VM for the agent's calls. Throws VsockError NO_DEVICE, or
   * PORT_IN_USE when the program listens there itself.
   */
  get agent(): GuestAgent {
    return (this.guestAgent ??= new GuestAgent(vsockTransport(this.vsock, this.exited)));
  }

  /** The balloon. Throws Error when the configuration has none. */
  get balloon(): VmBalloon {
    const { memory, balloon } = this.config;
    if (balloon === undefined) throw new Error('the configuration has no balloon');
    return {
      resize: (size) => {
        if (!Number.isInteger(size / PAGE_SIZE) || size < 0 || size > memory.size) {
          throw new RangeError(`a balloon of ${size} bytes cannot be; use a multiple of 4096, at most ${memory.size}`);
        }
        this.devices.command(BALLOON_ID, { type: 'resize-balloon', size });
      },
      refreshStatistics: () => {
        this.devices.command(BALLOON_ID, { type: 'refresh-balloon-statistics' });
      },
    };
  }

  /** Exits to user space that vCPU 0 has taken since the guest last booted, to within 64. */
  get exitCount(): number {
    return this.machine?.control.exitCount(0) ?? 0;
  }

  /** Where the time of this VM's start went. */
  get startTimes(): StartTimes {
    const firstInstruction = this.machine?.control.postCodeTime(POST_CODE_FIRST_INSTRUCTION) ?? 0;
    return { ...this.times, firstInstruction };
  }

  /** What each device has counted since the VM was created, by the device's id and the counter's name. */
  counters(): Record<string, Record<string, number>> {
    const counters = this.devices.counters();
    return this.vmVsock === undefined ? counters : { ...counters, [VSOCK_ID]: { ...this.vmVsock.counters() } };
  }

  /** What is measured of the VM and its process, for Prometheus: `prometheusText` makes text of it. */
  async metrics(): Promise<MetricFamily[]> {
    const { vmMetrics } = await import('./metrics/vm-metrics.js');
    const { state, machine, config } = this;
    const { kinds } = this.devices;
    const counters = this.counters();
    return vmMetrics({
      state: state === 'ending' ? 'ended' : state,
      vcpus: config.cpus.boot_vcpus,
      memoryBytes: config.memory.size,
      times: this.startTimes,
      events: this.events,
      exits: Array.from({ length: config.cpus.boot_vcpus }, (_, vcpu) => machine?.control.exitCount(vcpu) ?? 0),
      devices: [...kinds].map(([name, kind]) => {
        const id = kind === 'vsock' ? VSOCK_ID : name;
        return { id, kind, counters: counters[id] ?? {} };
      }),
    });
  }

  /** Lets the guest run. Throws Error when it was started or ended before. */
  start(): Promise<void> {
    const { hardware, prepared } = this;
    if (this.state !== 'created' || hardware === undefined || prepared === undefined) {
      return Promise.reject(new Error('a VM starts once, before it has ended'));
    }
    this.state = 'running';
    this.prepared = undefined;
    this.devices.start(hardware.guestMemory);
    hardware.vsock?.started();
    this.startMachine(prepared);
    return Promise.resolve();
  }

  /**
   * Holds the guest: no vCPU runs and no device moves a byte until `resume`. Its clocks go on, as those of a machine that
   * was busy elsewhere. Rejects with VmError NOT_RUNNING.
   */
  pause(): Promise<void> {
    return this.exclusively(async () => {
      if (this.state === 'paused') return;
      if (this.state !== 'running') throw notRunning('pause');
      const begin = performance.now();
      // A watchdog that runs out from here on does so when the guest goes on: half-paused devices cannot be reset.
      this.built.ports.deferExpiry();
      this.tell({ type: 'pausing' });
      try {
        await this.parkVcpus();
        await this.orEnd(this.devices.pause());
        // The VM may have ended meanwhile.
        if (this.ended) throw notRunning('pause');
      } catch (error) {
        if (!this.ended) this.built.ports.resume();
        throw error;
      }
      this.built.ports.pause();
      this.state = 'paused';
      this.log('info', 'vmm', `paused after ${(performance.now() - begin).toFixed(1)} ms`);
      this.tell({ type: 'paused' });
    });
  }

  /** Lets a paused guest go on. Rejects with VmError NOT_RUNNING when it is neither paused nor running. */
  resume(): Promise<void> {
    return this.exclusively(() => {
      if (this.state === 'running') return Promise.resolve();
      if (this.state !== 'paused') throw notRunning('resume');
      this.tell({ type: 'resuming' });
      this.state = 'running';
      this.devices.resume();
      this.built.ports.resume();
      this.machine?.resume();
      this.log('info', 'vmm', 'resumed');
      this.tell({ type: 'resumed' });
      return Promise.resolve();
    });
  }

  /**
   * Saves the VM into a folder, from which `Vm.restore` brings it back as often as one likes. One that runs is paused for it
   * and goes on afterwards; its vsock connections stay, but the restored guests have none. Rejects with VmError SNAPSHOT or
   * NOT_RUNNING.
   */
  snapshot(directory: string): Promise<void> {
    return this.whilePaused(() => this.saveTo(directory));
  }

  /**
   * Presses the power button. What then happens is the guest's policy: most shut down. Throws VmError NO_POWER_BUTTON
   * when the guest does not use ACPI, and Error when the VM does not run.
   */
  powerButton(): void {
    if (this.state !== 'running') throw notRunning('have its power button pressed');
    if (!guestUsesAcpi(this.config)) {
      const why = this.builtInGuest ? 'the built-in guest does' : 'a guest with acpi=off on its command line does';
      throw new VmError('NO_POWER_BUTTON', `${why} not use ACPI, so it has no power button`, 'stop it instead');
    }
    this.built.ports.pressPowerButton();
  }

  /** Resets the machine, as its reset button would; a paused one runs again. Rejects with VmError NOT_RUNNING. */
  reboot(): Promise<void> {
    return this.exclusively(async () => {
      await this.rebooting;
      if (this.state !== 'running' && this.state !== 'paused') throw notRunning('be reset');
      if (this.state === 'paused') {
        this.devices.resume();
        this.built.ports.resume();
      }
      this.state = 'running';
      this.restart();
      await this.rebooting;
    });
  }

  /** Interrupts every vCPU with an NMI, which a paused guest takes when it goes on. Throws VmError NOT_RUNNING, or SysError. */
  nmi(): void {
    if ((this.state !== 'running' && this.state !== 'paused') || this.machine === undefined) {
      throw notRunning('be interrupted');
    }
    this.machine.nmi();
  }

  /**
   * Writes an ELF core of the guest's memory and registers to a new file, for crash, gdb or drgn. A VM that runs is paused
   * for it and goes on afterwards. Rejects with VmError CORE_DUMP or NOT_RUNNING.
   */
  coredump(path: string): Promise<void> {
    return this.whilePaused(async () => {
      const { machine, hardware } = this;
      if (this.state !== 'paused' || machine === undefined || hardware === undefined) throw notRunning('be dumped');
      const { writeCore } = await import('./coredump.js');
      const { vcpus } = await machine.save();
      await writeCore(path, hardware.memory.map, vcpus);
    });
  }

  /**
   * Ends the VM; returns when everything is released. Does nothing if it has ended. Without options that is as pulling the
   * plug; so it is with them where the guest cannot hear of its power button, because it is paused or does not use ACPI.
   * Whether the guest shut down is what `exited` says. Rejects with RangeError.
   */
  async stop({ graceMs = 0 }: StopOptions = {}): Promise<void> {
    if (!(graceMs >= 0 && graceMs <= MAX_TIMEOUT_MS)) {
      throw new RangeError(`graceMs: ${graceMs} is not a number of milliseconds from 0 to ${MAX_TIMEOUT_MS}`);
    }
    if (graceMs > 0 && this.state === 'running' && guestUsesAcpi(this.config)) {
      this.log('info', 'vmm', `the power button is pressed; the guest has ${graceMs} ms to shut down`);
      this.built.ports.pressPowerButton();
      if (!(await this.endsWithin(graceMs))) this.log('warn', 'vmm', 'the guest did not shut down in time');
    }
    this.finish({ reason: 'stopped' });
    await this.exited;
  }

  /** `await using vm = await Vm.create(...)`: it is stopped and gone at the end of the block, whatever happens in it. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  /** Whether the VM ends by itself, or by another's doing, within that time. */
  private async endsWithin(milliseconds: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const elapsed = new Promise<false>((resolve) => {
      timer = setTimeout(resolve, milliseconds, false);
    });
    try {
      return await Promise.race([this.exited.then(() => true), elapsed]);
    } finally {
      clearTimeout(timer);
    }
  }

  private async build(saved?: OpenSnapshot): Promise<void> {
    const hardware = await buildHardware(this.config, {
      resources: this.resources,
      devices: this.devices,
      log: this.log,
      vsockInsight: { counters: this.vsockCounters, logConnections: this.logLevel === 'debug' },
      watchdogExpired: () => {
        this.log('warn', 'watchdog', 'the guest has not fed its watchdog in time and is reset');
        this.tell({ type: 'watchdog-expired' });
        this.handleReset();
      },
      reached: (stage) => {
        this.times[stage] = epochNow();
      },
      savedMemory: saved?.memoryFd,
    });
    this.hardware = hardware;
    // A worker may have failed while devices were loaded.
    if (this.ended) throw notRunning('be built');
    const { vsock } = hardware;
    if (vsock !== undefined) {
      this.vmVsock = new VmVsock(vsock, this.vsockCounters);
      const always = this.onEvent !== undefined && this.logLevel === 'debug';
      const tell = (event: VmEvent): void => {
        this.tell(event);
      };
      this.events.onVsockInterest((wanted) => {
        vsock.watchConnections(wanted || always ? tell : undefined);
      });
    }
    this.prepared = saved === undefined ? this.loadMachine(hardware) : this.restoreMachine(hardware, saved);
    this.times.loaded = epochNow();
  }

  /** Starts all threads of a restored VM, which then wait as those of a paused one do. */
  private async enterRestored(): Promise<void> {
    const { prepared, hardware } = this;
    if (prepared === undefined || hardware === undefined) throw new Error('there is nothing to restore');
    this.prepared = undefined;
    this.devices.start(hardware.guestMemory, { paused: true });
    hardware.vsock?.started();
    try {
      this.startMachine(prepared);
    } catch (error) {
      throw cannotGoOn(error);
    }
    // One that ends before it is ready says why in `exited`.
    await Promise.race([prepared.machine.ready().catch(() => this.exited), this.exited]);
    if (this.ended) {
      const exit = await this.exited;
      throw cannotGoOn(exit.reason === 'failure' ? exit.error : new Error('it ended meanwhile'));
    }
    hardware.ports.nudge();
    // Guests that go on from one snapshot have their random numbers in common until they are told.
    if (guestUsesAcpi(this.config)) hardware.ports.tellGenerationChanged();
    this.state = 'paused';
  }

  private async saveTo(directory: string): Promise<void> {
    const { machine, hardware, config } = this;
    if (this.state !== 'paused' || machine === undefined || hardware === undefined) throw notRunning('be saved');
    const { refuseUnsavable, writeSnapshot } = await import('./snapshot/write.js');
    refuseUnsavable(config);
    this.tell({ type: 'snapshotting', directory });
    const begin = performance.now();
    const takenAtMs = Date.now();
    const state = {
      takenAtMs,
      machine: await this.orEnd(machine.save()),
      ports: hardware.ports.save(),
      devices: await this.orEnd(this.devices.save()),
    };
    const { vsock } = config;
    const present = vsock === undefined ? config : { ...config, vsock: { ...vsock, cid: this.vsock.cid } };
    const written = await writeSnapshot(directory, { config: present, memory: hardware.memory.map, state });
    const took = `${Math.round(performance.now() - begin)} ms`;
    this.log('info', 'vmm', `saved to ${directory}: ${formatBytes(written)} of memory in ${took}`);
    this.tell({ type: 'snapshotted', directory });
  }

  /** A new machine with the guest loaded into memory that is all zeroes. */
  private loadMachine(hardware: Hardware): LoadedMachine {
    const boot = loadConfiguredGuest(this.config, hardware.memory.map, this.devices.placements);
    const { cpus, memory } = this.config;
    const size = formatBytes(memory.size);
    this.log('debug', 'vmm', `${cpus.boot_vcpus} vCPU, ${size} of memory, entry by ${boot.protocol}`);
    return { machine: this.newMachine(hardware), begin: { kind: 'boot', boot } };
  }

  /** A new machine that goes on where a saved one was. */
  private restoreMachine(hardware: Hardware, { state }: OpenSnapshot): LoadedMachine {
    checkShape(this.config, state);
    if (guestUsesAcpi(this.config)) changeGeneration(hardware.memory.map);
    this.devices.restore(state.devices);
    hardware.ports.restore(state.ports);
    const elapsedMs = Math.max(0, Date.now() - state.takenAtMs);
    const elapsedNs = BigInt(Math.round(elapsedMs * 1e6));
    return { machine: this.newMachine(hardware), begin: { kind: 'restore', elapsedNs, ...state.machine } };
  }

  /** Over the VM's memory and devices, with `vcpuThreads` as its vCPUs. */
  private newMachine({ system, guestMemory, ports }: Hardware): Machine {
    const { cpus } = this.config;
    const parts = { cpus, system, memory: guestMemory, devices: this.devices, ports: ports.handles };
    const machine = new Machine(parts, this.vcpuThreads);
    this.machine = machine;
    return machine;
  }

  private startMachine({ machine, begin }: LoadedMachine, reboots = false): void {
    if (begin.kind === 'boot') this.tell({ type: 'booting' });
    machine.start(begin, {
      onEntering: (modulesLoaded, entering) => {
        this.times.workerLoaded ||= modulesLoaded;
        this.times.entering ||= entering;
        this.log('debug', 'vcpu0', 'running');
        if (begin.kind === 'boot') this.tell({ type: 'booted' });
        if (reboots) this.tell({ type: 'rebooted' });
      },
      onGuestEvent: (event) => {
        this.panicked = true;
        const crash = ', and goes into its crash kernel';
        this.log('error', 'vmm', `the guest panicked${event === 'crash-loaded' ? crash : ''}`);
        this.tell({ type: event });
      },
      onOutcome: (outcome) => {
        this.handleOutcome(outcome);
      },
      onFailure: (worker, error) => {
        this.fail(worker, error);
      },
    });
  }

  private handleOutcome(outcome: VcpuOutcome): void {
    switch (outcome.kind) {
      case 'crash':
        this.finish({ reason: 'crash', report: outcome.report });
        return;
      case 'reset':
        this.handleReset();
        return;
      case 'shutdown':
      case 'stopped':
        this.finish({ reason: outcome.kind });
        return;
    }
  }

  private handleReset(): void {
    // One reset at a time; an end under way is the end.
    if (this.state !== 'running' || this.rebooting !== undefined) return;
    this.tell({ type: 'reset' });
    if (this.config.no_reboot === true) this.finish({ reason: 'reset' });
    else this.restart();
  }

  /** Starts the guest again, in a new machine over the same memory and devices. */
  private restart(): void {
    if (this.state !== 'running' || this.rebooting !== undefined) return;
    this.log('info', 'vmm', 'the guest reboots');
    this.tell({ type: 'rebooting' });
    this.rebooting = this.replaceMachine()
      .catch((error: unknown) => {
        this.finish({ reason: 'failure', error: error instanceof Error ? error : new Error(String(error)) });
      })
      .finally(() => {
        this.rebooting = undefined;
      });
  }

  private async replaceMachine(): Promise<void> {
    const { machine, hardware } = this;
    if (machine === undefined || hardware === undefined) return;
    // They load while the old ones end.
    this.vcpuThreads = takeVcpuThreads(this.config.cpus);
    throwIfStuck(await machine.stop());
    this.machine = undefined;
    machine.release();
    // The VM may have been stopped meanwhile: `tearDown` waits for this and does the rest.
    if (this.ended) return;
    this.devices.reset();
    hardware.ports.reset();
    this.panicked = false;
    hardware.memory.clear();
    this.startMachine(this.loadMachine(hardware), true);
  }

  /** Takes every vCPU out of the guest, after a reboot if one is under way or comes in between. */
  private async parkVcpus(): Promise<void> {
    for (;;) {
      await this.rebooting;
      const { machine } = this;
      if (this.ended || machine === undefined) throw notRunning('pause');
      try {
        await machine.pause();
        return;
      } catch (error) {
        if (this.rebooting === undefined) throw notRunning('pause', error);
      }
    }
  }

  private tell(event: VmEvent): void {
    const { onEvent } = this;
    if (onEvent !== undefined && (this.logLevel === 'debug' || !isVsockEvent(event))) {
      protect(() => {
        onEvent(event);
      });
    }
    this.events.tell(event);
  }

  /** Pauses a VM that runs for `action`, and lets it go on afterwards. */
  private async whilePaused(action: () => Promise<void>): Promise<void> {
    const wasRunning = this.state === 'running';
    await this.pause();
    try {
      await this.exclusively(action);
    } finally {
      if (wasRunning && !this.ended) await this.resume();
    }
  }

  /** Runs one change of state after the other. */
  private async exclusively<T>(change: () => Promise<T>): Promise<T> {
    const before = this.lastChange;
    const run = (async () => {
      await before;
      return change();
    })();
    this.lastChange = run.then(
      () => undefined,
      () => undefined,
    );
    return run;
  }

  /** What threads of the VM answer, which they do not when they end first. Rejects with VmError NOT_RUNNING then. */
  private async orEnd<T>(answer: Promise<T>): Promise<T> {
    const ended = this.exited.then(() => {
      throw notRunning('be saved');
    });
    return Promise.race([answer, ended]);
  }

  /** A method, since the state changes while one waits. */
  private get ended(): boolean {
    return this.state === 'ending';
  }

  private get built(): Hardware {
    if (this.hardware === undefined) throw new Error('the VM is not built yet');
    return this.hardware;
  }

  private fail(worker: string, error: Error): void {
    const mend = 'this is a bug of tsvmm: please report it with this message';
    this.finish({ reason: 'failure', error: new VmError('INTERNAL', `${worker}: ${error.message}`, mend, error) });
  }

  private finish(exit: VmExit): void {
    if (this.state === 'ending') return;
    this.state = 'ending';
    const settle = (how: VmExit): void => {
      this.tell({ type: 'shutdown', exit: how });
      this.settle(how);
    };
    this.tearDown().then(
      () => {
        settle(this.panicked ? withPanic(exit) : exit);
      },
      (error: unknown) => {
        settle({ reason: 'failure', error: error instanceof Error ? error : new Error(String(error)) });
      },
    );
  }

  /** Stops and joins every worker, then releases everything. Throws VmError INTERNAL when a worker does not end. */
  private tearDown(): Promise<void> {
    this.tornDown ??= this.takeDown();
    return this.tornDown;
  }

  private async takeDown(): Promise<void> {
    this.state = 'ending';
    this.hardware?.vsock?.ending();
    await this.rebooting;
    // vCPUs first: one that waits for the I/O worker's acknowledgement gets it.
    const stuckVcpus = (await this.machine?.stop()) ?? (await joinUnused(this.vcpuThreads));
    const stuckWorkers = await this.devices.stop();
    this.hardware?.vsock?.close();
    await this.hardware?.consoles.flush();
    this.log('debug', 'vmm', `start times: ${JSON.stringify(this.startTimes)}`);
    // What a stuck thread holds is still in use: releasing it under the thread would be worse than keeping it.
    throwIfStuck([...stuckVcpus, ...stuckWorkers]);
    this.machine?.release();
    this.resources.releaseAll();
  }
}

/** Crashes and failures say more than the panic before them. */
function withPanic(exit: VmExit): VmExit {
  return exit.reason === 'crash' || exit.reason === 'failure' ? exit : { ...exit, panicked: true };
}

function notRunning(what: string, cause?: unknown): VmError {
  return new VmError(
    'NOT_RUNNING',
    `a VM that does not run cannot ${what}`,
    'start it first, or make a new one',
    cause,
  );
}

/** What KVM says against a saved state, and what a thread that was to go on from it ended of. */
function cannotGoOn(why: unknown): VmError {
  return new VmError(
    'SNAPSHOT',
    `the VM cannot go on from its snapshot: ${why instanceof Error ? why.message : String(why)}`,
    'restore it on a host like the one where it was saved, or take a new one',
    why,
  );
}

/** Throws VmError SNAPSHOT when the configuration is for another machine than the one that was saved. */
function checkShape({ cpus, memory }: VmConfig, { machine, memory: saved }: SavedState): void {
  const differing = [
    ['vCPUs', machine.vcpus.length, cpus.boot_vcpus],
    ['bytes of memory', saved.file_size, memory.size],
  ].find(([, there, here]) => there !== here);
  if (differing === undefined) return;
  const [what, there, here] = differing;
  throw new VmError(
    'SNAPSHOT',
    `the snapshot has ${there} ${what}, and the configuration ${here}`,
    'restore with the configuration that was saved; only host paths may be others',
  );
}

/** Ends threads that no machine has taken. Returns the names of those that did not end in time. */
async function joinUnused(threads: readonly VcpuThread[]): Promise<string[]> {
  const ended = await Promise.all(threads.map((thread) => thread.join(() => undefined)));
  return ended.flatMap((end, index) => (end ? [] : [`vcpu${index}`]));
}

function throwIfStuck(names: readonly string[]): void {
  if (names.length === 0) return;
  throw new VmError(
    'INTERNAL',
    `the ${names.join(' and ')} worker did not end in time`,
    'this is a bug of tsvmm: please report it; end the process to free what it holds',
  );
}
