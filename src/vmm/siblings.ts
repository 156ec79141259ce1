// The VMs of this process that can reach each other: found by socket path and CID, as their configurations name them, or
// joined by their owner. Main thread.
//
// This is the one thing that VMs of a process share: without it a guest would reach its neighbour through a socket in the
// file system and be seen as the host.

import { resolve } from 'node:path';
import type { VsockConfig } from '../config/vm-config.js';
import type { VsockHost } from '../vsock/in-process/host.js';

interface Member {
  readonly host: VsockHost;
  readonly config: VsockConfig;
}

const members = new Set<Member>();

/** Joins a VM with those there are, each way for itself. Returns the function that takes it out again. */
export function registerSibling(host: VsockHost, config: VsockConfig): () => void {
  const member = { host, config };
  for (const other of members) {
    if (names(config, other.config)) host.addSibling(other.host);
    if (names(other.config, config)) other.host.addSibling(host);
  }
  members.add(member);
  return () => {
    members.delete(member);
    for (const other of members) other.host.removeSibling(host);
  };
}

/** Whether `config` lists the VM that `other` configures. */
function names(config: VsockConfig, other: VsockConfig): boolean {
  const { cid, socket } = other;
  if (socket === undefined) return false;
  return (config.peers ?? []).some((peer) => peer.cid === cid && resolve(peer.socket) === resolve(socket));
}
