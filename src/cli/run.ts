// Runs one VM from the command line: wires the terminal and the signals to it, waits for its end, says how it ended.

import type { VmConfig } from '../config/vm-config.js';
import { attend, report, type RunnableVm } from './attend.js';
import { Ending } from './ending.js';
import type { Host } from './host.js';
import type { LogFunction } from './logging.js';

export type CreateVm = (config: VmConfig, options: { log: LogFunction }) => Promise<RunnableVm>;

/** Creates the VM, runs it to its end and returns the exit status. Throws what creating throws, or the VM's failure. */
export async function runVm(
  config: VmConfig,
  createVm: CreateVm,
  log: LogFunction,
  host: Host,
  graceMs = 0,
): Promise<number> {
  const ending = new Ending(host, graceMs);
  try {
    const vm = await createVm(config, { log });
    ending.setVm(vm);
    const leave = attend(config, vm, host, ending);
    try {
      // A signal may have come while the VM was made; then it has been stopped already.
      if (!ending.requested) await vm.start();
      const end = await vm.exited;
      leave();
      return report(end, ending, host);
    } finally {
      leave();
    }
  } finally {
    ending.close();
  }
}
