// One run of the guest, from its first instruction to a reset or power-off: the KVM VM with its interrupt chips, the
// vCPUs and their threads. Main thread.
//
// A guest that reboots gets a new machine over the same memory and devices, so nothing of the old state of processors
// and interrupt controllers can survive.

import type { BootState } from '../boot/state.js';
import type { CpusConfig } from '../config/vm-config.js';
import { COM1_IRQ } from '../devices/legacy/serial-registers.js';
import type { MemoryMap } from '../platform/guest-memory.js';
import { ControlBlock, ORDER_PARK, ORDER_RUN, ORDER_SAVE } from './control.js';
import { guestCpuid } from './cpuid.js';
import type { DeviceSet } from './device-set.js';
import { EVENT_GSI } from './interrupt-lines.js';
import { KVM_CAP_XSAVE2 } from './kvm/abi.js';
import type { KvmSystem } from './kvm/system.js';
import { KvmVm } from './kvm/vm-fd.js';
import { type BlockingThreads, endWithProcess, forget } from './process-end.js';
import { restoreChips, saveChips, type ChipsSnapshot } from './snapshot/chips.js';
import type { SaveRequest, VcpuSnapshot } from './snapshot/vcpu.js';
import type { GuestEvent, PortHandles, VcpuBegin, VcpuMessage, VcpuStart } from './worker-protocol.js';
import { takeVcpuThread, type VcpuThread } from './worker-pool.js';
import type { VcpuOutcome } from './vcpu-loop.js';

export interface MachineParts {
  readonly cpus: CpusConfig;
  readonly system: KvmSystem;
  /** What becomes memory slots. */
  readonly memory: MemoryMap;
  readonly devices: DeviceSet;
  readonly ports: PortHandles;
}

/** A paused machine. */
export interface MachineSnapshot {
  readonly chips: ChipsSnapshot;
  readonly vcpus: readonly VcpuSnapshot[];
}

/** Where a machine begins: at a guest's first instruction, or where a saved one was `elapsedNs` ago. */
export type MachineBegin =
  | { readonly kind: 'boot'; readonly boot: BootState }
  | ({ readonly kind: 'restore'; readonly elapsedNs: bigint } & MachineSnapshot);

/** Between two kicks of vCPUs that are to be parked. */
const KICK_INTERVAL_MS = 5;

export interface MachineEvents {
  /** vCPU 0 is about to enter the guest. Times in milliseconds since the epoch. */
  onEntering(modulesLoaded: number, entering: number): void;
  onGuestEvent(event: GuestEvent): void;
  /** The first vCPU that left its loop did so for this reason; `stop` still has to be called. */
  onOutcome(outcome: VcpuOutcome): void;
  onFailure(worker: string, error: Error): void;
}

/** The threads of the vCPUs, which load their code from now on. Hand them to a Machine, or join them. */
export function takeVcpuThreads(cpus: CpusConfig): VcpuThread[] {
  return Array.from({ length: cpus.boot_vcpus }, () => takeVcpuThread());
}

export class Machine {
  readonly control = ControlBlock.create();
  private readonly vm: KvmVm;
  private readonly threads: readonly VcpuThread[];
  private readonly parts: MachineParts;
  private readonly blocking: BlockingThreads;
  private parking: Gathering | undefined;
  private saving: { readonly states: VcpuSnapshot[]; readonly resolve: (states: VcpuSnapshot[]) => void } | undefined;

  /** Creates the VM; owns `threads` when it returns. Throws SysError or VmError, with nothing left over. */
  constructor(parts: MachineParts, threads: readonly VcpuThread[]) {
    const { system, memory, devices, ports } = parts;
    this.parts = parts;
    this.threads = threads;
    this.blocking = {
      control: this.control,
      count: threads.length,
      order: 'vcpus',
      kick: () => {
        this.kickAll();
      },
    };
    this.vm = new KvmVm(system, memory);
    try {
      if (ports.serial !== undefined) this.vm.addIrqFd(ports.serial.irqEvent, COM1_IRQ);
      this.vm.addIrqFd(ports.events.irqEvent, EVENT_GSI);
      devices.connect(this.vm);
    } catch (error) {
      this.vm.closeNow();
      throw error;
    }
  }

  /** Lets the guest run from `boot` on, or saved vCPUs from where they were: those stay parked until `resume`. */
  start(from: MachineBegin, events: MachineEvents): void {
    const { cpus, system, devices, ports } = this.parts;
    if (from.kind === 'restore') {
      restoreChips(this.vm.fd, from.chips, from.elapsedNs);
      void this.park();
    }
    const supported = system.supportedCpuid();
    const { tscDeadlineTimer } = system;
    const vcpuCount = this.threads.length;
    endWithProcess(this.blocking);
    let ended = false;
    const end = (outcome: VcpuOutcome): void => {
      if (ended || outcome.kind === 'stopped') return;
      ended = true;
      this.parking?.abandon();
      events.onOutcome(outcome);
    };
    this.threads.forEach((thread, index) => {
      const name = `vcpu${index}`;
      thread.attach({
        onMessage: (message) => {
          this.handle(message, index, events, end);
        },
        onFailure: (error) => {
          events.onFailure(name, error);
        },
      });
      const start: VcpuStart = {
        index,
        vcpuCount,
        affinity: cpus.affinity?.find(({ vcpu }) => vcpu === index)?.host_cpus,
        vmFd: this.vm.fd,
        mmapSize: system.vcpuMmapSize,
        cpuid: guestCpuid(supported, { vcpu: index, vcpuCount, topology: cpus.topology, tscDeadlineTimer }),
        begin: beginOf(from, index),
        control: this.control.buffer,
        devices: devices.handles,
        ports,
      };
      thread.start(start);
    });
  }

