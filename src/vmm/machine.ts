// One run of the guest, from its first instruction to a reset or power-off: the KVM VM with its interrupt chips, the
// vCPUs and their threads. Main thread.
//
// A guest that reboots gets a new machine over the same memory and devices, so nothing of the old state of processors
// and interrupt controllers can survive.

import type { BootState } from '../boot/state.js';
import type { CpusConfig } from '../config/vm-config.js';
import { COM1_IRQ } from '../devices/legacy/serial-registers.js';
import type { MemoryMap } from '../platform/guest-memory.js';
import { ControlBlock } from './control.js';
import { guestCpuid } from './cpuid.js';
import type { DeviceSet } from './device-set.js';
import { EVENT_GSI } from './interrupt-lines.js';
import type { KvmSystem } from './kvm/system.js';
import { KvmVm } from './kvm/vm-fd.js';
import type { GuestEvent, PortHandles, VcpuMessage, VcpuStart } from './worker-protocol.js';
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

  /** Creates the VM; owns `threads` when it returns. Throws SysError or VmError, with nothing left over. */
  constructor(parts: MachineParts, threads: readonly VcpuThread[]) {
    const { system, memory, devices, ports } = parts;
    this.parts = parts;
    this.threads = threads;
    this.vm = new KvmVm(system);
    try {
      this.vm.setMemory(memory);
      if (ports.serial !== undefined) this.vm.addIrqFd(ports.serial.irqEvent, COM1_IRQ);
      this.vm.addIrqFd(ports.events.irqEvent, EVENT_GSI);
      devices.connect(this.vm);
    } catch (error) {
      this.vm.close();
      throw error;
    }
  }

  /** Lets the guest run from `boot` on. */
  start(boot: BootState, events: MachineEvents): void {
    const { cpus, system, devices, ports } = this.parts;
    const supported = system.supportedCpuid();
    const { tscDeadlineTimer } = system;
    const vcpuCount = this.threads.length;
    let ended = false;
    const end = (outcome: VcpuOutcome): void => {
      if (ended || outcome.kind === 'stopped') return;
      ended = true;
      events.onOutcome(outcome);
    };
    this.threads.forEach((thread, index) => {
      const name = `vcpu${index}`;
      thread.attach({
        onMessage: (message) => {
          this.handle(message, name, events, end);
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
        boot: index === 0 ? boot : undefined,
        control: this.control.buffer,
        devices: devices.handles,
        ports,
      };
      thread.start(start);
    });
  }

  /** Ends the vCPU threads. Returns the names of those that did not end in time: then `release` must not be called. */
  async stop(): Promise<string[]> {
    this.control.requestStop();
    const ended = await Promise.all(
      this.threads.map((thread, index) =>
        thread.join(() => {
          this.control.kickVcpu(index);
        }),
      ),
    );
    return this.threads.flatMap((_, index) => (ended[index] ? [] : [`vcpu${index}`]));
  }

  release(): void {
    this.vm.close();
  }

  private handle(message: VcpuMessage, name: string, events: MachineEvents, end: (outcome: VcpuOutcome) => void): void {
    switch (message.type) {
      case 'running':
        if (name === 'vcpu0') events.onEntering(message.modulesLoaded, message.entering);
        return;
      case 'event':
        events.onGuestEvent(message.event);
        return;
      case 'outcome':
        end(message.outcome);
        return;
      case 'failed':
        events.onFailure(name, Object.assign(new Error(message.message), { stack: message.stack }));
        return;
    }
  }
}
