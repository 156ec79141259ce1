// The vsock device as it crosses to its I/O worker.

import type { Fd } from '../platform/units.js';
import type { InProcessHandles } from '../vsock/in-process/host.js';
import type { PeerSocket } from '../vsock/sibling.js';

export interface VsockSettings {
  readonly kind: 'vsock';
  readonly guestCid: number;
  readonly socketPath: string | undefined;
  readonly listener: Fd | undefined;
  readonly seqpacketListener: Fd | undefined;
  /** `inProcess.port` is transferred with the message. */
  readonly inProcess: InProcessHandles;
  readonly peers: readonly PeerSocket[] | undefined;
  readonly maxConnections: number | undefined;
  readonly bufAlloc: number | undefined;
  readonly connectTimeoutMs: number | undefined;
  /** Whether to log each connection that ends. */
  readonly logConnections: boolean;
  /** See VsockCounters. */
  readonly counters: SharedArrayBuffer;
}
