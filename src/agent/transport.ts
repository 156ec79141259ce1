// What the agent's half in this process needs of the VM: streams to the guest. src/vmm gives vsock's; a test, Unix sockets.

import type { Duplex } from 'node:stream';

export interface ConnectLimits {
  /** Milliseconds. */
  readonly timeout?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface AgentTransport {
  /** Opens a stream to a port of the guest. Rejects with VsockError. */
  connect(port: number, limits: ConnectLimits): Promise<Duplex>;
  /** Serves connections of the guest to a port of the host, as long as there is a VM. */
  listen(port: number, onConnection: (stream: Duplex) => void): void;
  /** Settles when the VM has ended. */
  readonly ended: Promise<unknown>;
}
