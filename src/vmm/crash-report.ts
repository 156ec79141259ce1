// Explains why a vCPU cannot go on, from its kvm_run page and registers. vCPU worker, once at the end of a VM.

import { hex } from '../platform/units.js';
import {
  KVM_EXIT_FAIL_ENTRY,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_INTERNAL_ERROR_EMULATION,
  KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
  REGISTER_NAMES,
  RUN,
} from './kvm/abi.js';
import type { KvmVcpu } from './kvm/vcpu-fd.js';
import { readControlRegisters, readRegisters } from './vcpu-state.js';

const MAX_INSTRUCTION_BYTES = 15;
const MAX_INTERNAL_DATA = 16;
const REGISTERS_PER_LINE = 3;

const SUBERROR_NAMES = new Map([
  [1, 'an instruction that KVM cannot emulate'],
  [2, 'simultaneous exceptions'],
  [3, 'an exit during event delivery'],
  [4, 'an unexpected exit reason'],
]);

/** A report of several lines: reason, RIP, instruction bytes where KVM gives them, registers. */
export function describeCrash(vcpu: KvmVcpu, index: number, reason?: string): string {
  const view = new DataView(vcpu.run);
  const lines = [`vCPU ${index}: ${reason ?? explainExit(view)}`];
  const bytes = instructionBytes(view);
  if (bytes !== undefined) lines.push(`instruction bytes: ${bytes}`);
  try {
    const registers = readRegisters(vcpu);
    lines.splice(1, 0, `RIP ${hex(registers.rip)}`);
    lines.push(...table([...REGISTER_NAMES.map((name) => [name, registers[name]] as const)]));
    lines.push(...table(Object.entries(readControlRegisters(vcpu))));
  } catch (error) {
    lines.push(`registers cannot be read: ${String(error)}`);
  }
  return lines.join('\n');
}

function explainExit(view: DataView): string {
  const reason = view.getUint32(RUN.EXIT_REASON, true);
  switch (reason) {
    case KVM_EXIT_FAIL_ENTRY: {
      const hardware = view.getBigUint64(RUN.FAIL_ENTRY_REASON, true);
      return `the processor refused to enter the guest (hardware reason ${hex(hardware)})`;
    }
    case KVM_EXIT_INTERNAL_ERROR: {
      const suberror = view.getUint32(RUN.INTERNAL_SUBERROR, true);
      return `KVM internal error, suberror ${suberror}: ${SUBERROR_NAMES.get(suberror) ?? 'unknown'}${internalData(view)}`;
    }
    default:
      return `exit reason ${reason}, which this monitor does not know`;
  }
}

function internalData(view: DataView): string {
  const count = Math.min(view.getUint32(RUN.INTERNAL_NDATA, true), MAX_INTERNAL_DATA);
  if (count === 0) return '';
  const data = Array.from({ length: count }, (_, i) => hex(view.getBigUint64(RUN.INTERNAL_DATA + i * 8, true)));
  return ` (data ${data.join(' ')})`;
}

/** The bytes at RIP, if this exit is a failed emulation and KVM gave them. */
function instructionBytes(view: DataView): string | undefined {
  if (view.getUint32(RUN.EXIT_REASON, true) !== KVM_EXIT_INTERNAL_ERROR) return undefined;
  if (view.getUint32(RUN.INTERNAL_SUBERROR, true) !== KVM_INTERNAL_ERROR_EMULATION) return undefined;
  if (view.getUint32(RUN.INTERNAL_NDATA, true) === 0) return undefined;
  const flags = view.getBigUint64(RUN.EMULATION_FLAGS, true);
  if ((flags & BigInt(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) === 0n) return undefined;
  const size = Math.min(view.getUint8(RUN.EMULATION_INSN_SIZE), MAX_INSTRUCTION_BYTES);
  const bytes = Array.from({ length: size }, (_, i) => view.getUint8(RUN.EMULATION_INSN_BYTES + i));
  return bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
}

function table(rows: readonly (readonly [string, bigint])[]): string[] {
  const cells = rows.map(([name, value]) => `${name.padEnd(6)} ${value.toString(16).padStart(16, '0')}`);
  const lines: string[] = [];
  for (let at = 0; at < cells.length; at += REGISTERS_PER_LINE) {
    lines.push(`  ${cells.slice(at, at + REGISTERS_PER_LINE).join('  ')}`);
  }
  return lines;
}
