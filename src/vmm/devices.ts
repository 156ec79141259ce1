// All devices of a configuration, in the order of their register pages. Main thread.

import type { VmConfig } from '../config/vm-config.js';
import type { AttachContext, AttachedDevice } from './attach/attached-device.js';
import { attachBlock } from './attach/block.js';
import { attachNet } from './attach/net.js';
import { attachVsock, type AttachedVsock, type VsockInsight } from './attach/vsock.js';

export interface AttachedDevices {
  readonly all: readonly AttachedDevice[];
  readonly vsock: AttachedVsock | undefined;
}

/** Opens what the devices need of the host. Throws VmError. */
export function attachDevices(config: VmConfig, vsock: VsockInsight, context: AttachContext): AttachedDevices {
  const all: AttachedDevice[] = [];
  const attachedVsock = config.vsock === undefined ? undefined : attachVsock(config.vsock, vsock, context);
  if (attachedVsock !== undefined) all.push(attachedVsock.device);
  config.disks?.forEach((disk, index) => all.push(attachBlock(disk, index, context)));
  config.net?.forEach((net, index) => all.push(attachNet(net, index, context)));
  return { all, vsock: attachedVsock };
}
