// A process of test/vmm/attach/block.test.ts: holds a disk image until it is killed.
// Arguments: path, `rw` or `ro`. Prints `held`, or the error's code.

import { openDiskFile } from '../../../src/vmm/attach/disk-file.js';
import { VmError } from '../../../src/vmm/errors.js';
import { ReleaseStack } from '../../../src/vmm/release-stack.js';

const [, , path, mode] = process.argv;
const context = { resources: new ReleaseStack(), log: () => undefined };
try {
  openDiskFile('--disk', path, { readOnly: mode === 'ro', direct: false }, context, new Uint8Array(512));
  console.log('held');
  // The descriptor goes with the process.
  setInterval(() => undefined, 60_000);
} catch (error) {
  console.log(error instanceof VmError ? error.code : String(error));
}
