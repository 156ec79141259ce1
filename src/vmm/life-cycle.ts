// The life of one VM: builds it, changes its state, supervises its workers, takes it down. Main thread.
//
//   created ──start──▶ running ◀──resume── paused        a restored VM begins as paused
//      │                  │  └──────pause────▶ │
//      └──────────────────┴─────── finish ─────┴──▶ ending ──▶ `exited` settles
//
// Creation starts the worker threads (or takes those started before), and while they load their modules opens KVM,
// allocates memory and loads the guest. Every end (guest shutdown or reset, `stop`, a crash of the
// guest, the failure of a worker) goes through `finish`, which stops all workers, joins them within a bounded time and
// releases everything in reverse order.
//
// What users call, with what they are told of it, is `vm.ts`.

import { resolve } from 'node:path';
import type { VmConfig } from '../config/vm-config.js';
import { formatBytes } from '../platform/units.js';
import { createCounterMemory } from '../vsock/counters.js';
import { planIoThreads } from './device-plan.js';
import { DeviceSet } from './device-set.js';
import { cannotGoOn, notRunning, throwIfStuck, VmError } from './errors.js';
import { isVsockEvent, protect, VmEvents, type VmEvent } from './events.js';
import type { VmExit } from './exit.js';
import { guestUsesAcpi, isBuiltInGuest } from './guest.js';
import { buildHardware, type Hardware } from './hardware.js';
import type { Machine } from './machine.js';
import { Machines } from './machines.js';
import { ReleaseStack } from './release-stack.js';
import type { OpenSnapshot } from './snapshot/read.js';
import type { SnapshotOrigin } from './snapshot/write.js';
import { epochNow, newStartTimes, type StartTimes } from './start-times.js';
import type { VcpuOutcome } from './vcpu-loop.js';
import type { SnapshotOptions, StopOptions, VmLog, VmOptions } from './vm-options.js';
import type { VmVsock } from './vm-vsock.js';
import type { LogLevel } from './worker-protocol.js';

/** What the built-in guest writes to port 0x80 before anything else. */
const POST_CODE_FIRST_INSTRUCTION = 1;
/** What setTimeout takes. */
const MAX_TIMEOUT_MS = 0x7fff_ffff;

export type VmState = 'created' | 'running' | 'paused' | 'ending';

export class LifeCycle {
  readonly config: VmConfig;
  readonly events = new VmEvents();
  /** Settles once, after everything the VM owned was released. */
  readonly exited: Promise<VmExit>;
  readonly devices: DeviceSet;
  private readonly times = newStartTimes();
  private readonly log: VmLog;
  private readonly logLevel: LogLevel;
  private readonly onEvent: ((event: VmEvent) => void) | undefined;
  private readonly vsockCounters = createCounterMemory();
  private readonly resources = new ReleaseStack();
  private readonly settle: (exit: VmExit) => void;
  private readonly machines: Machines;
  private hardware: Hardware | undefined;
  private vmVsock: VmVsock | undefined;
  private current: VmState = 'created';
  /** Settles when the last change of state that was asked for is through. */
  private lastChange: Promise<void> = Promise.resolve();
  /** Settles when everything is released; set by the first who asks for that. */
  private tornDown: Promise<void> | undefined;
  /** Settles when the reboot under way is through. */
  private rebooting: Promise<void> | undefined;
  /** The snapshot from which memory was mapped. */
  private origin: SnapshotOrigin | undefined;

  /** Takes the threads; `create` or `restore` has to follow. */
  constructor(config: VmConfig, options: VmOptions) {
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
    const onFailure = (worker: string, error: Error): void => {
      this.fail(worker, error);
    };
    const onLog = ({ level, component, message }: { level: LogLevel; component: string; message: string }): void => {
      log(level, component, message);
    };
    this.devices = new DeviceSet(planIoThreads(config), this.resources, { onLog, onFailure });
    this.machines = new Machines({
      config,
      devices: this.devices,
      times: this.times,
      log,
      tell: (event) => {
        this.tell(event);
      },
      onOutcome: (outcome) => {
        this.handleOutcome(outcome);
      },
      onFailure,
    });
    this.times.create = epochNow();
  }

  /** Builds the VM, ready to start. Rejects with everything released again. */
  create(): Promise<void> {
    return this.orTearDown(() => this.build());
  }

  /** Builds a saved VM, paused. Rejects with everything released again. */
  restore(directory: string, saved: OpenSnapshot): Promise<void> {
    return this.orTearDown(async () => {
      this.origin = { ...saved.origin, directory: resolve(saved.origin.directory) };
      this.tell({ type: 'restoring', directory });
      await this.build(saved);
      await this.enterRestored();
      this.tell({ type: 'restored', directory });
    });
  }

  get state(): VmState {
    return this.current;
  }

  get built(): Hardware {
    if (this.hardware === undefined) throw new Error('the VM is not built yet');
    return this.hardware;
  }

