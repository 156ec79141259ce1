// What a VM is made of and keeps over a reboot of the guest: KVM, memory, devices, consoles, ports. Main thread.

import type { VmConfig } from '../config/vm-config.js';
import type { MemoryMap } from '../platform/guest-memory.js';
import type { VsockHost } from '../vsock/in-process/host.js';
import type { VsockInsight } from './attach/vsock.js';
import { Consoles } from './consoles/consoles.js';
import { physicalAddressBits } from './cpuid.js';
import { DeviceMemorySpace } from './device-memory.js';
import type { DeviceSet } from './device-set.js';
import { attachDevices } from './devices.js';
import { checkHostCpus } from './host-cpus.js';
import { KvmSystem } from './kvm/system.js';
import { AllocatedMemory, type SavedMemory } from './memory.js';
import { Ports } from './ports.js';
import type { ReleaseStack } from './release-stack.js';
import type { LogLevel } from './worker-protocol.js';
import { WatchdogMonitor } from './watchdog.js';

export interface Hardware {
  readonly system: KvmSystem;
  readonly memory: AllocatedMemory;
  /** RAM, and what devices show beside it. */
  readonly guestMemory: MemoryMap;
  readonly consoles: Consoles;
  readonly ports: Ports;
  readonly vsock: VsockHost | undefined;
}

export interface HardwareContext {
  /** Owns everything that is opened. */
  readonly resources: ReleaseStack;
  /** Gets the configuration's devices. */
  readonly devices: DeviceSet;
  readonly log: (level: LogLevel, component: string, message: string) => void;
  readonly vsockInsight: VsockInsight;
  readonly watchdogExpired: () => void;
  /** Called when KVM is open, and when there is memory: for the times of the start. */
  readonly reached: (stage: 'kvm' | 'memory') => void;
  /** The memory of a snapshot, to begin with. */
  readonly savedMemory?: SavedMemory | undefined;
}

/** Rejects with VmError. */
export async function buildHardware(config: VmConfig, context: HardwareContext): Promise<Hardware> {
  const { resources, devices, log, reached } = context;
  const system = resources.own(KvmSystem.open(), (kvm) => {
    kvm.close();
  });
  checkHostCpus(config.cpus, system);
  reached('kvm');
  const memory = resources.own(new AllocatedMemory(config.memory, context.savedMemory), (ram) => {
    ram.close();
  });
  reached('memory');
  const consoles = new Consoles(config, { resources, log });
  const watchdog = config.watchdog === true ? new WatchdogMonitor(context.watchdogExpired) : undefined;
  if (watchdog !== undefined) {
    resources.own(watchdog, (monitor) => {
      monitor.close();
    });
  }
  const ports = new Ports({ consoles, watchdog, pvpanic: config.pvpanic === true, resources });
  const attachLog = (level: LogLevel, message: string): void => {
    log(level, 'vmm', message);
  };
  const space = new DeviceMemorySpace(memory.map, physicalAddressBits(system.supportedCpuid()));
  const attached = await attachDevices(config, context.vsockInsight, { resources, log: attachLog }, space, consoles);
  for (const device of attached.all) devices.add(device);
  const guestMemory = [...memory.map, ...attached.all.flatMap((device) => device.memory ?? [])];
  return { system, memory, guestMemory, consoles, ports, vsock: attached.vsock?.host };
}
