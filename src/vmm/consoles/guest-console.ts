// One console of the guest, as the main thread has it: output goes from the device's ring to the host's end and to
// listeners, input from that end and from whoever calls `write` into the device's ring. Main thread.

import type { Duplex } from 'node:stream';
import { errnoName } from '../../platform/errno.js';
import { drainEventFd } from '../../platform/eventfd.js';
import { FdWatcher } from '../../platform/fd-watcher.js';
import { KIB, type Fd } from '../../platform/units.js';
import { ConsoleReader, type WaitOptions } from './console-reader.js';
import type { ConsoleInput, HostEnd } from './host-end.js';
import type { ConsoleMatch } from './output-search.js';

/** How long the end of a VM waits for an output that does not take the last bytes. */
const FLUSH_LIMIT_MS = 1000;
const FLUSH_RETRY_MS = 10;

/** Gets every piece of output; the bytes are a copy that it may keep. */
export type ConsoleListener = (bytes: Uint8Array) => void;

/** The host's end of a console device's shared rings. */
export interface ConsolePort {
  /** Bytes that the guest printed and nobody took yet. */
  readonly pending: number;
  /** Bytes that the guest printed without room for them. */
  readonly lost: number;
  /** Offers what was printed until all is taken or `into` takes less than it was offered; whether all was taken. */
  drain(into: (bytes: Uint8Array) => number): boolean;
  /** Asks for a wake-up at the next byte; false when there is something to drain already. */
  arm(): boolean;
  /** Types: how many bytes were accepted; a wake-up comes when there is room again. Absent: the device takes none. */
  push?(bytes: Uint8Array): number;
}

/** What the library offers of a console. */
export interface VmConsole {
  /** Where other programs reach it: the terminal's path with mode `Pty`, the socket's with `Socket`, else undefined. */
  readonly path: string | undefined;
  /**
   * Types `input`, text as UTF-8, at the guest; most take `\r` or `\n` as the Enter key, the built-in one `\r`. Resolves
   * when the device has all of it (64 KiB fit before the guest reads), or when the VM has ended: a source that waits for it
   * does not pile up in memory.
   */
  write(input: Uint8Array | string): Promise<void>;
  /** Calls `listener` with all output from now on; returns the function that ends it. */
  onOutput(listener: ConsoleListener): () => void;
  /** How many bytes the guest has printed since the VM was created. */
  readonly printed: number;
  /** What it printed last, at most `bytes` (64 KiB unless told), as text. All of the last 16 MiB is kept. */
  tail(bytes?: number): string;
  /**
   * Waits until `pattern` is in what was printed since the first byte, of which the last 16 MiB are kept. A match of a
   * RegExp may begin at most 64 KiB before what is new. Rejects with ConsoleError TIMED_OUT, ENDED (with the VM), ABORTED
   * or NO_CONSOLE, which have the end of the output, and with RangeError.
   *
   * @example
   * ```ts
   * import { Vm } from 'tsvmm';
   *
   * await using vm = await Vm.create({ serial: { mode: 'Null' } });
   * await vm.start();
   * const prompt = await vm.console.waitFor(/^> /m, { timeout: 10_000 });
   * await vm.console.write('help\r');
   * const { text } = await vm.console.waitFor(/^> /m, { timeout: 10_000, from: prompt.end });
   * ```
   */
  waitFor(pattern: string | RegExp, options?: WaitOptions): Promise<ConsoleMatch>;
  /**
   * The console as a Node Duplex: reading begins with the first byte that is kept, writing types. It ends with the VM. A
   * reader never makes the guest wait; one that falls 16 MiB behind fails with ConsoleError FELL_BEHIND.
   */
  stream(): Duplex;
}

/** What `tail` gives unless told. */
export const DEFAULT_TAIL_BYTES = 64 * KIB;

/** `close` releases the watcher and the host's end. */
export class GuestConsole implements VmConsole {
  private readonly port: ConsolePort;
  private readonly wakeEvent: Fd;
  private readonly end: HostEnd | undefined;
  private readonly watcher: FdWatcher;
  private readonly listeners = new Set<ConsoleListener>();
  private readonly reader = new ConsoleReader();
  private readonly warn: (message: string) => void;
  private readonly input: { bytes: Uint8Array; readonly accepted: () => void }[] = [];
  private outputFailed = false;
  private closed = false;