  get startTimes(): StartTimes {
    const firstInstruction = this.machine?.control.postCodeTime(POST_CODE_FIRST_INSTRUCTION) ?? 0;
    return { ...this.times, firstInstruction };
  }

  /** The guest's present machine, if it has one: none in the middle of a reboot. */
  get machine(): Machine | undefined {
    return this.machines.current;
  }

  /** Streams to and from the guest; undefined when there is no vsock device. */
  get vsock(): VmVsock | undefined {
    return this.vmVsock;
  }

  start(): Promise<void> {
    const { hardware } = this;
    if (this.current !== 'created' || hardware === undefined || !this.machines.prepared) {
      return Promise.reject(new Error('a VM starts once, before it has ended'));
    }
    this.current = 'running';
    this.devices.start(hardware.guestMemory);
    hardware.vsock?.started();
    this.machines.start();
    return Promise.resolve();
  }

  pause(): Promise<void> {
    return this.exclusively(async () => {
      if (this.current === 'paused') return;
      if (this.current !== 'running') throw notRunning('pause');
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
      this.current = 'paused';
      this.log('info', 'vmm', `paused after ${(performance.now() - begin).toFixed(1)} ms`);
      this.tell({ type: 'paused' });
    });
  }

  resume(): Promise<void> {
    return this.exclusively(() => {
      if (this.current === 'running') return Promise.resolve();
      if (this.current !== 'paused') throw notRunning('resume');
      this.tell({ type: 'resuming' });
      this.current = 'running';
      this.devices.resume();
      this.built.ports.resume();
      this.machine?.resume();
      this.log('info', 'vmm', 'resumed');
      this.tell({ type: 'resumed' });
      return Promise.resolve();
    });
  }

  snapshot(directory: string, options: SnapshotOptions): Promise<void> {
    return this.whilePaused(() => this.saveTo(directory, options));
  }

  powerButton(): void {
    if (this.current !== 'running') throw notRunning('have its power button pressed');
    if (!guestUsesAcpi(this.config)) {
      const builtIn = isBuiltInGuest(this.config);
      const why = builtIn ? 'the built-in guest does' : 'a guest with acpi=off on its command line does';
      throw new VmError('NO_POWER_BUTTON', `${why} not use ACPI, so it has no power button`, 'stop it instead');
    }
    this.built.ports.pressPowerButton();
  }

  reboot(): Promise<void> {
    return this.exclusively(async () => {
      await this.rebooting;
      if (this.current !== 'running' && this.current !== 'paused') throw notRunning('be reset');
      if (this.current === 'paused') {
        this.devices.resume();
        this.built.ports.resume();
      }
      this.current = 'running';
      this.restart();
      await this.rebooting;
    });
  }

  nmi(): void {
    const { machine, current } = this;
    if ((current !== 'running' && current !== 'paused') || machine === undefined) throw notRunning('be interrupted');
    machine.nmi();
  }

  coredump(path: string): Promise<void> {
    return this.whilePaused(async () => {
      const { machine, hardware } = this;
      if (this.current !== 'paused' || machine === undefined || hardware === undefined) throw notRunning('be dumped');
      const { writeCore } = await import('./coredump.js');
      const { vcpus } = await machine.save();
      await writeCore(path, hardware.memory.map, vcpus);
    });
  }

  async stop({ graceMs = 0 }: StopOptions): Promise<void> {
    if (!(graceMs >= 0 && graceMs <= MAX_TIMEOUT_MS)) {
      throw new RangeError(`graceMs: ${graceMs} is not a number of milliseconds from 0 to ${MAX_TIMEOUT_MS}`);
    }
    if (graceMs > 0 && this.current === 'running' && guestUsesAcpi(this.config)) {
      this.log('info', 'vmm', `the power button is pressed; the guest has ${graceMs} ms to shut down`);
      this.built.ports.pressPowerButton();
      if (!(await this.endsWithin(graceMs))) this.log('warn', 'vmm', 'the guest did not shut down in time');
    }
    this.finish({ reason: 'stopped' });
    await this.exited;
  }

