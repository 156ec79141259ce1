// The balloon on the main thread: it needs nothing of the host but the guest's memory.

import type { BalloonConfig } from '../../config/vm-config.js';
import { BALLOON_COUNTERS, balloonIdentity, type BalloonSettings } from '../../devices/balloon/settings.js';
import type { AttachedDevice } from './attached-device.js';

/** The balloon's id in commands and counters: there is one at most. */
export const BALLOON_ID = '_balloon';

export function attachBalloon(config: BalloonConfig): AttachedDevice<BalloonSettings> {
  const { size, deflate_on_oom: deflateOnOom = false, free_page_reporting: freePageReporting = false } = config;
  return {
    id: BALLOON_ID,
    identity: balloonIdentity({ size, deflateOnOom, freePageReporting }),
    settings: { kind: 'balloon', size },
    counterNames: BALLOON_COUNTERS,
  };
}
