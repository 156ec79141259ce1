// A virtual machine: builds it, supervises its workers, takes it down. Main thread.
//
// Creation starts the worker threads (or takes those started before), and while they load their modules opens KVM,
// allocates memory and loads the guest. Every end (guest shutdown or reset, `stop`, a crash of the
// guest, the failure of a worker) goes through `finish`, which stops all workers, joins them within a bounded time and
// releases everything in reverse order.

import { fileURLToPath } from 'node:url';
import { buildCommandLine, DEFAULT_LINUX_CMDLINE, usesAcpi } from '../boot/command-line.js';
import { loadGuest } from '../boot/load.js';
import type { BootState } from '../boot/state.js';
import { MAX_GUEST_CID, MIN_GUEST_CID } from '../config/rules/vsock.js';
import { ensureValidVmConfig } from '../config/valid-config.js';
import type { VmConfig, VmConfigInput } from '../config/vm-config.js';
import { createEventDeviceShared, pressPowerButton } from '../devices/legacy/event-device.js';
import { createI8042Shared } from '../devices/legacy/i8042.js';
import { createEventFd, signalEventFd } from '../platform/eventfd.js';
import { GuestMemory, type MemoryMap } from '../platform/guest-memory.js';
import { close } from '../platform/libc.js';
import { formatBytes, PAGE_SIZE, type Fd } from '../platform/units.js';
import type { ConnectionInfo } from '../vsock/connection-info.js';
import { createCounterMemory, VsockCounters, type VsockCounterSnapshot } from '../vsock/counters.js';
import { VsockError } from '../vsock/in-process/errors.js';
import type { ConnectOptions, VsockHost } from '../vsock/in-process/host.js';
import type { VsockServer } from '../vsock/in-process/server.js';
import type { VsockStream } from '../vsock/in-process/stream.js';
import { acpiOptions } from './acpi.js';
import { BALLOON_ID } from './attach/balloon.js';
import { Consoles } from './consoles/consoles.js';
import type { VmConsole } from './consoles/guest-console.js';
import { physicalAddressBits } from './cpuid.js';
import { DeviceMemorySpace } from './device-memory.js';
import { planIoThreads } from './device-plan.js';
import { DeviceSet } from './device-set.js';
import { attachDevices } from './devices.js';
import { VmError } from './errors.js';
import type { VmEvent } from './events.js';
import { checkHostCpus } from './host-cpus.js';
import { KvmSystem } from './kvm/system.js';
import { Machine, takeVcpuThreads } from './machine.js';
import { AllocatedMemory } from './memory.js';
import { ReleaseStack } from './release-stack.js';
import { WatchdogMonitor } from './watchdog.js';
import { epochNow, newStartTimes, type StartTimes } from './start-times.js';
import type { VcpuOutcome } from './vcpu-loop.js';
import type { VcpuThread } from './worker-pool.js';
import type { EventDeviceHandles, LogLevel, PortHandles } from './worker-protocol.js';

export { VmError } from './errors.js';
export type { VmConsole } from './consoles/guest-console.js';
export type { VmEvent } from './events.js';
export type { LogLevel } from './worker-protocol.js';

/** The guest that runs when the configuration names no kernel. */
export const BUILT_IN_GUEST = fileURLToPath(new URL('../../../firmware/tsvmm-guest.elf', import.meta.url));

/** What the built-in guest writes to port 0x80 before anything else. */
const POST_CODE_FIRST_INSTRUCTION = 1;

/** Receives what the VM has to say. */
export type VmLog = (level: LogLevel, component: string, message: string) => void;

/** How a VM ended. */
export type VmExit =
  /**
   * The guest powered off, it reset itself or its watchdog did and that is to end the VM (`no_reboot`), or `stop` was
   * called. `panicked`: since it last booted, the guest has said through pvpanic that its kernel panicked.
   */
  | { readonly reason: 'shutdown' | 'reset' | 'stopped'; readonly panicked?: true }
  /** The guest cannot go on (triple fault, KVM internal error); the report says where it stood. */
  | { readonly reason: 'crash'; readonly report: string }
  /** A worker failed, which is a bug of this project; or the guest could not be started again for its reboot. */
  | { readonly reason: 'failure'; readonly error: Error };