  private async orTearDown(construction: () => Promise<void>): Promise<void> {
    try {
      await construction();
    } catch (error) {
      await this.tearDown();
      throw error;
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
      savedMemory: saved?.memory,
    });
    this.hardware = hardware;
    const { vsock } = hardware;
    if (vsock !== undefined) {
      const { VmVsock } = await import('./vm-vsock.js');
      this.vmVsock = new VmVsock(vsock, this.vsockCounters);
      const always = this.onEvent !== undefined && this.logLevel === 'debug';
      const tell = (event: VmEvent): void => {
        this.tell(event);
      };
      this.events.onVsockInterest((wanted) => {
        vsock.watchConnections(wanted || always ? tell : undefined);
      });
    }
    // A worker may have failed meanwhile.
    if (this.ended) throw notRunning('be built');
    if (saved === undefined) this.machines.load(hardware);
    else this.machines.restore(hardware, saved);
    this.times.loaded = epochNow();
  }

  /** Starts all threads of a restored VM, which then wait as those of a paused one do. */
  private async enterRestored(): Promise<void> {
    const { machine, built } = this;
    if (machine === undefined) throw new Error('there is nothing to restore');
    this.devices.start(built.guestMemory, { paused: true });
    built.vsock?.started();
    try {
      this.machines.start();
    } catch (error) {
      throw cannotGoOn(error);
    }
    // One that ends before it is ready says why in `exited`.
    await Promise.race([machine.ready().catch(() => this.exited), this.exited]);
    if (this.ended) {
      const exit = await this.exited;
      throw cannotGoOn(exit.reason === 'failure' ? exit.error : new Error('it ended meanwhile'));
    }
    built.ports.nudge();
    // Guests that go on from one snapshot have their random numbers in common until they are told.
    if (guestUsesAcpi(this.config)) built.ports.tellGenerationChanged();
    this.current = 'paused';
  }

  private async saveTo(directory: string, { diff = false }: SnapshotOptions): Promise<void> {
    const { machine, hardware, config } = this;
    if (this.current !== 'paused' || machine === undefined || hardware === undefined) throw notRunning('be saved');
    const { diffBase, refuseUnsavable, writeSnapshot } = await import('./snapshot/write.js');
    refuseUnsavable(config);
    const base = diff ? diffBase(directory, config, this.origin) : undefined;
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
    const cid = this.vmVsock?.cid;
    const present = vsock === undefined || cid === undefined ? config : { ...config, vsock: { ...vsock, cid } };
    const written = await writeSnapshot(directory, { config: present, memory: hardware.memory.map, state, base });
    const took = `${Math.round(performance.now() - begin)} ms`;
    this.log('info', 'vmm', `saved to ${directory}: ${formatBytes(written)} of memory in ${took}`);
    this.tell({ type: 'snapshotted', directory });
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
    if (this.current !== 'running' || this.rebooting !== undefined) return;
    this.tell({ type: 'reset' });
    if (this.config.no_reboot === true) this.finish({ reason: 'reset' });
    else this.restart();
  }

  /** Starts the guest again, in a new machine over the same memory and devices. */
  private restart(): void {
    if (this.current !== 'running' || this.rebooting !== undefined) return;
    this.log('info', 'vmm', 'the guest reboots');
    this.tell({ type: 'rebooting' });
    // The VM may be stopped meanwhile: `tearDown` waits for this and does the rest.
    this.rebooting = this.machines
      .replace(this.built, () => !this.ended)
      .catch((error: unknown) => {
        this.finish({ reason: 'failure', error: error instanceof Error ? error : new Error(String(error)) });
      })
      .finally(() => {
        this.rebooting = undefined;
      });
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
    const wasRunning = this.current === 'running';
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
    return this.current === 'ending';
  }

  private fail(worker: string, error: Error): void {
    const mend = 'this is a bug of tsvmm: please report it with this message';
    this.finish({ reason: 'failure', error: new VmError('INTERNAL', `${worker}: ${error.message}`, mend, error) });
  }

  private finish(exit: VmExit): void {
    if (this.current === 'ending') return;
    this.current = 'ending';
    const settle = (how: VmExit): void => {
      this.tell({ type: 'shutdown', exit: how });
      this.settle(how);
    };
    this.tearDown().then(
      () => {
        settle(this.machines.panicked ? withPanic(exit) : exit);
      },
      (error: unknown) => {
        settle({ reason: 'failure', error: error instanceof Error ? error : new Error(String(error)) });
      },
    );
  }

  /** Stops and joins every worker, then releases everything. Rejects with VmError INTERNAL when a worker does not end. */
  private tearDown(): Promise<void> {
    this.tornDown ??= this.takeDown();
    return this.tornDown;
  }

  private async takeDown(): Promise<void> {
    this.current = 'ending';
    this.hardware?.vsock?.ending();
    await this.rebooting;
    // vCPUs first: one that waits for the I/O worker's acknowledgement gets it.
    const stuckVcpus = await this.machines.stop();
    const stuckWorkers = await this.devices.stop();
    this.hardware?.vsock?.close();
    await this.hardware?.consoles.flush();
    this.log('debug', 'vmm', `start times: ${JSON.stringify(this.startTimes)}`);
    // What a stuck thread holds is still in use: releasing it under the thread would be worse than keeping it.
    throwIfStuck([...stuckVcpus, ...stuckWorkers]);
    try {
      await this.machines.release();
    } finally {
      this.resources.releaseAll();
    }
  }
}

/** Crashes and failures say more than the panic before them. */
function withPanic(exit: VmExit): VmExit {
  return exit.reason === 'crash' || exit.reason === 'failure' ? exit : { ...exit, panicked: true };
}
