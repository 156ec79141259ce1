// The vCPU loop: enter the guest, answer the exit, again. vCPU worker; nothing is allocated per exit.
//
// KVM completes an exit at the next KVM_RUN, so a loop that is told to stop by the guest's own access still leaves at
// once: the access that asked for it (a reset, say) needs no completion.

import { EAGAIN, EINTR, errnoName } from '../platform/errno.js';
import { KICK_SIGNAL, SignalCollector } from '../platform/signals.js';
import { TWO_POW_32 } from '../platform/units.js';
import type { MmioBus, PortBus } from './buses.js';
import type { ControlBlock } from './control.js';
import { describeCrash } from './crash-report.js';
import {
  KVM_EXIT_FAIL_ENTRY,
  KVM_EXIT_HLT,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_INTR,
  KVM_EXIT_IO,
  KVM_EXIT_IO_OUT,
  KVM_EXIT_IRQ_WINDOW_OPEN,
  KVM_EXIT_MMIO,
  KVM_EXIT_SHUTDOWN,
  KVM_EXIT_SYSTEM_EVENT,
  KVM_SYSTEM_EVENT_CRASH,
  KVM_SYSTEM_EVENT_RESET,
  KVM_SYSTEM_EVENT_SHUTDOWN,
  RUN,
} from './kvm/abi.js';
import type { KvmVcpu } from './kvm/vcpu-fd.js';

/** Why a vCPU left its loop. */
export type VcpuOutcome =
  | { readonly kind: 'shutdown' | 'reset' | 'stopped' }
  /** The guest cannot go on: triple fault, KVM internal error, failed entry. */
  | { readonly kind: 'crash'; readonly report: string };

/** What a device on the port bus asked the machine to do, checked after each port write. */
export interface PowerRequest {
  action: 'none' | 'shutdown' | 'reset';
}

export interface VcpuMachine {
  readonly vcpu: KvmVcpu;
  readonly index: number;
  readonly ports: PortBus;
  readonly mmio: MmioBus;
  readonly power: PowerRequest;
  readonly control: ControlBlock;
}

/** With an in-kernel local APIC KVM waits for the next interrupt itself; should it hand HLT over, this is the wait. */
const HALT_POLL_MS = 1;

/** Runs the guest until it ends or the control block says stop. Throws Error when KVM_RUN itself fails. */
export function runVcpu(machine: VcpuMachine): VcpuOutcome {
  const { vcpu, ports, mmio, control, power } = machine;
  const run8 = new Uint8Array(vcpu.run);
  const run16 = new Uint16Array(vcpu.run);
  const run32 = new Uint32Array(vcpu.run);
  const view = new DataView(vcpu.run);
  const exits = control.exitCounters;
  const exitSlot = control.exitSlot(machine.index);
  const signals = new SignalCollector(KICK_SIGNAL);
  const halt = new Int32Array(new SharedArrayBuffer(4));
  // Port data sits in the run page, nearly always at the same offset: one view, made again only when that moves.
  let portDataOffset = -1;
  let portData = run8;

  while (!control.stopRequested) {
    const result = vcpu.enter();
    exits[exitSlot]++;
    if (result < 0) {
      if (result === -EINTR) signals.collect();
      else if (result !== -EAGAIN) throw new Error(`KVM_RUN failed: ${errnoName(-result)}`);
      continue;
    }
    const reason = run32[RUN.EXIT_REASON >>> 2];
    switch (reason) {
      case KVM_EXIT_IO: {
        const offset = run32[RUN.IO_DATA_OFFSET >>> 2];
        if (offset !== portDataOffset) {
          portDataOffset = offset;
          portData = run8.subarray(offset);
        }
        const size = run8[RUN.IO_SIZE];
        const port = run16[RUN.IO_PORT >>> 1];
        const count = run32[RUN.IO_COUNT >>> 2];
        if (run8[RUN.IO_DIRECTION] === KVM_EXIT_IO_OUT) {
          ports.write(port, size, count, portData);
          if (power.action !== 'none') return { kind: power.action };
        } else {
          ports.read(port, size, count, portData);
        }
        break;
      }
      case KVM_EXIT_MMIO: {
        const word = RUN.MMIO_PHYS_ADDR >>> 2;
        const address = run32[word] + run32[word + 1] * TWO_POW_32;
        const length = run32[RUN.MMIO_LEN >>> 2];
        if (run8[RUN.MMIO_IS_WRITE] !== 0) mmio.write(address, length, view, RUN.MMIO_DATA);
        else mmio.read(address, length, view, RUN.MMIO_DATA);
        break;
      }
      case KVM_EXIT_HLT:
        Atomics.wait(halt, 0, 0, HALT_POLL_MS);
        break;
      case KVM_EXIT_INTR:
      case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
      case KVM_EXIT_SYSTEM_EVENT: {
        const type = run32[RUN.SYSTEM_EVENT_TYPE >>> 2];
        if (type === KVM_SYSTEM_EVENT_SHUTDOWN) return { kind: 'shutdown' };
        if (type === KVM_SYSTEM_EVENT_RESET) return { kind: 'reset' };
        const what = type === KVM_SYSTEM_EVENT_CRASH ? 'the guest reported a crash' : `unknown system event ${type}`;
        return { kind: 'crash', report: describeCrash(vcpu, machine.index, what) };
      }
      case KVM_EXIT_SHUTDOWN:
        return { kind: 'crash', report: describeCrash(vcpu, machine.index, 'triple fault') };
      case KVM_EXIT_FAIL_ENTRY:
      case KVM_EXIT_INTERNAL_ERROR:
      default:
        return { kind: 'crash', report: describeCrash(vcpu, machine.index) };
    }
  }
  return { kind: 'stopped' };
}
