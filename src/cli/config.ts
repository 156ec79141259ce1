// The configuration that the command line asks for: its options, over a file if one is named. What reads files, and the
// schema library with it, is loaded only then.

import type { OptionTexts } from '../config/parse-options.js';
import { parseVmOptions } from '../config/parse-options.js';
import type { VmConfig } from '../config/vm-config.js';
import type { SubcommandName } from './options.js';
import type { RestoreRequest } from './restore.js';

/** Reads the options, and the file or the saved VM if there is one, and checks the outcome; throws ConfigError. */
export async function vmConfigOf(command: {
  readonly options: OptionTexts;
  readonly configFile: string | undefined;
  readonly restore?: RestoreRequest | undefined;
}): Promise<VmConfig> {
  const { options, configFile, restore } = command;
  if (restore !== undefined) {
    const { restoredConfigOf } = await import('./restore.js');
    return restoredConfigOf(restore, options);
  }
  if (configFile === undefined) return parseVmOptions(options);
  const { readConfigFile } = await import('../config/config-file.js');
  return parseVmOptions(options, await readConfigFile('--config', configFile));
}

export interface SubcommandOutput {
  readonly stdout: string;
  /** Lines for the user. */
  readonly notes: readonly string[];
  /** The exit status, 0 if absent. */
  readonly status?: number;
}

/** Does what a subcommand says; throws ConfigError. */
export async function runSubcommand(name: SubcommandName, args: readonly string[]): Promise<SubcommandOutput> {
  switch (name) {
    case 'config-schema': {
      const { vmConfigJsonSchema } = await import('../config/json-schema.js');
      return { stdout: json(vmConfigJsonSchema()), notes: [] };
    }
    case 'convert-config': {
      const [path = ''] = args;
      const { readDataFile } = await import('../config/config-file.js');
      const { convertFirecrackerConfig } = await import('../config/firecracker.js');
      const { config, notes } = convertFirecrackerConfig(await readDataFile(name, path), path);
      return { stdout: json(config), notes };
    }
    case 'doctor': {
      const { readSubcommandOptions } = await import('./subcommand-options.js');
      const { DOCTOR_OPTIONS, runDoctor } = await import('./doctor.js');
      const { betweenSteps } = await import('./dying.js');
      const isJson = readSubcommandOptions(args, DOCTOR_OPTIONS).some((option) => option.name === 'json');
      // The socket that it makes is there for the length of a step.
      return { ...(await betweenSteps(() => runDoctor(isJson))), notes: [] };
    }
    case 'image': {
      const { runImage } = await import('./image.js');
      return runImage(args);
    }
  }
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
