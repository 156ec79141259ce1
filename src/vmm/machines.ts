// The machines of one VM, one after the other, over the same hardware: the first is loaded when the VM is built, another
// one at each reboot of the guest. Main thread.
//
// When a machine is started, replaced or stopped is for `life-cycle.ts` to say; how one works, `machine.ts` says.

import type { VmConfig } from '../config/vm-config.js';
import { formatBytes } from '../platform/units.js';
import type { DeviceSet } from './device-set.js';
import { throwIfStuck, VmError } from './errors.js';
import type { VmEvent } from './events.js';
import { changeGeneration, guestUsesAcpi, loadConfiguredGuest } from './guest.js';
import type { Hardware } from './hardware.js';
import { Machine, takeVcpuThreads, type MachineBegin } from './machine.js';
import type { SavedState } from './snapshot/format.js';
import type { OpenSnapshot } from './snapshot/read.js';
import type { StartTimes } from './start-times.js';
import type { VcpuOutcome } from './vcpu-loop.js';
import type { VmLog } from './vm-options.js';
import type { VcpuThread } from './worker-pool.js';

export interface MachinesContext {
  readonly config: VmConfig;
  readonly devices: DeviceSet;
  readonly times: StartTimes;
  readonly log: VmLog;
  readonly tell: (event: VmEvent) => void;
  /** How a machine ended by itself. */
  readonly onOutcome: (outcome: VcpuOutcome) => void;
  readonly onFailure: (worker: string, error: Error) => void;
}

export class Machines {
  private readonly context: MachinesContext;
  /** Those of the first machine load their code while it is built. */
  private threads: VcpuThread[];
  private machine: Machine | undefined;
  /** Where the present machine is to begin, until it has. */
  private begin: MachineBegin | undefined;
  private guestPanicked = false;

  /** Takes the threads of the first machine; `stop` gives them back, with or without one. */
  constructor(context: MachinesContext) {
    this.context = context;
    this.threads = takeVcpuThreads(context.config.cpus);
  }

  get current(): Machine | undefined {
    return this.machine;
  }

  /** Whether the guest has said, since it last booted, that its kernel panicked. */
  get panicked(): boolean {
    return this.guestPanicked;
  }

  /** A machine with the guest loaded into memory that is all zeroes. Throws VmError, BootError or SysError. */
  load(hardware: Hardware): void {
    const { config, devices, log } = this.context;
    const boot = loadConfiguredGuest(config, hardware.memory.map, devices.placements);
    const { cpus, memory } = config;
    const size = formatBytes(memory.size);
    log('debug', 'vmm', `${cpus.boot_vcpus} vCPU, ${size} of memory, entry by ${boot.protocol}`);
    this.make(hardware, { kind: 'boot', boot });
  }

  /** A machine that goes on where a saved one was. Throws VmError or SysError. */
  restore(hardware: Hardware, { state }: OpenSnapshot): void {
    const { config, devices } = this.context;
    checkShape(config, state);
    if (guestUsesAcpi(config)) changeGeneration(hardware.memory.map);
    devices.restore(state.devices);
    hardware.ports.restore(state.ports);
    const elapsedMs = Math.max(0, Date.now() - state.takenAtMs);
    const elapsedNs = BigInt(Math.round(elapsedMs * 1e6));
    this.make(hardware, { kind: 'restore', elapsedNs, ...state.machine });
  }

  /** Whether there is a machine that has not begun. */
  get prepared(): boolean {
    return this.begin !== undefined;
  }

  /** Lets the machine that was loaded or restored begin. Throws SysError. */
  start({ reboots = false } = {}): void {
    const { machine, begin } = this;
    if (machine === undefined || begin === undefined) throw new Error('no machine is prepared');
    this.begin = undefined;
    const { times, log, tell, onOutcome, onFailure } = this.context;
    if (begin.kind === 'boot') tell({ type: 'booting' });
    machine.start(begin, {
      onEntering: (modulesLoaded, entering) => {
        // One that has served another VM was there before this one.
        times.workerLoaded ||= Math.max(modulesLoaded, times.create);
        times.entering ||= entering;
        log('debug', 'vcpu0', 'running');
        if (begin.kind === 'boot') tell({ type: 'booted' });
        if (reboots) tell({ type: 'rebooted' });
      },
      onGuestEvent: (event) => {
        this.guestPanicked = true;
        const crash = ', and goes into its crash kernel';
        log('error', 'vmm', `the guest panicked${event === 'crash-loaded' ? crash : ''}`);
        tell({ type: event });
      },
      onOutcome,
      onFailure,
    });
  }

  /**
   * Ends the present machine and starts the guest in a new one, over the same memory and devices, unless `wanted` says
   * meanwhile that there is no need. Rejects as `load` and `start` throw, and with VmError INTERNAL.
   */
  async replace(hardware: Hardware, wanted: () => boolean): Promise<void> {
    const { machine } = this;
    if (machine === undefined) return;
    const { config, devices } = this.context;
    // They load while the old ones end.
    this.threads = takeVcpuThreads(config.cpus);
    throwIfStuck(await machine.stop());
    this.machine = undefined;
    await machine.release();
    if (!wanted()) return;
    devices.reset();
    hardware.ports.reset();
    this.guestPanicked = false;
    hardware.memory.clear();
    this.load(hardware);
    this.start({ reboots: true });
  }

  /** Ends the threads. Returns the names of those that did not end in time: then `release` must not be called. */
  async stop(): Promise<string[]> {
    return (await this.machine?.stop()) ?? (await joinUnused(this.threads));
  }

  /** Once they have ended. Rejects with SysError. */
  async release(): Promise<void> {
    await this.machine?.release();
  }

  private make({ system, guestMemory, ports }: Hardware, begin: MachineBegin): void {
    const { config, devices } = this.context;
    const parts = { cpus: config.cpus, system, memory: guestMemory, devices, ports: ports.handles };
    this.machine = new Machine(parts, this.threads);
    this.begin = begin;
  }
}

/** Throws VmError SNAPSHOT when the configuration is for another machine than the one that was saved. */
function checkShape({ cpus, memory }: VmConfig, { machine, memory: saved }: SavedState): void {
  const differing = [
    ['vCPUs', machine.vcpus.length, cpus.boot_vcpus],
    ['bytes of memory', saved.fileSize, memory.size],
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
