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

/** One vsock connection of a guest, as it was at a moment. */
export interface ConnectionInfo {
  /** Bytes, or messages with their boundaries. */
  readonly type: 'stream' | 'seqpacket';
  /** The guest's port. */
  readonly guestPort: number;
  /** The other side: CID 2 is the host. */
  readonly peerCid: number;
  /** The other side's port. */
  readonly peerPort: number;
  /**
   * `connecting`: the host side is being reached for the guest. `requested`: the guest is to answer. `established`: open.
   * `closing`: one side is done, or both. `draining`: the guest has gone, and its last bytes are still on their way.
   */
  readonly state: 'connecting' | 'requested' | 'established' | 'closing' | 'draining' | 'closed';
  /** Bytes that the guest was given. */
  readonly rxBytes: number;
  /** Bytes that the host side was given. */
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
