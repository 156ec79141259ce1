// The life of the one VM that an API server has, as Cloud Hypervisor's API tells it. Main thread; knows nothing of HTTP.
//
//                create            boot              pause
//   NotCreated ─────────▶ Created ──────▶ Running ─────────▶ Paused
//       ▲                    │            │  ▲  ▲ resume       │
//       │ delete             │            │  │  └──────────────┘
//       └────────────────────┴─ Shutdown ◀┘  │ boot            │
//                                   │  ▲     │                 │
//                                   └──┼─────┘                 │
//                                      └───────────────────────┘ shutdown, or the guest's own end
//
// restore leads from NotCreated to Paused, or to Running. delete shuts a VM down that runs. What is asked for is done in
// the order in which it was asked for; only the end of everything does not wait.
//
// Unlike here, Cloud Hypervisor says Created of a VM that was shut down.

import type { VmConfig } from '../config/vm-config.js';
import type { MetricFamily } from '../vmm/metrics/family.js';
import type { SnapshotOverrides } from '../vmm/snapshot/overrides.js';
import type { VmExit } from '../vmm/vm.js';
import { Refusal } from './errors.js';

/** The part of src/vmm's Vm that is used: tests have their own. */
export interface MonitoredVm {
  readonly config: VmConfig;
  readonly exited: Promise<VmExit>;
  readonly balloon: { resize(size: number): void };
  readonly consoles: Readonly<Record<ConsoleSection, { readonly path: string | undefined } | undefined>>;
  readonly publishedPorts: readonly { readonly hostPort: number }[];
  start(): Promise<void>;
  stop(options?: { readonly graceMs?: number }): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  reboot(): Promise<void>;
  snapshot(directory: string, options: { readonly diff: boolean }): Promise<void>;
  coredump(path: string): Promise<void>;
  nmi(): void;
  powerButton(): void;
  counters(): Counters;
  metrics(): Promise<MetricFamily[]>;
}

type ConsoleSection = 'serial' | 'console' | 'debug_console';

/** By device and name. */
export type Counters = Readonly<Partial<Record<string, Readonly<Partial<Record<string, number>>>>>>;

export interface VmFactory {
  /** A VM that is ready to start. */
  create(config: VmConfig): Promise<MonitoredVm>;
  /** A paused VM. */
  restore(directory: string, overrides: SnapshotOverrides): Promise<MonitoredVm>;
}

export type VmState = 'Created' | 'Running' | 'Paused' | 'Shutdown';

export interface VmInfo {
  /** As it was given, with the defaults; with what the kernel has chosen: paths of pseudo-terminals, ports for 0. */
  readonly config: VmConfig;
  readonly state: VmState;
  /** Bytes: the memory without what the balloon has taken. */
  readonly memory_actual_size: number;
}

export interface ResizeRequest {
  readonly desired_vcpus?: number | undefined;
  readonly desired_ram?: number | undefined;
  readonly desired_balloon?: number | undefined;
}

export interface MonitorOptions {
  readonly factory: VmFactory;
  /** Hears how a VM ended that nobody had asked to end. It is gone by then. */
  readonly onVmEnd?: (exit: VmExit) => void;
}

/** What `counters` calls the balloon, and what it calls its present size. */
const BALLOON = '_balloon';
const BALLOON_ACTUAL = 'actualBytes';

type Life =
  | { readonly state: 'NotCreated' }
  | { readonly state: 'Created' | 'Shutdown'; readonly config: VmConfig }
  | { readonly state: 'Running' | 'Paused'; readonly config: VmConfig; readonly vm: MonitoredVm };

const NOT_CREATED: Life = { state: 'NotCreated' };

export class Monitor {
  /** Resolves when `shutdown` is through. */
  readonly closed: Promise<void>;
  private readonly factory: VmFactory;
  private readonly onVmEnd: (exit: VmExit) => void;
  private readonly close: () => void;
  private life: Life = NOT_CREATED;
  private closing = false;
  /** Settles when the last thing that was asked for is through. */
  private last: Promise<unknown> = Promise.resolve();

  constructor({ factory, onVmEnd = () => undefined }: MonitorOptions) {
    this.factory = factory;
    this.onVmEnd = onVmEnd;
    let close = (): void => undefined;
    this.closed = new Promise((resolve) => {
      close = resolve;
    });
    this.close = close;
  }

  get state(): VmState | 'NotCreated' {
    return this.life.state;
  }

  /** Whether everything has been asked to end. */
  get isClosing(): boolean {
    return this.closing;
  }

