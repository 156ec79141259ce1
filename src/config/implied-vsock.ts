// The vsock device of a machine that has ports without a network and says nothing of vsock.

import { MIN_GUEST_CID } from './rules/vsock.js';
import type { VmConfig } from './vm-config.js';

/** Nobody chose a context id; one VM's guest cannot see another's, so all may have the same. */
const DEFAULT_CID = MIN_GUEST_CID;

/** `config`, with a vsock device if what it asks for goes over one. Not for a saved machine, which has one or not. */
export function withImpliedVsock(config: VmConfig): VmConfig {
  return config.vsock === undefined && needsVsock(config) ? { ...config, vsock: { cid: DEFAULT_CID } } : config;
}

/** Whether there are ports or services that are carried by vsock. */
function needsVsock({ publish = [], host_services = [] }: VmConfig): boolean {
  return publish.length + host_services.length > 0;
}