export interface VmOptions {
  readonly log?: VmLog;
  /** With 'debug' the log has a line about every vsock connection that ends, which otherwise is not even put together. */
  readonly logLevel?: LogLevel;
  /** Hears what happens to the VM while it runs. How it ended is what `exited` says. */
  readonly onEvent?: (event: VmEvent) => void;
}

/** The consoles of a guest, by their sections of the configuration; undefined where there is none. */
export interface VmConsoles {
  readonly serial: VmConsole | undefined;
  readonly console: VmConsole | undefined;
  /** Takes no input. */
  readonly debug_console: VmConsole | undefined;
}

/** Streams between this process and the guest, without a socket. */
export interface VmVsock {
  /** The guest's context id. */
  readonly cid: number;
  /** Opens a stream to port `port` of the guest. Rejects with VsockError, or RangeError for arguments that cannot be. */
  connect(port: number, options?: ConnectOptions): Promise<VsockStream>;
  /**
   * Serves connections of the guest to (CID 2, `port`) in this process; they do not go to a Unix socket then. May be
   * called before the VM starts. Throws VsockError or RangeError.
   */
  listen(port: number, onConnection?: (stream: VsockStream) => void): VsockServer;
  /**
   * Lets this guest and that of `other`, a VM of this process with another CID, reach each other by their CIDs, without
   * a socket. Throws VsockError NO_DEVICE, or RangeError when the CIDs are the same.
   */
  join(other: Vm): void;
  /**
   * What the device has counted since the VM was created: Numbers, exact up to 2^53, read without asking the worker. One
   * may be a moment ahead of another.
   */
  counters(): VsockCounterSnapshot;
  /** The guest's connections at present. Rejects with VsockError CLOSED when the VM has ended. */
  connections(): Promise<readonly ConnectionInfo[]>;
  /**
   * Gives the guest another context id while it runs. All its connections end; a driver that is up is told to read the
   * new one (TRANSPORT_RESET), a later one finds it. Throws RangeError for an id that a guest cannot have. Other VMs
   * know the guest by its first one.
   */
  setGuestCid(cid: number): void;
}

interface LoadedMachine {
  readonly machine: Machine;
  readonly boot: BootState;
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
  /** Settles once, after everything the VM owned was released. */
  readonly exited: Promise<VmExit>;

  private readonly times = newStartTimes();
  private readonly log: VmLog;
  private readonly logLevel: LogLevel;
  private readonly onEvent: (event: VmEvent) => void;
  private readonly vsockCounters = createCounterMemory();
  /** When it is no longer what the configuration says. */
  private guestCid: number | undefined;
  private readonly resources = new ReleaseStack();
  private readonly devices: DeviceSet;
  private readonly settle: (exit: VmExit) => void;
  /** Those of the first machine, which load their code while it is built. */
  private vcpuThreads: VcpuThread[];
  private system: KvmSystem | undefined;
  private memory: AllocatedMemory | undefined;
  /** RAM, and what devices show beside it. */
  private guestMemory: MemoryMap = [];
  private machine: Machine | undefined;
  /** What `start` starts. */
  private prepared: LoadedMachine | undefined;
  private events: EventDeviceHandles | undefined;
  private guestConsoles: Consoles | undefined;
  private watchdog: WatchdogMonitor | undefined;
  /** Whether the guest has said, since it last booted, that its kernel panicked. */
  private panicked = false;
  private vsockHost: VsockHost | undefined;
  private state: 'created' | 'running' | 'paused' | 'ending' = 'created';
  /** Settles when the last change of state that was asked for is through. */
  private lastChange: Promise<void> = Promise.resolve();
  /** Settles when the reboot under way is through. */
  private rebooting: Promise<void> | undefined;

