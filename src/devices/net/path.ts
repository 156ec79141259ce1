// What the paths of either direction share.

/** What a turn of a path found. */
export const IDLE = 0;
export const WORKED = 1;
/** The driver has broken the ring: only a reset of the device helps. */
export const BROKEN = 2;
export type PathResult = typeof IDLE | typeof WORKED | typeof BROKEN;

/** What the paths of a device have in common. */
export interface PathContext {
  /** See NET_COUNTERS. */
  readonly counters: Float64Array;
  /** The guest broke the protocol, or the tap refused something; logged at a bounded rate. */
  readonly note: (what: string, detail?: number) => void;
  /** A tap queue can no longer be read, for this errno (0: it has ended). */
  readonly lost: (errno: number) => void;
}
