/**
 * Sockets between this process and the guest, without a network and without a socket in the file system.
 *
 * @module vsock
 */

export type { VmVsock } from '../vmm/vm-vsock.js';
export type { ConnectionInfo } from '../vsock/connection-info.js';
export type { VsockCounterName, VsockCounterSnapshot } from '../vsock/counters.js';
export type { EndReason } from '../vsock/endpoint.js';
export { VsockError, type VsockErrorCode } from '../vsock/in-process/errors.js';
export type { ConnectOptions } from '../vsock/in-process/host.js';
export type { VsockServer, VsockServerEvents } from '../vsock/in-process/server.js';
export type { VsockStream } from '../vsock/in-process/stream.js';