  private constructor(config: VmConfig, options: VmOptions) {
    const { log = () => undefined, logLevel = 'info', onEvent = () => undefined } = options;
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
      vm.build();
      return vm;
    } catch (error) {
      await vm.tearDown();
      throw error;
    }
  }

  /** Whether the guest is the one built into tsvmm. */
  get builtInGuest(): boolean {
    return this.config.payload.kernel === undefined;
  }

  /** The console that a user types at: the virtio console when it is on the terminal or there is no serial port. */
  get console(): VmConsole {
    return this.builtConsoles.main;
  }

  /** Each console that the configuration has. */
  get consoles(): VmConsoles {
    const { serial, virtio, debug } = this.builtConsoles;
    return { serial, console: virtio, debug_console: debug };
  }

  /** Streams to and from the guest. Throws VsockError NO_DEVICE when the configuration has no vsock. */
  get vsock(): VmVsock {
    const { vsockHost } = this;
    const { vsock } = this.config;
    if (vsockHost === undefined || vsock === undefined) throw new VsockError('NO_DEVICE');
    return {
      cid: this.guestCid ?? vsock.cid,
      connect: (port, options) => vsockHost.connect(port, options),
      listen: (port, onConnection) => vsockHost.listen(port, onConnection),
      join: (other) => this.joinSibling(other),
      counters: () => new VsockCounters(this.vsockCounters).snapshot(),
      connections: () => vsockHost.connections(),
      setGuestCid: (cid) => {
        if (!Number.isInteger(cid) || cid < MIN_GUEST_CID || cid > MAX_GUEST_CID) {
          throw new RangeError(
            `${cid} is not a context id that a guest can have; use ${MIN_GUEST_CID} to ${MAX_GUEST_CID}`,
          );
        }
        this.guestCid = cid;
        vsockHost.setGuestCid(cid);
      },
    };
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
    return this.devices.counters();
  }

  /** Lets the guest run. Throws Error when it was started or ended before. */
  start(): Promise<void> {
    const { memory, prepared } = this;
    if (this.state !== 'created' || memory === undefined || prepared === undefined) {
      return Promise.reject(new Error('a VM starts once, before it has ended'));
    }
    this.state = 'running';
    this.devices.start(this.guestMemory);
    this.vsockHost?.started();
    this.prepared = undefined;
    this.startMachine(prepared.machine, prepared.boot);
    return Promise.resolve();
  }

  /**
   * Holds the guest: no vCPU runs and no device moves a byte until `resume`. Its clocks go on, as those of a machine that
   * was busy elsewhere. Rejects with VmError NOT_RUNNING.
   */
  pause(): Promise<void> {
    return this.exclusively(async () => {
      await this.rebooting;
      const { machine } = this;
      if (this.state === 'paused') return;
      if (this.state !== 'running' || machine === undefined) throw notRunning('pause');
      const begin = performance.now();
      try {
        await machine.pause();
      } catch (error) {
        throw notRunning('pause', error);
      }
      await this.devices.pause();
      // The VM may have ended meanwhile.
      if (this.ended) throw notRunning('pause');
      this.state = 'paused';
      this.log('info', 'vmm', `paused after ${(performance.now() - begin).toFixed(1)} ms`);
      this.onEvent({ type: 'paused' });
    });
  }

  /** Lets a paused guest go on. Rejects with VmError NOT_RUNNING when it is neither paused nor running. */
  resume(): Promise<void> {
    return this.exclusively(() => {
      if (this.state === 'running') return Promise.resolve();
      if (this.state !== 'paused') throw notRunning('resume');
      this.state = 'running';
      this.devices.resume();
      this.machine?.resume();
      this.log('info', 'vmm', 'resumed');
      this.onEvent({ type: 'resumed' });
      return Promise.resolve();
    });
  }

  /**
   * Presses the power button. What then happens is the guest's policy: most shut down. Throws VmError NO_POWER_BUTTON
   * when the guest does not use ACPI, and Error when the VM does not run.
   */
  powerButton(): void {
    const { events } = this;
    if (this.state !== 'running' || events === undefined) throw new Error('a power button needs a VM that runs');
    if (!this.guestUsesAcpi) {
      const why = this.builtInGuest ? 'the built-in guest does' : 'a guest with acpi=off on its command line does';
      throw new VmError('NO_POWER_BUTTON', `${why} not use ACPI, so it has no power button`, 'stop it instead');
    }
    pressPowerButton(events.shared, () => {
      signalEventFd(events.irqEvent);
    });
  }

  /** Ends the VM as pulling the plug does; returns when everything is released. Does nothing if it has ended. */
  async stop(): Promise<void> {
    this.finish({ reason: 'stopped' });
    await this.exited;
  }

  private build(): void {
    const { config, resources } = this;
    const system = resources.own(KvmSystem.open(), (kvm) => {
      kvm.close();
    });
    this.system = system;
    checkHostCpus(config.cpus, system);
    this.times.kvm = epochNow();
    this.memory = resources.own(new AllocatedMemory(config.memory), (memory) => {
      memory.close();
    });
    this.times.memory = epochNow();

    this.guestConsoles = new Consoles(config, { resources, log: this.log });
    if (config.watchdog === true) this.watchdog = this.buildWatchdog();
    const insight = { counters: this.vsockCounters, logConnections: this.logLevel === 'debug' };
    const log = (level: LogLevel, message: string): void => {
      this.log(level, 'vmm', message);
    };
    const space = new DeviceMemorySpace(this.memory.map, physicalAddressBits(system.supportedCpuid()));
    const attached = attachDevices(config, insight, { resources, log }, space, this.guestConsoles);
    for (const device of attached.all) this.devices.add(device);
    this.guestMemory = [...this.memory.map, ...attached.all.flatMap((device) => device.memory ?? [])];
    this.vsockHost = attached.vsock?.host;
    this.prepared = this.buildMachine(this.vcpuThreads);
    this.times.loaded = epochNow();
  }

  /** A new machine over the VM's memory and devices, with the guest loaded. `threads` are its vCPUs. */
  private buildMachine(threads: VcpuThread[]): LoadedMachine {
    const { system, memory, config, devices } = this;
    if (system === undefined || memory === undefined) throw new Error('a machine needs KVM and memory');
    const irqEvent = this.events?.irqEvent ?? this.ownEventFd();
    this.events = { shared: createEventDeviceShared(), irqEvent };
    const ports: PortHandles = {
      serial: this.guestConsoles?.serialHandles,
      i8042: createI8042Shared(),
      events: this.events,
      debugConsole: this.guestConsoles?.debugHandles,
      watchdog: this.watchdog?.handles,
      pvpanic: config.pvpanic === true,
    };
    const boot = this.load(memory);
    const machine = new Machine({ cpus: config.cpus, system, memory: this.guestMemory, devices, ports }, threads);
    this.machine = machine;
    const { boot_vcpus: vcpus } = config.cpus;
    this.log('debug', 'vmm', `${vcpus} vCPU, ${formatBytes(config.memory.size)} of memory, entry by ${boot.protocol}`);
    return { machine, boot };
  }

  private startMachine(machine: Machine, boot: BootState): void {
    machine.start(
      { kind: 'boot', boot },
      {
        onEntering: (modulesLoaded, entering) => {
          this.times.workerLoaded ||= modulesLoaded;
          this.times.entering ||= entering;
          this.log('debug', 'vcpu0', 'running');
          this.onEvent({ type: 'booted' });
        },
        onGuestEvent: (event) => {
          this.panicked = true;
          const crash = ', and goes into its crash kernel';
          this.log('error', 'vmm', `the guest panicked${event === 'crash-loaded' ? crash : ''}`);
          this.onEvent({ type: event });
        },
        onOutcome: (outcome) => {
          this.handleOutcome(outcome);
        },
        onFailure: (worker, error) => {
          this.fail(worker, error);
        },
      },
    );
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
    if (this.config.no_reboot === true) this.finish({ reason: 'reset' });
    else this.reboot();
  }

  private buildWatchdog(): WatchdogMonitor {
    const expired = (): void => {
      this.log('warn', 'watchdog', 'the guest has not fed its watchdog in time and is reset');
      this.onEvent({ type: 'watchdog-expired' });
      this.handleReset();
    };
    return this.resources.own(new WatchdogMonitor(expired), (watchdog) => {
      watchdog.close();
    });
  }

  /** Starts the guest again, in a new machine over the same memory and devices. */
  private reboot(): void {
    if (this.state !== 'running' || this.rebooting !== undefined) return;
    this.log('info', 'vmm', 'the guest reboots');
    this.onEvent({ type: 'rebooted' });
    this.rebooting = this.replaceMachine()
      .catch((error: unknown) => {
        this.finish({ reason: 'failure', error: error instanceof Error ? error : new Error(String(error)) });
      })
      .finally(() => {
        this.rebooting = undefined;
      });
  }

  private async replaceMachine(): Promise<void> {
    const { machine, memory } = this;
    if (machine === undefined || memory === undefined) return;
    // They load while the old ones end.
    this.vcpuThreads = takeVcpuThreads(this.config.cpus);
    throwIfStuck(await machine.stop());
    this.machine = undefined;
    machine.release();
    // The VM may have been stopped meanwhile: `tearDown` waits for this and does the rest.
    if (this.ended) return;
    this.devices.reset();
    this.guestConsoles?.reset();
    this.watchdog?.reset();
    this.panicked = false;
    memory.clear();
    const next = this.buildMachine(this.vcpuThreads);
    this.startMachine(next.machine, next.boot);
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

  /** A method, since the state changes while one waits. */
  private get ended(): boolean {
    return this.state === 'ending';
  }

  private joinSibling(other: Vm): void {
    const here = this.vsockHost;
    const there = other.vsockHost;
    if (here === undefined || there === undefined) throw new VsockError('NO_DEVICE');
    if (here.cid === there.cid) throw new RangeError(`two guests with CID ${here.cid} cannot tell each other apart`);
    here.addSibling(there);
    there.addSibling(here);
  }

  /** The command line before our entries. */
  private get baseCmdline(): string {
    return this.config.payload.cmdline ?? (this.builtInGuest ? '' : DEFAULT_LINUX_CMDLINE);
  }

  /** Whether the guest finds its devices through ACPI; the built-in one, and those told not to, read the command line. */
  private get guestUsesAcpi(): boolean {
    return !this.builtInGuest && usesAcpi(this.baseCmdline);
  }

  private load(memory: AllocatedMemory): BootState {
    const { config, guestUsesAcpi } = this;
    const { payload, cpus } = config;
    const { placements } = this.devices;
    return loadGuest(new GuestMemory(memory.map), {
      kernel: payload.kernel ?? BUILT_IN_GUEST,
      initramfs: payload.initramfs,
      cmdline: buildCommandLine(this.baseCmdline, guestUsesAcpi ? [] : placements),
      cpus: cpus.boot_vcpus,
      acpi: guestUsesAcpi ? acpiOptions(config, placements) : undefined,
    });
  }

  private get builtConsoles(): Consoles {
    if (this.guestConsoles === undefined) throw new Error('the VM is not built yet');
    return this.guestConsoles;
  }

  private ownEventFd(): Fd {
    return this.resources.own(createEventFd(), close);
  }

  private fail(worker: string, error: Error): void {
    const mend = 'this is a bug of tsvmm: please report it with this message';
    this.finish({ reason: 'failure', error: new VmError('INTERNAL', `${worker}: ${error.message}`, mend, error) });
  }

  private finish(exit: VmExit): void {
    if (this.state === 'ending') return;
    this.state = 'ending';
    this.tearDown().then(
      () => {
        this.settle(this.panicked ? withPanic(exit) : exit);
      },
      (error: unknown) => {
        this.settle({ reason: 'failure', error: error instanceof Error ? error : new Error(String(error)) });
      },
    );
  }

  /** Stops and joins every worker, then releases everything. Throws VmError INTERNAL when a worker does not end. */
  private async tearDown(): Promise<void> {
    this.state = 'ending';
    this.vsockHost?.ending();
    await this.rebooting;
    // vCPUs first: one that waits for the I/O worker's acknowledgement gets it.
    const stuckVcpus = (await this.machine?.stop()) ?? (await joinUnused(this.vcpuThreads));
    const stuckWorkers = await this.devices.stop();
    this.vsockHost?.close();
    await this.guestConsoles?.flush();
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
