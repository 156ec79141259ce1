/**
 * A virtual machine as an object: made, started, paused, saved, brought back and stopped.
 *
 * Everything here runs on the main thread and returns at once or by a promise; vCPUs and devices have threads of their own.
 *
 * @module virtual-machines
 */

export { BootError, type BootErrorCode } from '../boot/errors.js';
export { VmError, type VmErrorCode } from '../vmm/errors.js';
export type { VmExit } from '../vmm/exit.js';
export type { SnapshotOverrides } from '../vmm/snapshot/overrides.js';
export type { StartTimes } from '../vmm/start-times.js';
export {
  Vm,
  type LogLevel,
  type PrewarmOptions,
  type RestoreOptions,
  type SnapshotOptions,
  type StopOptions,
  type VmBalloon,
  type VmConsoles,
  type VmLog,
  type VmOptions,
} from '../vmm/vm.js';
