// All devices of a configuration, in the order of their register pages. Main thread.

import type { VmConfig } from '../config/vm-config.js';
import type { AttachContext, AttachedDevice } from './attach/attached-device.js';
import { attachVsock, type AttachedVsock, type VsockInsight } from './attach/vsock.js';
import type { Consoles } from './consoles/consoles.js';
import type { DeviceMemorySpace } from './device-memory.js';
import { rngOf } from './device-plan.js';

export interface AttachedDevices {
  readonly all: readonly AttachedDevice[];
  readonly vsock: AttachedVsock | undefined;
}

/** Opens what the devices need of the host; the code for a kind is loaded when there is one. Rejects with VmError. */
export async function attachDevices(
  config: VmConfig,
  vsock: VsockInsight,
  context: AttachContext,
  space: DeviceMemorySpace,
  consoles: Consoles,
): Promise<AttachedDevices> {
  const all: AttachedDevice[] = [];
  const attachedVsock = config.vsock === undefined ? undefined : attachVsock(config.vsock, vsock, context);
  if (attachedVsock !== undefined) all.push(attachedVsock.device);
  const { disks = [], net: cards = [], pmem = [], balloon } = config;
  if (disks.length > 0) {
    const { attachBlock } = await import('./attach/block.js');
    disks.forEach((disk, index) => all.push(attachBlock(disk, index, context)));
  }
  if (cards.length > 0) {
    const { attachNet } = await import('./attach/net.js');
    cards.forEach((card, index) => all.push(attachNet(card, index, context)));
  }
  if (pmem.length > 0) {
    const { attachPmem } = await import('./attach/pmem.js');
    pmem.forEach((file, index) => all.push(attachPmem(file, index, context, space)));
  }
  const rng = rngOf(config);
  if (rng !== undefined) {
    const { attachRng } = await import('./attach/rng.js');
    all.push(attachRng(rng, context));
  }
  if (balloon !== undefined) {
    const { attachBalloon } = await import('./attach/balloon.js');
    all.push(attachBalloon(balloon));
  }
  if (consoles.device !== undefined) all.push(consoles.device);
  return { all, vsock: attachedVsock };
}