  /** Takes a valid configuration; nothing of it is built before `boot`. */
  create(config: VmConfig): Promise<void> {
    return this.inTurn(() => {
      if (this.life.state !== 'NotCreated') throw alreadyCreated();
      this.life = { state: 'Created', config };
    });
  }

  /** Forgets the VM; shuts it down first if need be. Does nothing when there is none. */
  delete(): Promise<void> {
    return this.inTurn(async () => {
      await this.stopVm();
      this.life = NOT_CREATED;
    });
  }

  boot(): Promise<void> {
    return this.inTurn(async () => {
      const { life } = this;
      if (life.state === 'NotCreated') throw notCreated();
      if (life.state === 'Running' || life.state === 'Paused') {
        throw new Refusal('WRONG_STATE', 'VM is already booted: shut it down first, or resume it if it is paused');
      }
      const vm = await this.factory.create(life.config);
      await this.adopt(vm, 'Running', () => vm.start());
    });
  }

  restore(directory: string, { resume, overrides }: RestoreOptions): Promise<void> {
    return this.inTurn(async () => {
      if (this.life.state !== 'NotCreated') throw alreadyCreated();
      const vm = await this.factory.restore(directory, overrides);
      await this.adopt(vm, 'Paused');
      if (!resume) return;
      try {
        await vm.resume();
        this.note(vm, 'Running');
      } catch (error) {
        await vm.stop();
        this.life = NOT_CREATED;
        throw error;
      }
    });
  }

  pause(): Promise<void> {
    return this.inTurn(async () => {
      const vm = this.vmIn('Running', 'VM is not running: it is paused already');
      await vm.pause();
      this.note(vm, 'Paused');
    });
  }

  resume(): Promise<void> {
    return this.inTurn(async () => {
      const vm = this.vmIn('Paused', 'VM is not paused');
      await vm.resume();
      this.note(vm, 'Running');
    });
  }

  /** Resets the machine; a paused one runs again. */
  reboot(): Promise<void> {
    return this.inTurn(async () => {
      const vm = this.bootedVm();
      await vm.reboot();
      this.note(vm, 'Running');
    });
  }

  /** Ends the VM as pulling the plug does; `boot` starts it anew. */
  shutdownVm(): Promise<void> {
    return this.inTurn(async () => {
      this.bootedVm();
      await this.stopVm();
    });
  }

  powerButton(): Promise<void> {
    return this.inTurn(() => {
      this.vmIn('Running', 'VM is paused: resume it first').powerButton();
    });
  }

  nmi(): Promise<void> {
    return this.inTurn(() => {
      this.bootedVm().nmi();
    });
  }

  snapshot(directory: string, diff = false): Promise<void> {
    return this.inTurn(() => this.vmIn('Paused', 'VM is not paused: pause it first').snapshot(directory, { diff }));
  }

  coredump(path: string): Promise<void> {
    return this.inTurn(() => this.bootedVm().coredump(path));
  }

  resize({ desired_vcpus, desired_ram, desired_balloon }: ResizeRequest): Promise<void> {
    return this.inTurn(() => {
      const { life } = this;
      if (life.state === 'NotCreated') throw notCreated();
      const { cpus, memory, balloon } = life.config;
      refuseOther('vCPUs', cpus.boot_vcpus, desired_vcpus);
      refuseOther('bytes of memory', memory.size, desired_ram);
      if (desired_balloon === undefined) return;
      if (balloon === undefined) {
        throw new Refusal('NOT_SUPPORTED', 'VM has no balloon: create it with one (balloon.size)');
      }
      if (desired_balloon > memory.size || desired_balloon % BALLOON_UNIT !== 0) {
        const problem = `a balloon of ${desired_balloon} bytes cannot be`;
        throw new Refusal('NOT_SUPPORTED', `${problem}: use a multiple of ${BALLOON_UNIT}, at most ${memory.size}`);
      }
      const config = { ...life.config, balloon: { ...balloon, size: desired_balloon } };
      if ('vm' in life) life.vm.balloon.resize(desired_balloon);
      this.life = { ...life, config };
    });
  }

  /** Throws Refusal NOT_CREATED. */
  info(): VmInfo {
    const { life } = this;
    if (life.state === 'NotCreated') throw notCreated();
    const { state, config } = life;
    const taken = 'vm' in life ? (life.vm.counters()[BALLOON]?.[BALLOON_ACTUAL] ?? 0) : 0;
    return {
      config: 'vm' in life ? withChosenPorts(withPtyPaths(config, life.vm), life.vm) : config,
      state,
      memory_actual_size: Math.max(0, config.memory.size - taken),
    };
  }

  counters(): Counters {
    return this.bootedVm().counters();
  }

