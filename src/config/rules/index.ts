// All rules, in the order in which they are asked.

import { checkPorts } from './ports.js';
import type { VmConfig } from '../vm-config.js';
import { checkConsoles, checkDebugConsole } from './consoles.js';
import { checkCpus } from './cpus.js';
import { checkDisks, checkPmem } from './disks.js';
import { checkReadableFile } from './files.js';
import { checkDeviceCount, checkIds, checkPaths } from './machine-wide.js';
import { checkBalloon, checkMemory } from './memory.js';
import { checkNet } from './net.js';
import { checkCount } from './numbers.js';
import { checkNeedsAcpi, checkPayload } from './payload.js';
import { complainWith, type FieldNames } from './rule.js';
import { checkVsock } from './vsock.js';

/** Each thread takes some 45 ms to start and some MiB; more than this is a slip. */
const MAX_IO_THREADS = 64;

/** Throws the first ConfigError there is to find in a configuration whose types are right already. */
export function checkRules(config: VmConfig, names: FieldNames): void {
  const complain = complainWith(names);
  const { cpus, memory, payload, serial, console, debug_console, disks, net, pmem, vsock, rng, balloon } = config;
  checkCpus(cpus, complain);
  checkMemory(memory, complain);
  checkPayload(payload, complain);
  checkConsoles(serial, console, complain);
  if (debug_console !== undefined) checkDebugConsole(debug_console, complain);
  if (disks !== undefined) checkDisks(disks, complain);
  if (pmem !== undefined) checkPmem(pmem, complain);
  if (net !== undefined) checkNet(net, complain);
  if (vsock !== undefined) checkVsock(vsock, complain);
  checkPorts(config, complain);
  if (rng !== undefined) checkReadableFile(complain, 'rng.src', rng.src);
  if (balloon !== undefined) checkBalloon(balloon, memory.size, complain);
  if (config.io_threads !== undefined) {
    checkCount(complain, 'io_threads', config.io_threads, { min: 1, max: MAX_IO_THREADS, unit: 'threads' });
  }
  checkNeedsAcpi(config, complain);
  checkIds(config, complain);
  checkPaths(config, complain);
  checkDeviceCount(config, complain);
}
