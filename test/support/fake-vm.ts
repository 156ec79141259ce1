// A VM for tests of the API that has no machine: it notes what it is asked to do.

import { DEFAULT_VM_CONFIG, type VmConfig } from '../../src/config/vm-config.js';
import type { Counters, MonitoredVm, VmFactory } from '../../src/api/monitor.js';
import type { MetricFamily } from '../../src/vmm/metrics/family.js';
import type { SnapshotOverrides } from '../../src/vmm/snapshot/overrides.js';
import type { VmExit } from '../../src/vmm/vm.js';

export class FakeVm implements MonitoredVm {
  readonly config: VmConfig;
  readonly exited: Promise<VmExit>;
  /** What it was asked for, in order. */
  readonly calls: string[] = [];
  readonly consoles = { serial: { path: '/dev/pts/7' }, console: undefined, debug_console: undefined };
  readonly publishedPorts = [{ host: '127.0.0.1', hostPort: 40_000 }];
  readonly balloon = { resize: (size: number): void => void this.calls.push(`balloon ${size}`) };
  /** Fails the next call of that name. */
  readonly failures = new Map<string, Error>();
  /** Holds the next call of that name until the promise settles. */
  readonly holds = new Map<string, Promise<void>>();
  end: (exit: VmExit) => void = () => undefined;

  constructor(config: VmConfig = DEFAULT_VM_CONFIG) {
    this.config = config;
    this.exited = new Promise((resolve) => {
      this.end = resolve;
    });
  }

  start = (): Promise<void> => this.called('start');
  pause = (): Promise<void> => this.called('pause');
  resume = (): Promise<void> => this.called('resume');
  reboot = (): Promise<void> => this.called('reboot');
  snapshot = (directory: string, { diff }: { readonly diff: boolean }): Promise<void> =>
    this.called('snapshot', diff ? `${directory} as a diff` : directory);
  coredump = (path: string): Promise<void> => this.called('coredump', path);

  stop = async (): Promise<void> => {
    this.end({ reason: 'stopped' });
    await this.called('stop');
  };

  nmi(): void {
    this.note('nmi');
  }

  powerButton(): void {
    this.note('powerButton');
  }

  counters(): Counters {
    return { _balloon: { actualBytes: 4096, targetBytes: 8192 }, _vsock: { rxBytes: 3 } };
  }

  metrics(): Promise<MetricFamily[]> {
    return Promise.resolve([]);
  }

  private async called(name: string, argument = ''): Promise<void> {
    this.note(name, argument);
    await this.holds.get(name);
  }

  private note(name: string, argument = ''): void {
    this.calls.push(argument === '' ? name : `${name} ${argument}`);
    const failure = this.failures.get(name);
    this.failures.delete(name);
    if (failure !== undefined) throw failure;
  }
}

/** Makes FakeVms, and has them all. */
export class FakeFactory implements VmFactory {
  readonly vms: FakeVm[] = [];
  readonly restored: (readonly [directory: string, overrides: SnapshotOverrides])[] = [];
  /** Fails the next VM that is to be made. */
  failure: Error | undefined;
  /** Prepares the next VM that is made. */
  prepare: (vm: FakeVm) => void = () => undefined;
  /** Holds the next VM that is to be made until the promise settles. */
  hold: Promise<void> = Promise.resolve();

  get vm(): FakeVm {
    const last = this.vms.at(-1);
    if (last === undefined) throw new Error('there is no VM');
    return last;
  }

  create = (config: VmConfig): Promise<FakeVm> => this.make(config);

  restore = (directory: string, overrides: SnapshotOverrides): Promise<FakeVm> => {
    this.restored.push([directory, overrides]);
    return this.make(DEFAULT_VM_CONFIG);
  };

  private async make(config: VmConfig): Promise<FakeVm> {
    await this.hold;
    const { failure } = this;
    this.failure = undefined;
    if (failure !== undefined) throw failure;
    const vm = new FakeVm(config);
    this.prepare(vm);
    this.vms.push(vm);
    return vm;
  }
}
