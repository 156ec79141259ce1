// All rules, in the order in which they are asked.

import type { VmConfig } from '../vm-config.js';
import { checkCpus, checkMemory, checkPayload, checkSerial } from './machine.js';
import { complainWith, type FieldNames } from './rule.js';
import { checkVsock } from './vsock.js';

/** Throws the first ConfigError there is to find in a configuration whose types are right already. */
export function checkRules(config: VmConfig, names: FieldNames): void {
  const complain = complainWith(names);
  checkCpus(config.cpus, complain);
  checkMemory(config.memory, complain);
  checkPayload(config.payload, complain);
  checkSerial(config.serial, complain);
  if (config.vsock !== undefined) checkVsock(config.vsock, complain);
}
