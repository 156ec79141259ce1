// The files of a snapshot: what is in them, and how they become the structures that the machine is made of.
//
//   config.json     the configuration, in Cloud Hypervisor's VmConfig shape
//   memory-ranges   guest RAM, sparse, one chunk after the other; of a diff, what is not as in its base
//   state.json      everything else; written last: without it there is no snapshot
//
// A diff names its base, which is never a diff: so there are no chains of which one link may be missing.
//
// Registers that people look at are named and in hexadecimal; structures of KVM that nobody reads are in base64.

import { z } from 'zod';
import { REGISTER_NAMES, REGS_SIZE } from '../kvm/abi.js';
import type { DeviceSnapshot } from '../device-set.js';
import type { MachineSnapshot } from '../machine.js';
import type { PortsSnapshot } from '../ports.js';
import { decodeExtents, encodeExtents, type Extent } from './extents.js';
import type { VcpuSnapshot } from './vcpu.js';

export const CONFIG_FILE = 'config.json';
export const MEMORY_FILE = 'memory-ranges';
export const STATE_FILE = 'state.json';

const FORMAT = 'tsvmm snapshot';
/** Raised with every change that an older tsvmm would misread. */
export const SNAPSHOT_VERSION = 2;

const base64 = z.base64();
const integer = z.number().int();
const unsigned = integer.min(0);
const hexadecimal = z.string().regex(/^0x[0-9a-f]{1,16}$/);

const registers = z.strictObject(
  Object.fromEntries(REGISTER_NAMES.map((name) => [name, hexadecimal])) as Record<
    (typeof REGISTER_NAMES)[number],
    typeof hexadecimal
  >,
);

const cpuidEntry = z.strictObject({
  function: unsigned,
  index: unsigned,
  flags: unsigned,
  eax: unsigned,
  ebx: unsigned,
  ecx: unsigned,
  edx: unsigned,
});

const vcpu = z.strictObject({
  registers,
  sregs: base64,
  xsave: base64,
  xcrs: base64,
  debugregs: base64,
  lapic: base64,
  events: base64,
  mp_state: unsigned,
  tsc_khz: unsigned,
  msrs: z.record(hexadecimal, hexadecimal),
  cpuid: z.array(cpuidEntry),
});

const queue = z.strictObject({ avail: unsigned.max(0xffff), used: unsigned.max(0xffff) });

const device = z.strictObject({
  id: z.string(),
  registers: base64,
  active: z.boolean(),
  queues: z.array(queue.nullable()),
  state: z.record(z.string(), z.union([z.number(), z.string(), z.boolean()])).nullable(),
});

const ports = z.strictObject({
  serial: z.array(integer).nullable(),
  i8042: z.array(integer),
  events: integer,
  watchdog: z.strictObject({ left: z.number().min(0).nullable(), period: integer, status: integer }).nullable(),
});

const base = z.strictObject({
  /** The folder of the whole snapshot, from this one's. */
  path: z.string().min(1),
  id: z.uuid(),
});

const memory = z
  .strictObject({
    file_size: unsigned,
    ranges: z.array(z.strictObject({ gpa: unsigned, size: unsigned })),
    base: base.optional(),
    /** The pages of a diff: le32 number of the first and le32 count of each run. */
    pages: base64.optional(),
  })
  .refine(({ base: of, pages }) => (of === undefined) === (pages === undefined), 'a diff has both base and pages')
  .refine(({ pages, file_size }) => pages === undefined || decodeExtents(pages, file_size) !== undefined, {
    path: ['pages'],
    error: 'they are not runs of pages in order',
  });

const stateFile = z.strictObject({
  format: z.literal(FORMAT),
  version: z.literal(SNAPSHOT_VERSION),
  /** Every snapshot's own: a diff knows its base by it. */
  id: z.uuid(),
  /** The tsvmm that wrote it; for people. */
  tsvmm: z.string(),
  /** When the machine stood still: milliseconds since the epoch. */
  taken_at_ms: z.number(),
  memory,
  kvmclock_ns: z.string().regex(/^\d+$/),
  irqchips: z.array(base64).length(3),
  pit: base64,
  vcpus: z.array(vcpu).min(1),
  ports,
  devices: z.array(device),
});

export type StateFile = z.infer<typeof stateFile>;

/** Which snapshot a diff is a diff of. */
export type SnapshotBase = z.infer<typeof base>;

/** What state.json says of the memory file. */
export interface SavedLayout {
  readonly fileSize: number;
  readonly ranges: StateFile['memory']['ranges'];
  /** Undefined when the file has all of it. */
  readonly diff: { readonly base: SnapshotBase; readonly extents: readonly Extent[] } | undefined;
}

