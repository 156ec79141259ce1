// Blocks that are not run. JSON and YAML that are no command's input in their document: the product's own readers take them.
// Samples: test/docs/samples.test.ts compiles all of them, so nothing is left to do here.

import { join } from 'node:path';
import { readConfigFile, readDataFile } from '../../../src/config/config-file.js';
import { convertFirecrackerConfig } from '../../../src/config/firecracker.js';
import { parseVmOptions } from '../../../src/config/parse-options.js';
import { planTests } from '../../../src/boottest/plan.js';
import { readSpec } from '../../../src/boottest/spec.js';
import type { Scratch } from './scratch.js';
import type { Step } from './sessions.js';
import { replaced } from './step-text.js';

/** Each throws what is wrong with the file. */
const CHECKS: Readonly<Record<string, (file: string) => Promise<unknown>>> = {
  /** A file for --config. */
  config: async (file) => parseVmOptions(new Map(), await readConfigFile('--config', file)),
  /** A spec of tsvmm test. */
  'boot-tests': async (file) => planTests(await readSpec(file)),
  firecracker: async (file) => convertFirecrackerConfig(await readDataFile('FILE', file), file),
  /** Well-formed JSON or YAML. */
  syntax: (file) => readDataFile('FILE', file),
};

export async function checkData(kind: string, step: Step, scratch: Scratch): Promise<void> {
  if (step.kind === 'sample') {
    if (kind !== 'types') throw new Error('a sample that is not run says check=types');
    return;
  }
  if (!Object.hasOwn(CHECKS, kind)) throw new Error(`check=${kind}: there are ${Object.keys(CHECKS).join(', ')}`);
  const file = join(scratch.work, `line-${step.line}.${step.language}`);
  scratch.write(file, replaced(step));
  await CHECKS[kind](file);
}
