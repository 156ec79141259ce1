// The seam between a vsock connection and whatever carries its bytes on the host side.
//
// All of it runs in the I/O worker of the device; no call blocks. A Unix socket is one kind of endpoint; a shared
// ring inside the process, or a sibling VM, plugs in at the same place. Tests script one.

import type { IovecArray } from '../platform/iovec.js';

/** What an endpoint tells the connection it carries. Readiness is edge-like: it is told once, and lasts until EAGAIN. */
export interface EndpointEvents {
  /** There may be bytes to read. `ended`: the host has sent all it will, so reading goes on until it gives 0. */
  endpointReadable(ended: boolean): void;
  /** After `watchWritable(true)`: there may be room again. */
  endpointWritable(): void;
  /** The host end is gone in both directions; what it sent before can still be read. */
  endpointHungUp(): void;
  /** The host end broke off: what it sent and nobody read yet is void, and the guest is told by RST. */
  endpointReset(): void;
}

/**
 * Why a connection ended. A Unix socket looks the same to its client whatever it is; a stream of this process fails with a
 * VsockError.
 */
export type EndReason =
  /** Both directions came to their end, or the host side itself left. */
  | 'finished'
  /** The guest answered REQUEST with RST. */
  | 'refused'
  /** The guest did not answer REQUEST. */
  | 'timed-out'
  /** RST, a violation of the protocol, or the device was reset. */
  | 'reset';

/** A stream of bytes to and from the host. Calls return what the system call does, or a negative errno. */
export interface StreamEndpoint {
  /** Milliseconds that the guest has to answer the request for this connection. Absent: as long as the device gives it. */
  readonly requestTimeoutMs?: number | undefined;
  /** From now on `events` is told; the endpoint tells at once, or soon, what it is ready for already. */
  attach(events: EndpointEvents): void;
  /** Tells the host client that the guest accepted; only for connections it asked for. 0 or a negative errno. */
  accepted(localPort: number): number;
  /** Reads into entries [first, first + count) of `target`: the number of bytes, 0 at the end, or a negative errno. */
  read(target: IovecArray, first: number, count: number): number;
  /** Writes entries [first, first + count) of `source`: the number of bytes taken, or a negative errno. */
  write(source: IovecArray, first: number, count: number): number;
  /** Whether to be told of room for writing. */
  watchWritable(watch: boolean): void;
  /** The guest sends no more. */
  shutdownWrite(): void;
  /** The guest reads no more. */
  shutdownRead(): void;
  /** Releases everything; `events` hears nothing afterwards. */
  close(reason: EndReason): void;
}

/**
 * An endpoint that carries messages (SEQPACKET). `read` gives at most one message, and one that finds too little room in
 * pieces; `write` takes one message, whole or not at all.
 */
export interface MessageEndpoint extends StreamEndpoint {
  /** The length of the message that the last `read` gave some of. */
  readonly messageBytes: number;
  /** Whether the last `read` came to its end. */
  readonly messageEnded: boolean;
}

/** How the outcome of `Backend.connect` is told: at once, inside the call, or later. */
export interface ConnectOutcome {
  connected(endpoint: StreamEndpoint): void;
  refused(): void;
}

/** An attempt that is still under way. */
export interface PendingConnect {
  /** Gives up; the outcome is not told any more. */
  cancel(): void;
}

/** Where connections that the guest asks for go. */
export interface Backend {
  /** Whether SEQPACKET connections may go there as well; their endpoint is a MessageEndpoint then. */
  readonly carriesMessages?: boolean;
  /**
   * Connects guest port `guestPort` to `port`, with a VIRTIO_VSOCK_TYPE_ of socket; `undefined` when the outcome was
   * told already.
   */
  connect(port: number, outcome: ConnectOutcome, guestPort: number, type: number): PendingConnect | undefined;
}
