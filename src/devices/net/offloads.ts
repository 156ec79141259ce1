// Which work of a network card a guest leaves to the other side: virtio 1.2, section 5.1.3.1 (features that need others)
// and 5.1.6.5.6 (what the driver may change later).

import { TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_UFO } from '../../platform/tap.js';
import { hasFeature, type FeatureWords } from '../virtio/device.js';
import { OFFLOAD_FEATURES } from './settings.js';

/** `offloads`, a mask of TUN_F_…, without those whose precondition is not among them: the kernel takes no other masks. */
export function consistent(offloads: number): number {
  if ((offloads & TUN_F_CSUM) === 0) return 0;
  return (offloads & (TUN_F_TSO4 | TUN_F_TSO6)) === 0 ? offloads & ~TUN_F_TSO_ECN : offloads;
}

/** What a guest with these features can receive. */
export function receiveOffloads(features: FeatureWords): number {
  return consistent(accepted(features, 'guest'));
}

/** What a guest with these features may send. */
export function sendOffloads(features: FeatureWords): number {
  return consistent(accepted(features, 'host'));
}

function accepted(features: FeatureWords, side: 'guest' | 'host'): number {
  let mask = 0;
  for (const each of OFFLOAD_FEATURES) if (hasFeature(features, each[side])) mask |= each.offload;
  return mask;
}

/**
 * The receiving side that the driver asks for by the low word of VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, where it may only
 * have what it negotiated; `undefined` when it asks for more, or for what makes no sense.
 */
export function requestedOffloads(word: number, negotiated: number): number | undefined {
  let mask = 0;
  let known = 0;
  for (const { offload, guest } of OFFLOAD_FEATURES) {
    known |= 1 << guest;
    if ((word & (1 << guest)) !== 0) mask |= offload;
  }
  if ((word & ~known) !== 0 || (mask & ~negotiated) !== 0 || consistent(mask) !== mask) return undefined;
  return mask;
}

/** All that a tap is asked to do here. */
export const ALL_OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO;
