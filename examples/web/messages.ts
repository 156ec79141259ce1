// What the server and the page say to each other: types only, for both programs. All of it is JSON.

/** What the VM does. `ended` is for good. */
export type MachineState = 'running' | 'paused' | 'ended';

/** `from-guest` reads /bytes/N of the guest's web server, `to-guest` writes to its discard port, `echo` does both at once. */
export type TransferKind = 'from-guest' | 'to-guest' | 'echo';

/** One transfer, under way or the last of its kind. */
export interface Transfer {
  readonly id: number;
  readonly kind: TransferKind;
  /** Bytes that were asked for. */
  readonly bytes: number;
  /** Bytes that went through so far, each way for `echo`. */
  readonly done: number;
  /** Milliseconds since it began, or that it took. */
  readonly elapsed: number;
  readonly state: 'running' | 'done' | 'stopped' | 'failed';
  /** Why it failed. */
  readonly problem?: string;
}

export interface Status {
  readonly state: MachineState;
  /** How it ended, in words. */
  readonly end?: string;
  readonly memory: number;
  readonly cid: number;
  readonly transfers: readonly Transfer[];
}

/** What the vsock device has counted, at a time of the server's clock. */
export interface Sample {
  /** Milliseconds since the server started. */
  readonly at: number;
  /** Payload bytes since the VM was created. */
  readonly toGuest: number;
  readonly fromGuest: number;
  /** Open vsock connections; null while that cannot be known. */
  readonly connections: number | null;
}

/** Console output; positions count bytes since the first one printed. */
export interface ConsolePiece {
  readonly from: number;
  readonly to: number;
  /** The bytes, in base64. */
  readonly bytes: string;
}

/** The events of /events, by name. `begin` comes first: with `afresh`, what the page has shown so far is of no use. */
export interface ServerEvents {
  readonly begin: { readonly afresh: boolean };
  readonly status: Status;
  readonly console: ConsolePiece;
  readonly samples: readonly Sample[];
}

/** The body of POST /api/console. */
export interface Typed {
  readonly text: string;
}

/** The body of POST /api/transfers. */
export interface TransferRequest {
  readonly kind: TransferKind;
  readonly bytes: number;
}

/** How often the server samples, and how long it keeps samples. */
export const SAMPLE_MS = 250;
export const KEPT_SECONDS = 60;
