// Saving and restoring: the time from `Vm.restore` to the first instruction, with its parts, with little and with much memory;
// many clones of one snapshot and the memory they share; how long a pause takes, and a save.
//
// The guest is a few bytes of machine code that have written to 32 MiB of their memory. It goes on with writing a POST
// code, so its first instruction after a restore is one that this process sees.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Vm } from '../src/vmm/vm.js';
import type { VmConfigInput } from '../src/config/vm-config.js';
import { MIB } from '../src/platform/units.js';
import { compared, median, sleep, type Bench, type Figure } from './harness.js';

const ROUNDS = 9;
const CLONES = 20;
const SMALL = 128 * MIB;
const LARGE = 4096 * MIB;

/** Where the guest's code is, and what it writes to and reads. */
const CODE = 0x10_0000;
const TOUCHED_FROM = 0x20_0000;
const TOUCHED = 32 * MIB;

/** 64-bit code: writes to every page; then for ever a POST code, and with `rereads` every page is read before each. */
function guestCode(rereads: boolean): number[] {
  const u32 = (value: number): number[] => [value, value >>> 8, value >>> 16, value >>> 24].map((byte) => byte & 0xff);
  const overPages = (access: number[]): number[] => {
    // mov $from, %edi; 1: access; add $0x1000, %rdi; cmp $end, %rdi; jb 1b
    const body = [...access, 0x48, 0x81, 0xc7, ...u32(0x1000), 0x48, 0x81, 0xff, ...u32(TOUCHED_FROM + TOUCHED)];
    return [0xbf, ...u32(TOUCHED_FROM), ...body, 0x72, 0x100 - (body.length + 2)];
  };
  const write = overPages([0x48, 0x89, 0x3f]); // mov %rdi, (%rdi)
  const read = rereads ? overPages([0x48, 0x8b, 0x1f]) : []; // mov (%rdi), %rbx
  // mov $1, %al; out %al, $0x80; jmp to `read`
  const tell = [0xb0, 0x01, 0xe6, 0x80, 0xeb];
  return [...write, ...read, ...tell, 0x100 - (read.length + tell.length + 1)];
}

/** Writes a kernel of that code and returns its path: an ELF64 file with one segment. */
function writeKernel(path: string, code: readonly number[]): string {
  const [headerSize, segmentSize] = [64, 56];
  const file = Buffer.alloc(headerSize + segmentSize + code.length);
  // e_ident; then e_type EXEC, e_machine x86-64, e_version.
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1], 0);
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(62, 18);
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BigInt(CODE), 24); // e_entry
  file.writeBigUInt64LE(BigInt(headerSize), 32); // e_phoff
  file.writeUInt16LE(headerSize, 52);
  file.writeUInt16LE(segmentSize, 54);
  file.writeUInt16LE(1, 56); // e_phnum
  const segment = headerSize;
  file.writeUInt32LE(1, segment); // PT_LOAD
  file.writeUInt32LE(5, segment + 4);
  file.writeBigUInt64LE(BigInt(headerSize + segmentSize), segment + 8);
  for (const at of [16, 24]) file.writeBigUInt64LE(BigInt(CODE), segment + at);
  for (const at of [32, 40]) file.writeBigUInt64LE(BigInt(code.length), segment + at);
  file.set(code, headerSize + segmentSize);
  writeFileSync(path, file);
  return path;
}

function configOf(kernel: string, size: number): VmConfigInput {
  return {
    memory: { size },
    payload: { kernel, cmdline: 'acpi=off' },
    serial: { mode: 'Null' },
    cpus: { boot_vcpus: 1, max_vcpus: 1 },
  };
}

/** Resolves when the guest has written its POST code. */
async function untilGuestRuns(vm: Vm): Promise<number> {
  for (;;) {
    const { firstInstruction } = vm.startTimes;
    if (firstInstruction > 0) return firstInstruction;
    await sleep(0.2);
  }
}

interface Saved {
  readonly folder: string;
  /** Milliseconds. */
  readonly saves: readonly number[];
  readonly pauses: readonly number[];
}

