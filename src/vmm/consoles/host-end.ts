// Where a console of the guest ends on the host, whatever kind of end that is. Main thread.

/** Takes what was typed; resolves when the guest has taken it, which is when the end may go on reading. */
export type ConsoleInput = (bytes: Uint8Array) => Promise<void>;

/** An end that is open. It belongs to one console, which closes it. */
export interface HostEnd {
  /** Where other processes find it: a socket or a terminal. */
  readonly path?: string;
  /** Takes bytes: how many it took (0: none now), or a negative errno when it takes no more for good. */
  write(bytes: Uint8Array): number;
  /** Calls back once, when `write` may take bytes again. */
  whenWritable(callback: () => void): void;
  /** Whether what was written would survive `close`. Absent: always. */
  readonly settled?: boolean;
  close(): void;
}