  /** What is measured of the VM and the process; of the process alone while there is no VM that has booted. */
  async metrics(): Promise<MetricFamily[]> {
    if ('vm' in this.life) return this.life.vm.metrics();
    const { processMetrics } = await import('../vmm/metrics/process.js');
    const { stateMetrics } = await import('../vmm/metrics/vm-metrics.js');
    return [...processMetrics(), ...stateMetrics(undefined)];
  }

  /** Throws Refusal NOT_CREATED, or else NOT_SUPPORTED with `reason`. */
  refuseForVm(reason: string): never {
    if (this.life.state === 'NotCreated') throw notCreated();
    throw new Refusal('NOT_SUPPORTED', reason);
  }

  /**
   * Ends the VM and everything, without waiting for what was asked for before; with `graceMs` the guest may shut down
   * first, unless it is asked for again without.
   */
  async shutdown(options?: { readonly graceMs?: number }): Promise<void> {
    this.closing = true;
    if ('vm' in this.life) await this.life.vm.stop(options);
    await this.inTurn(async () => {
      await this.stopVm();
      this.life = NOT_CREATED;
    });
    this.close();
  }

  private async inTurn<T>(action: () => Promise<T> | T): Promise<T> {
    const before = this.last;
    const run = (async () => {
      await before;
      return action();
    })();
    this.last = run.catch(() => undefined);
    return run;
  }

  /** From here on `vm` is the VM. It is gone again if it cannot be started, or if the end has been asked for meanwhile. */
  private async adopt(
    vm: MonitoredVm,
    state: 'Running' | 'Paused',
    start: () => Promise<void> = () => Promise.resolve(),
  ): Promise<void> {
    try {
      if (this.closing) throw new Refusal('WRONG_STATE', 'the monitor is shutting down');
      await start();
    } catch (error) {
      await vm.stop();
      throw error;
    }
    this.life = { state, config: vm.config, vm };
    void vm.exited.then((exit) => {
      if (!('vm' in this.life) || this.life.vm !== vm) return;
      this.life = { state: 'Shutdown', config: this.life.config };
      if (!this.closing) this.onVmEnd(exit);
    });
  }

  /** Says in which state `vm` is now, if it has not ended meanwhile. */
  private note(vm: MonitoredVm, state: 'Running' | 'Paused'): void {
    if ('vm' in this.life && this.life.vm === vm) this.life = { ...this.life, state };
  }

  private async stopVm(): Promise<void> {
    const { life } = this;
    if (!('vm' in life)) return;
    // Its end is not news from here on.
    this.life = { state: 'Shutdown', config: life.config };
    await life.vm.stop();
  }

  private bootedVm(): MonitoredVm {
    const { life } = this;
    if (life.state === 'NotCreated') throw notCreated();
    if (!('vm' in life)) throw new Refusal('WRONG_STATE', 'VM is not booted: boot it first');
    return life.vm;
  }

  private vmIn(state: 'Running' | 'Paused', otherwise: string): MonitoredVm {
    const vm = this.bootedVm();
    if (this.life.state !== state) throw new Refusal('WRONG_STATE', otherwise);
    return vm;
  }
}

export interface RestoreOptions {
  readonly resume: boolean;
  readonly overrides: SnapshotOverrides;
}

/** Bytes of a page of the balloon. */
const BALLOON_UNIT = 4096;

function notCreated(): Refusal {
  return new Refusal('NOT_CREATED', 'VM is not created: create it with vm.create, or restore it with vm.restore');
}

function alreadyCreated(): Refusal {
  return new Refusal('ALREADY_CREATED', 'VM is already created: there is one for each monitor; delete it first');
}

function refuseOther(what: string, present: number, desired: number | undefined): void {
  if (desired === undefined || desired === present) return;
  throw new Refusal('NOT_SUPPORTED', `VM has ${present} ${what}, for good: processors and memory are not plugged in`);
}

function withChosenPorts(config: VmConfig, { publishedPorts }: MonitoredVm): VmConfig {
  const { publish } = config;
  if (publish === undefined) return config;
  const chosen = publish.map((each, index) => ({
    ...each,
    host_port: publishedPorts[index]?.hostPort ?? each.host_port,
  }));
  return { ...config, publish: chosen };
}

function withPtyPaths(config: VmConfig, { consoles }: MonitoredVm): VmConfig {
  const sections = (['serial', 'console', 'debug_console'] as const).flatMap((section) => {
    const settings = config[section];
    const path = consoles[section]?.path;
    return settings?.mode === 'Pty' && path !== undefined ? [[section, { ...settings, file: path }] as const] : [];
  });
  return { ...config, ...Object.fromEntries(sections) };
}
