// How many port I/O exits a second the vCPU worker answers, against a C loop around the same ioctl.
//
// Both guests execute `out %al, $0x80; jmp` in 64-bit mode: every exit is one trip to user space and back.

import { execFileSync } from 'node:child_process';
import { Vm } from '../src/vmm/vm.js';
import { DEFAULT_VM_CONFIG } from '../src/config/vm-config.js';
import { buildReference, compared, median, sleep, type Bench } from './harness.js';

const ROUNDS = 5;
const SECONDS_PER_ROUND = 1;

/** Exits a second of the guest built into tsvmm, told to do nothing else. */
async function measureWorker(): Promise<number> {
  const vm = await Vm.create({
    ...DEFAULT_VM_CONFIG,
    memory: { size: 64 << 20 },
    serial: { mode: 'Off' },
    payload: { cmdline: 'tsvmm.bench=pio' },
  });
  try {
    await vm.start();
    while (vm.exitCount < 1000) await sleep(1);
    const startTime = performance.now();
    const startCount = vm.exitCount;
    await sleep(SECONDS_PER_ROUND * 1000);
    return ((vm.exitCount - startCount) / (performance.now() - startTime)) * 1000;
  } finally {
    await vm.stop();
  }
}

export const exits: Bench = {
  name: 'exits',
  description: 'port I/O exits a second in the vCPU worker, against a C loop',
  async run(work) {
    const program = buildReference(work, 'exits');
    const ours: number[] = [];
    const theirs: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      ours.push(await measureWorker());
      theirs.push(Number(execFileSync(program, [String(SECONDS_PER_ROUND)], { encoding: 'utf8' })));
    }
    return [compared('port I/O exits', 'exits/s', median(ours), median(theirs))];
  },
};
