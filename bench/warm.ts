// From `Vm.create` to the guest's first instruction when the threads are there, with its parts, against the same when they are
// not, and against a C program that makes the same system calls for a VM (reference/warm.c): the kernel's own share.
//
// The guest is the built-in one with a vsock device; its first instruction is a POST code, which this process sees.

import { execFileSync } from 'node:child_process';
import type { VmConfigInput } from '../src/config/vm-config.js';
import { Vm } from '../src/vmm/vm.js';
import { MIB } from '../src/platform/units.js';
import { buildReference, compared, median, sleep, type Bench, type Figure } from './harness.js';

const ROUNDS = 31;
/** Compilers see the code a few times before it counts. */
const WARM_UP = 10;
const MEMORY = 512 * MIB;
const CONFIG: VmConfigInput = { memory: { size: MEMORY }, serial: { mode: 'Null' }, vsock: { cid: 3 } };

/** Milliseconds, in the order in which they come, from `create` on; `total` is up to the first instruction. */
type Parts = Readonly<
  Record<'checked' | 'kvm' | 'memory' | 'machine' | 'entering' | 'first' | 'total' | 'stop', number>
>;

async function createOnce(): Promise<Parts> {
  const begin = performance.timeOrigin + performance.now();
  const vm = await Vm.create(CONFIG);
  try {
    await vm.start();
    while (vm.startTimes.firstInstruction === 0 || vm.startTimes.entering === 0) await sleep(0.2);
  } catch (error) {
    await vm.stop();
    throw error;
  }
  const stopping = performance.now();
  await vm.stop();
  const { create, kvm, memory, loaded, entering, firstInstruction } = vm.startTimes;
  return {
    checked: create - begin,
    kvm: kvm - create,
    memory: memory - kvm,
    machine: loaded - memory,
    entering: entering - loaded,
    first: firstInstruction - entering,
    total: firstInstruction - begin,
    stop: performance.now() - stopping,
  };
}

/** Milliseconds of the C program's VM: all of it, then its parts. */
type ReferenceParts = readonly number[];

function runReference(program: string): ReferenceParts {
  const output = execFileSync(program, [String(MEMORY / MIB), '1'], { encoding: 'utf8' });
  return output
    .trim()
    .split(' ')
    .map((microseconds) => Number(microseconds) / 1000);
}

export const warm: Bench = {
  name: 'warm',
  description:
    'create to first instruction with threads that are there, its parts, against cold ones and bare ioctls in C',
  async run(work) {
    const program = buildReference(work, 'warm');
    for (let round = 0; round < WARM_UP; round++) await createOnce();
    const rounds: { warm: Parts; cold: Parts; bare: ReferenceParts }[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      await Vm.cooldown();
      const cold = await createOnce();
      rounds.push({ cold, warm: await createOnce(), bare: runReference(program) });
    }
    const of = (kind: 'warm' | 'cold', part: keyof Parts): number => median(rounds.map((round) => round[kind][part]));
    const bare = (part: number): number => median(rounds.map((round) => round.bare[part]));
    const figure = (name: string, part: keyof Parts): Figure => ({ name, value: of('warm', part), unit: 'ms' });
    return [
      compared('warm create to first instruction, against C', 'ms', of('warm', 'total'), bare(0)),
      compared('warm create to first instruction, against cold', 'ms', of('warm', 'total'), of('cold', 'total')),
      figure('  configuration checked', 'checked'),
      figure('  KVM opened', 'kvm'),
      figure('  memory mapped', 'memory'),
      figure('  devices, guest and machine', 'machine'),
      figure('  handed to the threads, vCPU set up', 'entering'),
      figure('  first instruction', 'first'),
      { name: "C: the VM's memory and chips", value: bare(1), unit: 'ms' },
      { name: 'C: eventfds', value: bare(2), unit: 'ms' },
      { name: 'C: vCPU', value: bare(3), unit: 'ms' },
      { name: 'C: first instruction', value: bare(4), unit: 'ms' },
      compared('stop, against that of C', 'ms', of('warm', 'stop'), bare(5)),
    ];
  },
};
