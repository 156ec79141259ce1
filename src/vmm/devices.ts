// All devices of a configuration, in the order of their register pages. Main thread.

import type { VmConfig } from '../config/vm-config.js';
import type { AttachContext, AttachedDevice } from './attach/attached-device.js';
import type { AttachedVsock, VsockInsight } from './attach/vsock.js';
import type { Consoles } from './consoles/consoles.js';
import type { DeviceMemorySpace } from './device-memory.js';
import { rngOf } from './device-plan.js';

export interface AttachedDevices {
  readonly all: readonly AttachedDevice[];
  readonly vsock: AttachedVsock | undefined;
}

/** Code that attaches devices, by the section of the configuration; loaded when there is one. */
const load = {
  vsock: () => import('./attach/vsock.js'),
  disks: () => import('./attach/block.js'),
  net: () => import('./attach/net.js'),
  pmem: () => import('./attach/pmem.js'),
  rng: () => import('./attach/rng.js'),
  balloon: () => import('./attach/balloon.js'),
};

/** Loads ahead what `attachDevices` is going to need. */
export async function loadAttachments(config: VmConfig): Promise<void> {
  const { vsock, disks = [], net = [], pmem = [], balloon } = config;
  const needed: Record<keyof typeof load, boolean> = {
    vsock: vsock !== undefined,
    disks: disks.length > 0,
    net: net.length > 0,
    pmem: pmem.length > 0,
    rng: rngOf(config) !== undefined,
    balloon: balloon !== undefined,
  };
  const kinds = Object.keys(load) as (keyof typeof load)[];
  await Promise.all(kinds.filter((kind) => needed[kind]).map((kind) => load[kind]()));
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
  let attachedVsock: AttachedVsock | undefined;
  if (config.vsock !== undefined) {
    const { attachVsock } = await load.vsock();
    attachedVsock = attachVsock(config.vsock, vsock, context);
    all.push(attachedVsock.device);
  }
  const { disks = [], net: cards = [], pmem = [], balloon } = config;
  if (disks.length > 0) {
    const { attachBlock } = await load.disks();
    disks.forEach((disk, index) => all.push(attachBlock(disk, index, context)));
  }
  if (cards.length > 0) {
    const { attachNet } = await load.net();
    cards.forEach((card, index) => all.push(attachNet(card, index, context)));
  }
  if (pmem.length > 0) {
    const { attachPmem } = await load.pmem();
    pmem.forEach((file, index) => all.push(attachPmem(file, index, context, space)));
  }
  const rng = rngOf(config);
  if (rng !== undefined) {
    const { attachRng } = await load.rng();
    all.push(attachRng(rng, context));
  }
  if (balloon !== undefined) {
    const { attachBalloon } = await load.balloon();
    all.push(attachBalloon(balloon));
  }
  if (consoles.device !== undefined) all.push(consoles.device);
  return { all, vsock: attachedVsock };
}
