// What the main thread and the I/O worker tell each other about streams, beside the rings: plain data only.
//
// To the worker these go through a message port that is read when bell slot CONTROL_SLOT says so, since the worker
// blocks outside JavaScript; to the main thread they come as ordinary messages.

import type { Fd } from '../../platform/units.js';
import type { ConnectionInfo } from '../connection-info.js';
import type { EndReason } from '../endpoint.js';

/** The bell slot that means: there are control messages. */
export const CONTROL_SLOT = 0;

/** Slots below this keep their memory when a stream ends; those above give it back. Known to both threads. */
export const KEPT_SLOTS = 32;

/** What the threads share from the start. */
export interface InProcessShared {
  readonly toWorker: SharedArrayBuffer;
  readonly toMain: SharedArrayBuffer;
  /** Wakes the I/O worker. */
  readonly workerEvent: Fd;
  /** Wakes the main thread. */
  readonly mainEvent: Fd;
}

export type HostMessage =
  /** Ask the guest for a connection. `memory` is left out where the worker has it from the slot's last stream. */
  | {
      readonly op: 'connect';
      readonly slot: number;
      readonly port: number;
      readonly memory: SharedArrayBuffer | undefined;
      readonly waitForDriver: boolean;
      /** Milliseconds that the guest has to answer, when the caller says. */
      readonly timeout: number | undefined;
    }
  /** The answer to `incoming`. */
  | {
      readonly op: 'accept';
      readonly token: number;
      readonly slot: number;
      readonly memory: SharedArrayBuffer | undefined;
    }
  | { readonly op: 'refuse'; readonly token: number }
  | { readonly op: 'listen' | 'unlisten'; readonly port: number }
  /** The guest's own CID changes. */
  | { readonly op: 'set-cid'; readonly cid: number }
  /** Asks for `connections`. */
  | { readonly op: 'list'; readonly token: number }
  /** Whether to tell of connections by `changes`. */
  | { readonly op: 'watch'; readonly on: boolean }
  /** The main thread has taken the last `changes`. */
  | { readonly op: 'heard' }
  /** The guest with `cid` is, or is no longer, in this process: connections to it go there by `join`. */
  | { readonly op: 'sibling'; readonly cid: number; readonly direct: boolean }
  /** Ask the guest for a connection to `port` on behalf of a sibling, which speaks at `fd` (now the worker's). */
  | { readonly op: 'adopt'; readonly fd: Fd; readonly port: number; readonly from: PeerAddress };

/** Who begins a connection that is not the host's. */
export interface PeerAddress {
  readonly cid: number;
  readonly port: number;
}

/** A connection was established or, with a reason, has ended. */
export interface ConnectionChange {
  readonly connection: ConnectionInfo;
  readonly reason: EndReason | undefined;
}

export type WorkerMessage =
  /** The guest asks for a connection to a port that is listened at. */
  | { readonly op: 'incoming'; readonly token: number; readonly port: number; readonly guestPort: number }
  /** The guest asks for a connection to a sibling in this process, whose end of it is `fd` (now the main thread's). */
  | { readonly op: 'join'; readonly cid: number; readonly port: number; readonly guestPort: number; readonly fd: Fd }
  /** The answer to `list`. */
  | { readonly op: 'connections'; readonly token: number; readonly connections: readonly ConnectionInfo[] }
  /** What happened since the last ones, and how much more than is here. No others come before `heard`. */
  | { readonly op: 'changes'; readonly changes: readonly ConnectionChange[]; readonly missed: number }
  /** The worker has taken over the descriptor of an `adopt`. */
  | { readonly op: 'adopted'; readonly fd: Fd };
