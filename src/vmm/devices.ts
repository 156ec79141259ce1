// All devices of a configuration, in the order of their register pages. Main thread.

import type { VmConfig } from '../config/vm-config.js';
import type { AttachContext, AttachedDevice } from './attach/attached-device.js';
import { attachBalloon } from './attach/balloon.js';
import { attachBlock } from './attach/block.js';
import { attachNet } from './attach/net.js';
import { attachPmem } from './attach/pmem.js';
import { attachRng } from './attach/rng.js';
import { attachVsock, type AttachedVsock, type VsockInsight } from './attach/vsock.js';
import type { Consoles } from './consoles/consoles.js';
import type { DeviceMemorySpace } from './device-memory.js';
import { rngOf } from './device-plan.js';

export interface AttachedDevices {
  readonly all: readonly AttachedDevice[];
  readonly vsock: AttachedVsock | undefined;
}

/** Opens what the devices need of the host. Throws VmError. */
export function attachDevices(
  config: VmConfig,
  vsock: VsockInsight,
  context: AttachContext,
  space: DeviceMemorySpace,
  consoles: Consoles,
): AttachedDevices {
  const all: AttachedDevice[] = [];
  const attachedVsock = config.vsock === undefined ? undefined : attachVsock(config.vsock, vsock, context);
  if (attachedVsock !== undefined) all.push(attachedVsock.device);
  config.disks?.forEach((disk, index) => all.push(attachBlock(disk, index, context)));
  config.net?.forEach((net, index) => all.push(attachNet(net, index, context)));
  config.pmem?.forEach((pmem, index) => all.push(attachPmem(pmem, index, context, space)));
  const rng = rngOf(config);
  if (rng !== undefined) all.push(attachRng(rng, context));
  if (config.balloon !== undefined) all.push(attachBalloon(config.balloon));
  if (consoles.device !== undefined) all.push(consoles.device);
  return { all, vsock: attachedVsock };
}
