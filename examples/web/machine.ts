// The microVM behind the page: its console, its state, what its vsock device counts, transfers. Main thread.
//
// Whoever watches is told that something has changed, and looks for itself: nothing is queued for anybody.

import { randomUUID } from 'node:crypto';
import { Vm, type VmExit } from '../../src/index.js';
import { ConsoleLog } from './console-log.js';
import { GuestAgent } from './guest-agent.js';
import { KEPT_SECONDS, SAMPLE_MS, type MachineState, type Sample, type Status } from './messages.js';
import { Transfers } from './transfers.js';

const MIB = 2 ** 20;
export const HTTP_PORT = 80;
const KEPT_SAMPLES = (KEPT_SECONDS * 1000) / SAMPLE_MS;

/** A running VM. `stop` ends it; the object then still tells what was. */
export class Machine implements AsyncDisposable {
  /** Another one for each VM ever. */
  readonly id = randomUUID();
  readonly vm: Vm;
  /** HTTP to the guest's web server. */
  readonly agent: GuestAgent;
  readonly console = new ConsoleLog();
  readonly transfers: Transfers;
  /** Counts the changes of what `status` returns. */
  version = 0;
  private readonly watchers = new Set<() => void>();
  private readonly sampler: NodeJS.Timeout;
  private samples: Sample[] = [];
  private sampled = 0;
  private connections: number | null = null;
  private asking = false;
  private state: MachineState = 'running';
  private exit: VmExit | undefined;

  private constructor(vm: Vm) {
    this.vm = vm;
    this.agent = new GuestAgent(vm.vsock, HTTP_PORT);
    this.transfers = new Transfers(vm, this.agent, () => this.changed());
    vm.console.onOutput((bytes) => {
      this.console.append(bytes);
      this.tell();
    });
    vm.events.on('paused', () => this.enter('paused'));
    vm.events.on('resumed', () => this.enter('running'));
    this.sampler = setInterval(() => this.sample(), SAMPLE_MS);
    void vm.exited.then((exit) => {
      clearInterval(this.sampler);
      this.agent.destroy();
      this.exit = exit;
      this.connections = 0;
      this.sample();
      this.enter('ended');
    });
  }

  /** Boots the guest that is built into tsvmm. */
  static async boot(): Promise<Machine> {
    const vm = await Vm.create({ memory: { size: 128 * MIB }, serial: { mode: 'Null' }, vsock: { cid: 3 } });
    try {
      const machine = new Machine(vm);
      await vm.start();
      return machine;
    } catch (error) {
      await vm.stop();
      throw error;
    }
  }

  get status(): Status {
    const { state, exit, vm } = this;
    return {
      state,
      ...(exit !== undefined && { end: describeExit(exit) }),
      memory: vm.config.memory.size,
      cid: vm.vsock.cid,
      transfers: this.transfers.describe(),
    };
  }

  /** How many samples were ever taken; the next one has this number. */
  get sampleCount(): number {
    return this.sampled;
  }

  /** The samples from number `first` on, as far as they are kept. */
  samplesFrom(first: number): readonly Sample[] {
    const oldest = this.sampled - this.samples.length;
    return this.samples.slice(Math.max(0, first - oldest));
  }

  /** Calls `watcher` whenever there is something new; returns the function that ends it. */
  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.vm.stop();
  }

  private enter(state: MachineState): void {
    this.state = state;
    this.changed();
  }

  private changed(): void {
    this.version++;
    this.tell();
  }

  private sample(): void {
    const { rxBytes, txBytes } = this.vm.vsock.counters();
    // The names are the guest's: it receives what goes to it.
    const sample = { at: performance.now(), toGuest: rxBytes, fromGuest: txBytes, connections: this.connections };
    this.samples = [...this.samples.slice(1 - KEPT_SAMPLES), sample];
    this.sampled++;
    if (this.transfers.active) this.version++;
    this.tell();
    void this.countConnections();
  }

  /** For the next sample: the device answers in its own time, and a paused one not before it goes on. */
  private async countConnections(): Promise<void> {
    if (this.asking || this.state !== 'running') return;
    this.asking = true;
    try {
      this.connections = (await this.vm.vsock.connections()).length;
    } catch {
      // The VM has ended.
      this.connections = 0;
    }
    this.asking = false;
  }

  private tell(): void {
    for (const watcher of this.watchers) watcher();
  }
}

function describeExit(exit: VmExit): string {
  switch (exit.reason) {
    case 'shutdown':
      return 'the guest has shut down';
    case 'reset':
      return 'the guest has reset itself';
    case 'stopped':
      return 'it was stopped';
    case 'crash':
      return 'the guest has crashed';
    case 'failure':
      return `tsvmm has failed: ${exit.error.message}`;
  }
}
