// What the pool and its threads tell each other, beside what a VM and its threads do (`worker-protocol.ts`).

/** The shared word of a thread: who may decide about it. */
export const LEASE_FREE = 0;
/** A VM has it. */
export const LEASE_TAKEN = 1;
/** It ends. */
export const LEASE_ENDING = 2;

/** `workerData` of a pooled thread. */
export interface ServiceData {
  readonly lease: Int32Array;
  /** See LoadingMark. */
  readonly loading: SharedArrayBuffer;
  /** Code to be loaded before the thread says that it is. */
  readonly preload: readonly string[];
}

export type ToService =
  /** Serve a VM; `start` is what the entry understands. */
  | { readonly type: 'start'; readonly start: unknown }
  /** Wait for the next one, for so long at most; 0: for ever. */
  | { readonly type: 'rest'; readonly limitMs: number }
  | { readonly type: 'end' };

/** Beside the VM's own messages, which have other types. */
export type FromService =
  | { readonly type: 'loaded' }
  /** The VM is through and has left nothing in the thread. */
  | { readonly type: 'done' };