  /**
   * `wakeEvent` is signalled when `port` has something for the host; it stays the caller's. `openEnd` opens the end on the
   * host, if there is one, and throws what that throws.
   */
  constructor(
    port: ConsolePort,
    wakeEvent: Fd,
    openEnd: (input: ConsoleInput) => HostEnd | undefined,
    warn: (message: string) => void,
  ) {
    this.port = port;
    this.wakeEvent = wakeEvent;
    this.warn = warn;
    this.end = openEnd((bytes) => this.write(bytes));
    this.watcher = new FdWatcher(wakeEvent, { readable: true }, () => {
      drainEventFd(this.wakeEvent);
      this.pushInput();
      this.pump();
    });
    this.pump();
  }

  get path(): string | undefined {
    return this.end?.path;
  }

  write(input: Uint8Array | string): Promise<void> {
    if (this.closed || this.port.push === undefined) return Promise.resolve();
    const bytes = typeof input === 'string' ? Buffer.from(input) : Uint8Array.from(input);
    return new Promise((accepted) => {
      this.input.push({ bytes, accepted });
      this.pushInput();
    });
  }

  onOutput(listener: ConsoleListener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  get printed(): number {
    return this.reader.printed;
  }

  tail(bytes = DEFAULT_TAIL_BYTES): string {
    return this.reader.tail(bytes);
  }

  waitFor(pattern: string | RegExp, options: WaitOptions = {}): Promise<ConsoleMatch> {
    return this.reader.waitFor(pattern, options);
  }

  stream(): Duplex {
    return this.reader.stream((bytes) => this.write(bytes));
  }

  /** Delivers what the guest printed last, waiting a bounded time for an output that is stuck. That was all then. */
  async flush(): Promise<void> {
    await this.deliverRest();
    this.reader.end();
  }

  close(): void {
    this.closed = true;
    this.reader.end();
    for (const { accepted } of this.input.splice(0)) accepted();
    if (this.port.lost > 0) this.warn(`${this.port.lost} bytes of console output were lost: the guest outran it`);
    this.watcher.close();
    this.end?.close();
  }

  private async deliverRest(): Promise<void> {
    for (let waited = 0; waited < FLUSH_LIMIT_MS; waited += FLUSH_RETRY_MS) {
      this.pump();
      if (this.port.pending === 0 && this.end?.settled !== false) return;
      await new Promise((resolve) => setTimeout(resolve, FLUSH_RETRY_MS));
    }
    const { pending } = this.port;
    if (pending > 0) this.warn(`${pending} bytes of console output were dropped: the output does not take them`);
  }

  private pushInput(): void {
    while (this.input.length > 0) {
      const [first] = this.input;
      const count = this.port.push?.(first.bytes) ?? 0;
      if (count < first.bytes.length) {
        first.bytes = first.bytes.subarray(count);
        return;
      }
      this.input.shift();
      first.accepted();
    }
  }

  private readonly pump = (): void => {
    if (this.closed) return;
    // Until the ring is empty and the guest knows that it must wake us for the next byte.
    do {
      if (!this.port.drain(this.deliver)) {
        this.end?.whenWritable(this.pump);
        return;
      }
    } while (!this.port.arm());
  };

  private readonly deliver = (bytes: Uint8Array): number => {
    let taken = bytes.length;
    if (this.end !== undefined && !this.outputFailed) {
      const result = this.end.write(bytes);
      if (result < 0) {
        this.outputFailed = true;
        this.warn(`console output is discarded from here on: it cannot be written (${errnoName(-result)})`);
      } else {
        taken = result;
      }
    }
    if (taken > 0) this.reader.append(bytes.subarray(0, taken));
    if (taken > 0 && this.listeners.size > 0) {
      const copy = Uint8Array.from(bytes.subarray(0, taken));
      for (const listener of this.listeners) listener(copy);
    }
    return taken;
  };
}
