// What the agent's half in this process needs of the VM: streams to the guest. src/vmm gives vsock's; a test, Unix sockets.

import type { Duplex } from 'node:stream';

export interface ConnectLimits {
  /** Milliseconds. */
  readonly timeout?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Wait for the guest's driver instead of failing with DRIVER_NOT_READY. */
  readonly waitForDriver?: boolean | undefined;
}

export interface AgentTransport {
  /** Opens a stream to a port of the guest. Rejects with VsockError. */
  connect(port: number, limits: ConnectLimits): Promise<Duplex>;
  /** Serves connections of the guest to a port of the host, as long as there is a VM. */
  listen(port: number, onConnection: (stream: Duplex) => void): void;
  /** Settles when the VM has ended. */
  readonly ended: Promise<unknown>;
  /** Tells whoever reads the VM's log of a connection that failed; not at any rate that a guest likes. */
  readonly warn?: (message: string) => void;
}