async function save(config: VmConfigInput, folder: string): Promise<Saved> {
  const vm = await Vm.create(config);
  try {
    await vm.start();
    await untilGuestRuns(vm);
    const pauses: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      pauses.push(await timed(() => vm.pause()));
      await vm.resume();
    }
    const saves: number[] = [];
    await vm.pause();
    for (let round = 0; round < 3; round++) saves.push(await timed(() => vm.snapshot(folder)));
    return { folder, saves, pauses };
  } finally {
    await vm.stop();
  }
}

async function timed(action: () => Promise<void>): Promise<number> {
  const begin = performance.now();
  await action();
  return performance.now() - begin;
}

/** Milliseconds of one restore, by its parts, in order; `total` is from the call to the first instruction. */
type Parts = Readonly<Record<'read' | 'kvm' | 'memory' | 'devices' | 'worker' | 'vcpu' | 'resume' | 'total', number>>;

async function restoreOnce(folder: string): Promise<Parts> {
  const begin = performance.timeOrigin + performance.now();
  const vm = await Vm.restore(folder);
  try {
    const restored = performance.timeOrigin + performance.now();
    await vm.resume();
    const first = await untilGuestRuns(vm);
    const { create, kvm, memory, loaded, workerLoaded, entering } = vm.startTimes;
    const ready = Math.max(loaded, workerLoaded);
    return {
      read: create - begin,
      kvm: kvm - create,
      memory: memory - kvm,
      devices: loaded - memory,
      worker: ready - loaded,
      vcpu: entering - ready,
      resume: first - Math.max(entering, restored),
      total: first - begin,
    };
  } finally {
    await vm.stop();
  }
}

/** This process's memory in bytes: as it is mapped, and with each shared page counted in parts. */
function processMemory(): { readonly rss: number; readonly pss: number } {
  const text = readFileSync('/proc/self/smaps_rollup', 'utf8');
  const field = (name: string): number => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1]);
  return { rss: field('Rss'), pss: field('Pss') };
}

async function measureClones(folder: string): Promise<Figure[]> {
  const before = processMemory();
  const begin = performance.now();
  const clones = await Promise.all(Array.from({ length: CLONES }, () => Vm.restore(folder)));
  try {
    for (const clone of clones) await clone.resume();
    await Promise.all(clones.map(untilGuestRuns));
    const took = performance.now() - begin;
    const after = processMemory();
    const each = (bytes: number): number => bytes / CLONES / MIB;
    return [
      { name: `${CLONES} clones, until all of them run`, value: took, unit: 'ms' },
      compared(
        `  memory of each (Pss) against what it has mapped (Rss)`,
        'MiB',
        each(after.pss - before.pss),
        each(after.rss - before.rss),
      ),
    ];
  } finally {
    await Promise.all(clones.map((clone) => clone.stop()));
  }
}

export const snapshot: Bench = {
  name: 'snapshot',
  description: 'restore to first instruction by the size of memory, clones and what they share, pause, save',
  async run(work) {
    const kernel = writeKernel(join(work, 'vmlinux'), guestCode(false));
    const small = await save(configOf(kernel, SMALL), join(work, 'small'));
    const large = await save(configOf(kernel, LARGE), join(work, 'large'));
    const rounds: { small: Parts; large: Parts }[] = [];
    await restoreOnce(small.folder);
    for (let round = 0; round < ROUNDS; round++) {
      rounds.push({ small: await restoreOnce(small.folder), large: await restoreOnce(large.folder) });
    }
    const part = (name: string, key: keyof Parts): Figure =>
      compared(
        name,
        'ms',
        median(rounds.map((round) => round.large[key])),
        median(rounds.map((round) => round.small[key])),
      );
    const reader = writeKernel(join(work, 'reader'), guestCode(true));
    const clones = await save(configOf(reader, SMALL), join(work, 'clones'));
    return [
      part('restore to first instruction, 4 GiB against 128 MiB', 'total'),
      part('  files read and checked', 'read'),
      part('  KVM opened', 'kvm'),
      part('  memory mapped', 'memory'),
      part('  devices and machine', 'devices'),
      part('  waiting for the vCPU worker', 'worker'),
      part('  vCPU state set', 'vcpu'),
      part('  resumed, to the first instruction', 'resume'),
      ...(await measureClones(clones.folder)),
      compared('pause, 4 GiB against 128 MiB', 'ms', median(large.pauses), median(small.pauses)),
      compared('save, 32 MiB in use of 4 GiB against of 128 MiB', 'ms', median(large.saves), median(small.saves)),
    ];
  },
};
