// The balloon of a VM, as the library shows it. Main thread.

import type { VmConfig } from '../config/vm-config.js';
import { PAGE_SIZE } from '../platform/units.js';
import { BALLOON_ID } from './attach/balloon.js';
import type { DeviceSet } from './device-set.js';

/** Memory that the guest gives up to the host, which `vm.counters()` tells of under `_balloon`. */
export interface VmBalloon {
  /**
   * Asks the guest to give up `size` bytes in all, a multiple of 4096, at most its memory. It does so in its own time, as
   * far as it can. Throws RangeError.
   */
  resize(size: number): void;
  /** Asks the guest for new statistics. `statisticsUpdates` counts when they have come. */
  refreshStatistics(): void;
}

/** The balloon of a VM that may have none. Throws Error. */
export function balloonOrThrow({ memory, balloon }: VmConfig, devices: DeviceSet): VmBalloon {
  if (balloon === undefined) throw new Error('the configuration has no balloon');
  return {
    resize: (size) => {
      if (!Number.isInteger(size / PAGE_SIZE) || size < 0 || size > memory.size) {
        throw new RangeError(`a balloon of ${size} bytes cannot be; use a multiple of 4096, at most ${memory.size}`);
      }
      devices.command(BALLOON_ID, { type: 'resize-balloon', size });
    },
    refreshStatistics: () => {
      devices.command(BALLOON_ID, { type: 'refresh-balloon-statistics' });
    },
  };
}
