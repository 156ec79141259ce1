/**
 * What a virtual machine is to be: the shape of Cloud Hypervisor's `VmConfig`, and what is said when it is wrong.
 *
 * Sizes are in bytes. Paths are of the host, and relative ones are looked up from the working directory of the process.
 *
 * @module configuration
 */

export { ConfigError, type ConfigErrorCode } from '../config/config-error.js';
export { validateVmConfig } from '../config/validate.js';
export type {
  BalloonConfig,
  ConsoleConfig,
  ConsoleMode,
  CpuAffinityConfig,
  CpuFeaturesConfig,
  CpusConfig,
  CpuTopologyConfig,
  DebugConsoleConfig,
  DiskConfig,
  HostServiceConfig,
  MemoryConfig,
  NetConfig,
  PayloadConfig,
  PmemConfig,
  PublishConfig,
  RateLimiterConfig,
  RngConfig,
  SerialConfig,
  TokenBucketConfig,
  VmConfig,
  VmConfigInput,
  VsockConfig,
  VsockPeerConfig,
} from '../config/vm-config.js';