  /** Takes every vCPU out of the guest. Rejects when the guest ends meanwhile. */
  async pause(): Promise<void> {
    const parked = this.park();
    this.kickAll();
    const kicks = setInterval(() => {
      this.kickAll();
    }, KICK_INTERVAL_MS);
    try {
      await parked;
    } finally {
      clearInterval(kicks);
    }
  }

  /** Resolves when every vCPU of a restored machine has its state and waits. */
  async ready(): Promise<void> {
    await this.parking?.all;
  }

  /** Lets parked vCPUs go on. */
  resume(): void {
    this.control.order(ORDER_RUN);
  }

  /** An NMI for every vCPU. Throws SysError. */
  nmi(): void {
    this.vm.broadcastNmi();
  }

  /** The state of a paused machine. Rejects with SysError. */
  async save(): Promise<MachineSnapshot> {
    const { system } = this.parts;
    const request: SaveRequest = { msrIndices: system.msrIndices(), xsaveSize: system.capability(KVM_CAP_XSAVE2) };
    const states = new Promise<VcpuSnapshot[]>((resolve) => {
      this.saving = { states: [], resolve };
    });
    for (const thread of this.threads) thread.post(request);
    this.control.order(ORDER_SAVE);
    const vcpus = await states;
    this.control.order(ORDER_PARK);
    return { chips: saveChips(this.vm.fd), vcpus };
  }

  /** Ends the vCPU threads. Returns the names of those that did not end in time: then `release` must not be called. */
  async stop(): Promise<string[]> {
    this.parking?.abandon();
    this.control.requestStop();
    const ended = await Promise.all(
      this.threads.map((thread, index) =>
        thread.join(() => {
          this.control.kickVcpu(index);
        }),
      ),
    );
    if (ended.every(Boolean)) forget(this.blocking);
    return this.threads.flatMap((_, index) => (ended[index] ? [] : [`vcpu${index}`]));
  }

  /** Rejects with SysError. */
  release(): Promise<void> {
    return this.vm.close();
  }

  private kickAll(): void {
    for (const index of this.threads.keys()) this.control.kickVcpu(index);
  }

  private handle(
    message: VcpuMessage,
    index: number,
    events: MachineEvents,
    end: (outcome: VcpuOutcome) => void,
  ): void {
    switch (message.type) {
      case 'running':
        if (index === 0) events.onEntering(message.modulesLoaded, message.entering);
        return;
      case 'event':
        events.onGuestEvent(message.event);
        return;
      case 'parked':
        this.parking?.arrive(message.order);
        return;
      case 'state':
        this.collect(index, message.state);
        return;
      case 'outcome':
        end(message.outcome);
        return;
      case 'failed':
        events.onFailure(`vcpu${index}`, Object.assign(new Error(message.message), { stack: message.stack }));
        return;
    }
  }

  private park(): Promise<void> {
    this.parking = new Gathering(this.control.order(ORDER_PARK), this.threads.length);
    return this.parking.all;
  }

  private collect(index: number, state: VcpuSnapshot): void {
    const { saving } = this;
    if (saving === undefined) return;
    saving.states[index] = state;
    if (Object.keys(saving.states).length < this.threads.length) return;
    this.saving = undefined;
    saving.resolve(saving.states);
  }
}

function beginOf(from: MachineBegin, index: number): VcpuBegin {
  if (from.kind === 'restore') return { kind: 'restore', state: from.vcpus[index], elapsedNs: from.elapsedNs };
  return index === 0 ? from : { kind: 'wait' };
}

/** Waits for a number of threads to say that they have heard an order. */
class Gathering {
  readonly all: Promise<void>;
  private readonly order: number;
  private missing: number;
  private settle: { resolve: () => void; reject: (error: Error) => void } | undefined;

  constructor(order: number, count: number) {
    this.order = order;
    this.missing = count;
    this.all = new Promise((resolve, reject) => {
      this.settle = { resolve, reject };
    });
    // Whoever waits hears of it; when nobody does, the machine's end is told elsewhere.
    this.all.catch(() => undefined);
  }

  arrive(order: number): void {
    if (order === this.order && --this.missing === 0) this.settle?.resolve();
  }

  abandon(): void {
    this.settle?.reject(new Error('the guest ended before it was paused'));
  }
}
