// What a connection looks like from outside: plain data that crosses threads, made when somebody asks.

import {
  CLOSED,
  CLOSING,
  CONNECTING,
  DRAINING,
  ESTABLISHED,
  REQUESTED,
  type Connection,
  type ConnectionState,
} from './connection.js';
import { VIRTIO_VSOCK_TYPE_SEQPACKET } from './packet.js';

export interface ConnectionInfo {
  readonly type: 'stream' | 'seqpacket';
  readonly guestPort: number;
  /** The other side: CID 2 is the host. */
  readonly peerCid: number;
  readonly peerPort: number;
  /** See connection.ts. */
  readonly state: 'connecting' | 'requested' | 'established' | 'closing' | 'draining' | 'closed';
  /** Bytes that the guest was given, and that the host side was. */
  readonly rxBytes: number;
  readonly txBytes: number;
  /** Bytes that the guest could be sent now. */
  readonly rxCredit: number;
  /** There is something for the guest, and no credit for it. */
  readonly rxStalled: boolean;
  /** Bytes from the guest that wait for the host side. */
  readonly txWaiting: number;
}

const STATE_NAMES: Readonly<Record<ConnectionState, ConnectionInfo['state']>> = {
  [CONNECTING]: 'connecting',
  [REQUESTED]: 'requested',
  [ESTABLISHED]: 'established',
  [CLOSING]: 'closing',
  [DRAINING]: 'draining',
  [CLOSED]: 'closed',
};

export function describeConnection(connection: Connection): ConnectionInfo {
  const { guestPort, peerCid, peerPort, rxBytes, txBytes, sendCredit } = connection;
  return {
    type: connection.type === VIRTIO_VSOCK_TYPE_SEQPACKET ? 'seqpacket' : 'stream',
    guestPort,
    peerCid,
    peerPort,
    state: STATE_NAMES[connection.state],
    rxBytes,
    txBytes,
    rxCredit: Math.max(0, sendCredit.bufAlloc - sendCredit.inFlight),
    rxStalled: connection.creditStalled,
    txWaiting: connection.receiveCredit.buffered,
  };
}

/** One line for a log. */
export function connectionLine(info: ConnectionInfo): string {
  const { type, guestPort, peerCid, peerPort, rxBytes, txBytes } = info;
  return `${type} ${guestPort} with ${peerCid}:${peerPort}, ${rxBytes} bytes to the guest, ${txBytes} from it`;
}
