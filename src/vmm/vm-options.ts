// What is said about a VM beside its configuration: types of the calls of `Vm`.

import type { VmEvent } from './events.js';
import type { SnapshotOverrides } from './snapshot/overrides.js';
import type { LogLevel } from './worker-protocol.js';

/** Receives what the VM has to say: a line each, from `component`, such as `vmm` or `vsock`. Called on the main thread. */
export type VmLog = (level: LogLevel, component: string, message: string) => void;

/** How a VM is watched. */
export interface VmOptions {
  /** Gets the log of this VM, all levels. Without it nothing is said. */
  readonly log?: VmLog;
  /** With 'debug' the log has a line about every vsock connection that ends, which otherwise is not even put together. */
  readonly logLevel?: LogLevel;
  /** Hears every event from the beginning, those about vsock connections only with `logLevel` 'debug'. */
  readonly onEvent?: (event: VmEvent) => void;
}

/** What is otherwise than it was saved, and how the VM is watched. */
export interface RestoreOptions extends VmOptions {
  /** What to put over the saved configuration. */
  readonly overrides?: SnapshotOverrides;
}

/** How a snapshot is taken. */
export interface SnapshotOptions {
  /**
   * Writes only the memory that has changed since the VM was restored, as a diff of the snapshot that it was restored from
   * (or of that one's base), which must stay where it is. Without it the snapshot is whole.
   */
  readonly diff?: boolean | undefined;
}

/** How a VM is stopped. */
export interface StopOptions {
  /**
   * Milliseconds that the guest has to shut down after its power button was pressed; then the plug is pulled. Another
   * `stop` without it does not wait. 0: pulled at once.
   */
  readonly graceMs?: number | undefined;
}

/** For how much `Vm.prewarm` prepares. */
export interface PrewarmOptions {
  /** How many VMs, made at once, are to find their threads loaded; 1 if it is not given. */
  readonly vms?: number;
}
