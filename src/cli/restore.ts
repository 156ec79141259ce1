// `--restore`: its grammar, which is Cloud Hypervisor's, and the configuration of the VM that comes of it. What the options
// beside it name on the host replaces what the saved VM had; what would make another machine of it is refused.

import { join } from 'node:path';
import type { ConfigBase } from '../config/assembly.js';
import { ConfigError, showValue } from '../config/config-error.js';
import { keyedGrammar, optional, required } from '../config/keyed-option.js';
import { assembleVmOptions, type OptionTexts } from '../config/parse-options.js';
import { checkRules } from '../config/rules/index.js';
import { complainWith } from '../config/rules/rule.js';
import { machineDifference } from '../config/same-machine.js';
import { path, toggle, ValueError, type ValueKind } from '../config/values.js';
import { markValid } from '../config/valid-config.js';
import type { VmConfig } from '../config/vm-config.js';

/** What is asked for by `--restore`. */
export interface RestoreRequest {
  /** The snapshot's folder. */
  readonly directory: string;
  /** Whether the guest goes on at once; absent when nothing was said. */
  readonly resume: boolean | undefined;
  /** Whether all memory is read in before; absent for what the saved VM had. */
  readonly prefault: boolean | undefined;
}

const FILE_SCHEME = 'file://';

/** A folder, as a path or with Cloud Hypervisor's scheme before it. */
const sourceUrl: ValueKind<string> = {
  metavar: 'URL',
  parse: (given) => {
    const value = path.parse(given);
    if (value.startsWith(FILE_SCHEME)) return path.parse(value.slice(FILE_SCHEME.length));
    if (!/^[a-z][a-z0-9+.-]*:\/\//i.test(value)) return value;
    throw new ValueError({
      code: 'NOT_SUPPORTED',
      problem: `${showValue(value)} is not on this host`,
      mend: 'Name a folder: file:///path, or its path alone.',
    });
  },
};

export const RESTORE = keyedGrammar({
  name: 'restore',
  help: 'Go on with a VM that was saved; options beside it replace what it had of the host (docs/snapshots.md)',
  keys: {
    source_url: required(sourceUrl, 'source_url', 'The folder: file:///path, or its path'),
    resume: optional(toggle, 'resume', 'The guest goes on at once (on; with --api-socket off)'),
    prefault: optional(toggle, 'prefault', 'All memory is read in before (as it was saved)'),
  },
  notSupported: {
    net_fds: 'Taps are opened by their names; use --net tap= beside --restore.',
    memory_restore_mode: 'Memory is always mapped, and comes when it is touched; use prefault=on to have all of it.',
  },
});

/** Reads the value of `--restore`, for which a path alone will do; throws ConfigError. */
export function readRestore(text: string): RestoreRequest {
  const pathAlone = /^[./~][^=,"[\]]*$/.test(text);
  const { source_url, resume, prefault } = RESTORE.values(pathAlone ? `source_url=${text}` : text);
  return { directory: source_url, resume, prefault };
}

/**
 * The configuration of the VM in `directory` with what `options` say instead, checked. Throws ConfigError, or VmError
 * SNAPSHOT.
 */
export async function restoredConfigOf(
  { directory, prefault }: RestoreRequest,
  options: OptionTexts,
): Promise<VmConfig> {
  const { readSavedConfig } = await import('../vmm/snapshot/read.js');
  const saved = await readSavedConfig(directory);
  const { CONFIG_FILE } = await import('../vmm/snapshot/format.js');
  const base: ConfigBase = {
    config: prefault === undefined ? saved : { ...saved, memory: { ...saved.memory, prefault } },
    hasSerial: true,
    file: join(directory, CONFIG_FILE),
    devicesFixed: true,
  };
  const { config, names } = assembleVmOptions(options, base);
  const difference = machineDifference(saved, config);
  if (difference !== undefined) {
    const { field, saved: before, wanted } = difference;
    const had = before === undefined ? 'none' : showValue(before);
    complainWith(names)(field, wanted, {
      code: 'CONFLICT',
      problem: `the saved VM had ${had}, and its guest knows it so`,
      mend: 'Leave it out; beside --restore only what is of the host can be replaced (docs/snapshots.md).',
    });
  }
  checkRules(config, names);
  return markValid(config);
}

/**
 * Whether the guest is to go on at once. It does unless something else can let it: `controllable` says that there is such.
 * Throws ConfigError.
 */
export function resumesAtOnce({ resume }: RestoreRequest, controllable: boolean): boolean {
  if (controllable) return resume ?? false;
  if (resume !== false) return true;
  throw new ConfigError(
    { option: '--restore', key: 'resume', value: resume, label: '--restore resume' },
    {
      code: 'CONFLICT',
      problem: 'off, and nobody could let the guest go on',
      mend: 'Leave it out, or add --api-socket, whose vm.resume does it.',
    },
  );
}
