// A monitor as a process of its own, for tests that limit what a process may use: the built-in guest with a vsock socket
// at the path given, and what the VM has to say on standard error. SIGTERM ends it.

import { once } from 'node:events';
import { Vm } from '../../src/vmm/vm.js';
import { testConfig } from './vms.js';

const vm = await Vm.create(testConfig({ vsock: { cid: 3, socket: process.argv[2] } }), {
  log: (level, component, message) => process.stderr.write(`${level} ${component}: ${message}\n`),
});
await vm.start();
await once(process, 'SIGTERM');
await vm.stop();
