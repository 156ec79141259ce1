// How the agent's half in this process reaches its guest. Main thread.

import type { AgentTransport } from '../agent/transport.js';
import { FaultLog } from '../devices/fault-log.js';
import type { VmLog } from './vm-options.js';
import type { VmVsock } from './vm-vsock.js';

/** `ended` settles when the VM has. What goes wrong with connections is logged, at a bounded rate. */
export function agentTransport(vsock: VmVsock, ended: Promise<unknown>, log: VmLog): AgentTransport {
  const faults = new FaultLog(
    (message) => {
      log('warn', 'agent', message);
    },
    () => performance.now(),
  );
  return {
    connect: (port, limits) => vsock.connect(port, limits),
    listen: (port, onConnection) => {
      vsock.listen(port, onConnection);
    },
    ended,
    warn: (message) => {
      faults.note(message);
    },
  };
}
