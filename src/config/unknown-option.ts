// What is said about an option that is not in the table: that Cloud Hypervisor has it and tsvmm does not, or which
// option was probably meant.

import { ConfigError } from './config-error.js';
import { nearest } from './nearest.js';

/** Cloud Hypervisor's options that do not exist here. Whoever adds one to the table takes it out of this list. */
export const CLOUD_HYPERVISOR_ONLY: readonly string[] = [
  'api-socket',
  'balloon',
  'debug-console',
  'device',
  'disk',
  'event-monitor',
  'firmware',
  'fs',
  'fw-cfg-config',
  'gdb',
  'generic-vhost-user',
  'host-data',
  'igvm',
  'ivshmem',
  'landlock',
  'landlock-rules',
  'memory-zone',
  'net',
  'no-shutdown',
  'numa',
  'pci-segment',
  'platform',
  'pmem',
  'pvmemcontrol',
  'pvpanic',
  'rate-limit-group',
  'restore',
  'rng',
  'seccomp',
  'tpm',
  'user-device',
  'vdpa',
  'watchdog',
];

/** The error for the option `given` (with its dashes) when those in `known` (without) are all there are. */
export function unknownOption(given: string, known: readonly string[]): ConfigError {
  const name = given.replace(/^-+/, '');
  if (given.startsWith('--') && CLOUD_HYPERVISOR_ONLY.includes(name)) {
    return new ConfigError(
      { option: given, label: given },
      {
        code: 'NOT_SUPPORTED',
        problem: 'an option of Cloud Hypervisor that is not supported by tsvmm',
        mend: 'Leave it out; tsvmm --help lists what there is.',
      },
    );
  }
  const near = nearest(name, known);
  const meant = near === undefined ? '' : `Did you mean ${near.length === 1 ? '-' : '--'}${near}? `;
  return new ConfigError(
    { option: given, label: given },
    { code: 'UNKNOWN_OPTION', problem: 'no such option', mend: `${meant}tsvmm --help lists what there is.` },
  );
}
