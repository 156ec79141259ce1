// Fifty VMs in one process: the time until all run and all have answered, what memory each takes, that the end of one is
// nothing to the others, and what idle threads take.
//
// Each has the built-in guest and a vsock device. Memory is that of the whole process, with each shared page counted in parts
// (Pss). The reference is one VM, measured in the same process: the first of its own kind costs what only the first costs.

import { readFileSync } from 'node:fs';
import type { VmConfigInput } from '../src/config/vm-config.js';
import { MIB } from '../src/platform/units.js';
import { Vm } from '../src/vmm/vm.js';
import { compared, sleep, type Bench, type Figure } from './harness.js';

const VMS = 50;
const ECHO = 7;
const CONFIG: VmConfigInput = { memory: { size: 128 * MIB }, serial: { mode: 'Null' }, vsock: { cid: 3 } };

/** Sends `text` through the guest's echo and returns what comes back. */
async function echo(vm: Vm, text: string): Promise<string> {
  const stream = await vm.vsock.connect(ECHO, { waitForDriver: true });
  stream.end(text);
  let answer = '';
  for await (const piece of stream) answer += String(piece);
  return answer;
}

/** Throws Error when one answers something else. */
async function allAnswer(vms: readonly Vm[], round: string): Promise<void> {
  const answers = await Promise.all(vms.map((vm, index) => echo(vm, `${round} ${index}`)));
  answers.forEach((answer, index) => {
    if (answer !== `${round} ${index}`) throw new Error(`VM ${index} answered ${JSON.stringify(answer)}`);
  });
}

/** MiB of this process, with each page that others have too counted in parts. */
function memory(): number {
  const rollup = readFileSync('/proc/self/smaps_rollup', 'utf8');
  return (1024 * Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1])) / MIB;
}

async function createAll(count: number): Promise<Vm[]> {
  const vms = await Promise.all(Array.from({ length: count }, () => Vm.create(CONFIG)));
  await Promise.all(vms.map((vm) => vm.start()));
  while (vms.some((vm) => vm.startTimes.firstInstruction === 0)) await sleep(0.5);
  return vms;
}

interface Measured {
  /** Milliseconds. */
  readonly running: number;
  readonly answered: number;
  readonly stopped: number;
  /** MiB beyond what there was before. */
  readonly memory: number;
}

async function measure(count: number, during?: (vms: readonly Vm[]) => Promise<void>): Promise<Measured> {
  const before = memory();
  const begin = performance.now();
  const vms = await createAll(count);
  try {
    const running = performance.now() - begin;
    await allAnswer(vms, 'first');
    const answered = performance.now() - begin;
    const taken = memory() - before;
    await during?.(vms);
    const stopping = performance.now();
    await Promise.all(vms.map((vm) => vm.stop()));
    return { running, answered, stopped: performance.now() - stopping, memory: taken };
  } finally {
    await Promise.all(vms.map((vm) => vm.stop()));
  }
}

/** Ends one by a fault of its guest, while the others answer; returns how many of them did. */
async function isolation([faulting, ...others]: readonly Vm[]): Promise<number> {
  await faulting.console.write(Buffer.from('fault\r'));
  await Promise.all([faulting.exited, allAnswer(others, 'second')]);
  const { reason } = await faulting.exited;
  if (reason !== 'crash') throw new Error(`the guest that was told to crash ended by ${reason}`);
  await allAnswer(others, 'third');
  return others.length;
}

export const many: Bench = {
  name: 'many',
  description: `${VMS} VMs in one process: time, memory of each, the crash of one, and what idle threads take`,
  async run() {
    // Whatever is made once per process.
    await measure(1);
    await Vm.cooldown();
    const one = await measure(1);
    await Vm.cooldown();
    let unharmed = 0;
    const cold = await measure(VMS, async (vms) => {
      unharmed = await isolation(vms);
    });
    await Vm.cooldown();
    const beforeWarm = memory();
    const warming = performance.now();
    await Vm.prewarm(CONFIG, { vms: VMS });
    const warmed = performance.now() - warming;
    const idle = memory() - beforeWarm;
    const warm = await measure(VMS);
    await Vm.cooldown();
    const each = (name: string, value: number, reference: number): Figure =>
      compared(name, 'ms', value / VMS, reference);
    return [
      each('cold: until all run, each, against one', cold.running, one.running),
      each('  until all have answered', cold.answered, one.answered),
      each('  until all are stopped', cold.stopped, one.stopped),
      each('prewarmed: until all run, each, against one cold', warm.running, one.running),
      each('  until all have answered', warm.answered, one.answered),
      compared('memory of each, against one', 'MiB', cold.memory / VMS, one.memory),
      { name: 'VMs that answer after one has crashed', value: unharmed, unit: `of ${VMS - 1}` },
      { name: 'prewarming, each', value: warmed / VMS, unit: 'ms' },
      { name: 'memory of the idle threads of a VM', value: idle / VMS, unit: 'MiB' },
    ];
  },
};