/** A saved machine without its memory and configuration. */
export interface SavedState {
  readonly id: string;
  readonly takenAtMs: number;
  readonly memory: SavedLayout;
  readonly machine: MachineSnapshot;
  readonly ports: PortsSnapshot;
  readonly devices: readonly DeviceSnapshot[];
}

/** Throws ZodError for what is not a state file of this version. */
export function parseState(json: unknown): SavedState {
  const file = stateFile.parse(json);
  return {
    id: file.id,
    takenAtMs: file.taken_at_ms,
    memory: parseLayout(file.memory),
    machine: {
      chips: { clock: BigInt(file.kvmclock_ns), irqchips: file.irqchips.map(bytesOf), pit: bytesOf(file.pit) },
      vcpus: file.vcpus.map(parseVcpu),
    },
    ports: file.ports,
    devices: file.devices.map(({ id, registers: page, active, queues, state }) => ({
      id,
      page: bytesOf(page),
      backend: { active, queues, device: state },
    })),
  };
}

export function formatState(state: SavedState, tsvmm: string): StateFile {
  const { chips, vcpus } = state.machine;
  return {
    format: FORMAT,
    version: SNAPSHOT_VERSION,
    id: state.id,
    tsvmm,
    taken_at_ms: state.takenAtMs,
    memory: formatLayout(state.memory),
    kvmclock_ns: chips.clock.toString(),
    irqchips: chips.irqchips.map(textOf),
    pit: textOf(chips.pit),
    vcpus: vcpus.map(formatVcpu),
    ports: { ...state.ports, serial: state.ports.serial?.slice() ?? null, i8042: state.ports.i8042.slice() },
    devices: state.devices.map(({ id, page, backend }) => ({
      id,
      registers: textOf(page),
      active: backend.active,
      queues: backend.queues.slice(),
      state: backend.device,
    })),
  };
}

function parseLayout({ file_size, ranges, base: of, pages }: StateFile['memory']): SavedLayout {
  const extents = pages === undefined ? undefined : decodeExtents(pages, file_size);
  const diff = of === undefined || extents === undefined ? undefined : { base: of, extents };
  return { fileSize: file_size, ranges, diff };
}

function formatLayout({ fileSize, ranges, diff }: SavedLayout): StateFile['memory'] {
  const whole = { file_size: fileSize, ranges: ranges.slice() };
  return diff === undefined ? whole : { ...whole, base: diff.base, pages: encodeExtents(diff.extents) };
}

function parseVcpu(file: StateFile['vcpus'][number]): VcpuSnapshot {
  const regs = new DataView(new ArrayBuffer(REGS_SIZE));
  REGISTER_NAMES.forEach((name, index) => {
    regs.setBigUint64(index * 8, BigInt(file.registers[name]), true);
  });
  return {
    regs: new Uint8Array(regs.buffer),
    sregs: bytesOf(file.sregs),
    xsave: bytesOf(file.xsave),
    xcrs: bytesOf(file.xcrs),
    debugregs: bytesOf(file.debugregs),
    lapic: bytesOf(file.lapic),
    events: bytesOf(file.events),
    mpState: file.mp_state,
    tscKhz: file.tsc_khz,
    msrs: Object.entries(file.msrs).map(([index, data]) => ({ index: Number(index), data: BigInt(data) })),
    cpuid: file.cpuid,
  };
}

function formatVcpu(vcpuState: VcpuSnapshot): StateFile['vcpus'][number] {
  const regs = new DataView(vcpuState.regs.buffer, vcpuState.regs.byteOffset, vcpuState.regs.byteLength);
  const named = REGISTER_NAMES.map((name, index) => [name, hex(regs.getBigUint64(index * 8, true))]);
  return {
    registers: Object.fromEntries(named) as StateFile['vcpus'][number]['registers'],
    sregs: textOf(vcpuState.sregs),
    xsave: textOf(vcpuState.xsave),
    xcrs: textOf(vcpuState.xcrs),
    debugregs: textOf(vcpuState.debugregs),
    lapic: textOf(vcpuState.lapic),
    events: textOf(vcpuState.events),
    mp_state: vcpuState.mpState,
    tsc_khz: vcpuState.tscKhz,
    msrs: Object.fromEntries(vcpuState.msrs.map(({ index, data }) => [hex(index), hex(data)])),
    cpuid: vcpuState.cpuid.slice(),
  };
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'base64'));
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64');
}
