// The vCPU loop: enter the guest, answer the exit, again. vCPU worker; nothing is allocated per exit.
//
// KVM completes an exit at the next KVM_RUN, so a loop that is told to stop by the guest's own access still leaves at
// once: the access that asked for it (a reset, say) needs no completion.

import { EAGAIN, EINTR, errnoName } from '../platform/errno.js';
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
  /** Waits outside the guest until the machine's order is to run, or it stops. */
  readonly park: () => void;
}

/** With an in-kernel local APIC KVM waits for the next interrupt itself; should it hand HLT over, this is the wait. */
const HALT_POLL_MS = 1;

/** The exit counter that others see is renewed every 64 exits. */
const EXIT_COUNT_MASK = 63;

/** Runs the guest until it ends or the control block says stop. Throws Error when KVM_RUN itself fails. */
export function runVcpu(machine: VcpuMachine): VcpuOutcome {
  const { vcpu, ports, mmio, control, power } = machine;
  const run8 = new Uint8Array(vcpu.run);
  const run32 = new Uint32Array(vcpu.run);
  const view = new DataView(vcpu.run);
  const exits = control.exitCounters;
  const exitSlot = control.exitSlot(machine.index);
  let count = 0;
  const halt = new Int32Array(new SharedArrayBuffer(4));

  if (!control.mayRun) machine.park();
  // A stop that was asked for before the first entry kicks too, until this thread has ended.
  for (;;) {
    const result = vcpu.enter();
    // Counted in a register, and shown to the others now and then: every cache line an exit touches costs here.
    if ((++count & EXIT_COUNT_MASK) === 0) exits[exitSlot] = count;
    if (result < 0) {
      exits[exitSlot] = count;
      if (result !== -EINTR && result !== -EAGAIN) throw new Error(`KVM_RUN failed: ${errnoName(-result)}`);
      // Taken back before the reason for the kick is looked at: a kick that comes now is seen in the next round.
      run8[RUN.IMMEDIATE_EXIT] = 0;
      if (control.stopRequested) return { kind: 'stopped' };
      // KVM_RUN has completed the last exit before it looked at the kick: the vCPU's state is whole.
      if (!control.mayRun) machine.park();
      continue;
    }
    const reason = run32[RUN.EXIT_REASON >>> 2];
    switch (reason) {
      case KVM_EXIT_IO: {
        // Direction, size and port share a word, and the data is page-aligned: what an exit costs here is mostly the
        // cache lines it touches.
        const access = run32[RUN.IO_DIRECTION >>> 2];
        const direction = access & 0xff;
        const size = (access >>> 8) & 0xff;
        const port = access >>> 16;
        const repeats = run32[RUN.IO_COUNT >>> 2];
        const offset = run32[RUN.IO_DATA_OFFSET >>> 2];
        if (direction === KVM_EXIT_IO_OUT) {
          if (size === 1 && repeats === 1) ports.writeByte(port, run32[offset >>> 2] & 0xff);
          else ports.write(port, size, repeats, run8.subarray(offset));
          if (power.action !== 'none') return { kind: power.action };
        } else if (size === 1 && repeats === 1) {
          run8[offset] = ports.readByte(port);
        } else {
          ports.read(port, size, repeats, run8.subarray(offset));
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
}
