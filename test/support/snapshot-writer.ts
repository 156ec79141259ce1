// A process that saves its VM over one folder again and again until it is killed: for tests of what a crash leaves there.
// Every other save is a diff. Between two saves the guest counts one connection more. Arguments: the snapshot to begin with, and the folder.

import { once } from 'node:events';
import { Vm } from '../../src/vmm/vm.js';

const [from = '', folder = ''] = process.argv.slice(2);
const vm = await Vm.restore(from);
await vm.resume();
for (let diff = false; ; diff = !diff) {
  const stream = await vm.vsock.connect(7);
  stream.end('x');
  stream.resume();
  await once(stream, 'end');
  await vm.snapshot(folder, { diff });
  process.stdout.write('saved\n');
}
