/**
 * The agent in a Linux guest: programs, file copies, published ports, services of the host, load. `vm.agent` needs a vsock device and
 * `tsvmm-agent` running in the guest ([docs/agent.md](../agent.md)).
 *
 * @module guest-agent
 */

export { GUEST_AGENT } from '../agent/binary.js';
export type { CopyOptions, CopyOutOptions, CopyProgress } from '../agent/copy.js';
export { AgentError, type AgentErrorCode } from '../agent/errors.js';
export type { GuestAgent, RequestOptions } from '../agent/guest-agent.js';
export type { GuestMetrics } from '../agent/metrics.js';
export type { ExecExit, ExecOptions, GuestProcess, RunOptions, RunResult, TerminalSize } from '../agent/program.js';
export { agentAt, type DistantAgent } from '../agent/unix-transport.js';
export type { PublishBase, PublishedPort, PublishOptions, PublishVsockOptions } from '../agent/publish.js';
export type { ExposeBase, ExposedService, ExposeHandler, ExposeOptions, ExposeTarget } from '../agent/services.js';
