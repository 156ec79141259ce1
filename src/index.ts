// The library's public face: what `import ... from 'tsvmm'` gives. Everything else may change without notice.

export { ConfigError, type ConfigErrorCode } from './config/config-error.js';
export { validateVmConfig } from './config/validate.js';
export type {
  BalloonConfig,
  ConsoleConfig,
  ConsoleMode,
  CpusConfig,
  DebugConsoleConfig,
  DiskConfig,
  MemoryConfig,
  NetConfig,
  PayloadConfig,
  PmemConfig,
  RateLimiterConfig,
  RngConfig,
  SerialConfig,
  VmConfig,
  VmConfigInput,
  VsockConfig,
} from './config/vm-config.js';
export { GUEST_AGENT } from './agent/binary.js';
export type { CopyOptions, CopyOutOptions, CopyProgress } from './agent/copy.js';
export { AgentError, type AgentErrorCode } from './agent/errors.js';
export type { GuestAgent, RequestOptions } from './agent/guest-agent.js';
export type { GuestMetrics } from './agent/metrics.js';
export type { ExecExit, ExecOptions, GuestProcess, RunOptions, RunResult, TerminalSize } from './agent/program.js';
export type { PublishedPort, PublishOptions } from './agent/publish.js';
export { BootError } from './boot/errors.js';
export { buildImage, type ImageFormat, type ImageOptions, type ImageReport, type ImageSource } from './image/build.js';
export { ImageError, type ImageErrorCode } from './image/errors.js';
export { VmError, type VmErrorCode } from './vmm/errors.js';
export {
  ConsoleError,
  Vm,
  type ConsoleErrorCode,
  type ConsoleMatch,
  type LogLevel,
  type RestoreOptions,
  type StopOptions,
  type VmBalloon,
  type VmConsole,
  type VmConsoles,
  type VmEvent,
  type VmEventOf,
  type VmEvents,
  type VmEventType,
  type VmExit,
  type VmLog,
  type VmOptions,
  type VmVsock,
  type WaitOptions,
} from './vmm/vm.js';
export type { MetricFamily, MetricSample } from './vmm/metrics/family.js';
export { PROMETHEUS_CONTENT_TYPE, prometheusText } from './vmm/metrics/prometheus.js';
export type { SnapshotOverrides } from './vmm/snapshot/overrides.js';
export type { ConnectionInfo } from './vsock/connection-info.js';
export type { VsockCounterName, VsockCounterSnapshot } from './vsock/counters.js';
export { VsockError, type VsockErrorCode } from './vsock/in-process/errors.js';
export type { ConnectOptions } from './vsock/in-process/host.js';
export type { VsockServer, VsockServerEvents } from './vsock/in-process/server.js';
export type { VsockStream } from './vsock/in-process/stream.js';
