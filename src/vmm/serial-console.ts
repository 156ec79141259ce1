// The serial port's host end: output to a terminal, a file or listeners; input from whoever calls `write`. Main thread.

import { closeSync, openSync } from 'node:fs';
import { SerialHost } from '../devices/legacy/serial-host.js';
import type { SerialConfig } from '../config/vm-config.js';
import { errnoName } from '../platform/errno.js';
import { drainEventFd, signalEventFd } from '../platform/eventfd.js';
import { FdWatcher } from '../platform/fd-watcher.js';
import { NonBlockingOutput } from '../platform/output.js';
import type { Fd } from '../platform/units.js';
import { VmError } from './errors.js';
import type { SerialHandles } from './worker-protocol.js';

const STDOUT = 1 as Fd;
/** How long the end of a VM waits for an output that does not take the last bytes. */
const FLUSH_LIMIT_MS = 1000;
const FLUSH_RETRY_MS = 10;

/** Gets every piece of output; the bytes are a copy that it may keep. */
export type ConsoleListener = (bytes: Uint8Array) => void;

interface Output {
  /** Takes bytes: how many it took, or a negative errno. */
  write(bytes: Uint8Array): number;
  whenWritable(callback: () => void): void;
  close(): void;
}

function openOutput(config: SerialConfig): Output | undefined {
  if (config.mode === 'Tty') return new NonBlockingOutput(STDOUT);
  if (config.mode !== 'File' || config.file === undefined) return undefined;
  let fd: number;
  try {
    fd = openSync(config.file, 'w');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'error';
    throw new VmError(
      'HOST_PATH',
      `--serial file=${config.file} cannot be written (${code})`,
      'name a file in a directory where you may create files',
      error,
    );
  }
  try {
    return new NonBlockingOutput(fd as Fd);
  } finally {
    closeSync(fd);
  }
}

/** Moves bytes between the serial port's shared rings and the host. `close` releases watcher and output. */
export class SerialConsole {
  private readonly host: SerialHost;
  private readonly wakeEvent: Fd;
  private readonly output: Output | undefined;
  private readonly watcher: FdWatcher;
  private readonly listeners = new Set<ConsoleListener>();
  private readonly warn: (message: string) => void;
  private readonly input: { bytes: Uint8Array; readonly accepted: () => void }[] = [];
  private outputFailed = false;

  /** Throws VmError when the output cannot be opened. */
  constructor(config: SerialConfig, handles: SerialHandles, warn: (message: string) => void) {
    this.warn = warn;
    this.host = new SerialHost(handles.shared, () => {
      signalEventFd(handles.irqEvent);
    });
    this.wakeEvent = handles.wakeEvent;
    this.output = openOutput(config);
    this.watcher = new FdWatcher(this.wakeEvent, { readable: true }, () => {
      drainEventFd(this.wakeEvent);
      this.pushInput();
      this.pump();
    });
    this.pump();
  }

  /**
   * Types `bytes` at the guest's serial port. Resolves when all are in its receive ring (64 KiB), or when the VM has
   * ended: a source that waits for it does not pile up in memory.
   */
  write(bytes: Uint8Array): Promise<void> {
    return new Promise((accepted) => {
      this.input.push({ bytes: Uint8Array.from(bytes), accepted });
      this.pushInput();
    });
  }

  /** Calls `listener` with all output from now on. Returns the function that ends it. */
  onOutput(listener: ConsoleListener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Delivers what the guest printed last, waiting a bounded time for an output that is stuck. */
  async flush(): Promise<void> {
    for (let waited = 0; waited < FLUSH_LIMIT_MS; waited += FLUSH_RETRY_MS) {
      this.pump();
      if (this.host.pending === 0) return;
      await new Promise((resolve) => setTimeout(resolve, FLUSH_RETRY_MS));
    }
    this.warn(`${this.host.pending} bytes of console output were dropped: the output does not take them`);
  }

  close(): void {
    for (const { accepted } of this.input.splice(0)) accepted();
    if (this.host.lost > 0) this.warn(`${this.host.lost} bytes of console output were lost: the guest outran it`);
    this.watcher.close();
    this.output?.close();
  }

  private pushInput(): void {
    while (this.input.length > 0) {
      const [first] = this.input;
      const count = this.host.push(first.bytes);
      if (count < first.bytes.length) {
        first.bytes = first.bytes.subarray(count);
        return;
      }
      this.input.shift();
      first.accepted();
    }
  }

  private readonly pump = (): void => {
    // Until the ring is empty and the guest knows that it must wake us for the next byte.
    do {
      if (!this.host.drain((bytes) => this.deliver(bytes))) {
        this.output?.whenWritable(this.pump);
        return;
      }
    } while (!this.host.arm());
  };

  private deliver(bytes: Uint8Array): number {
    let taken = bytes.length;
    if (this.output !== undefined && !this.outputFailed) {
      const result = this.output.write(bytes);
      if (result < 0) {
        this.outputFailed = true;
        this.warn(`console output is discarded from here on: it cannot be written (${errnoName(-result)})`);
      } else {
        taken = result;
      }
    }
    if (taken > 0 && this.listeners.size > 0) {
      const copy = Uint8Array.from(bytes.subarray(0, taken));
      for (const listener of this.listeners) listener(copy);
    }
    return taken;
  }
}
