// Rules for guest memory and the balloon, which takes from it. Whether the host has as much is found out when it is
// allocated.

import { GIB, formatBytes, MIB, PAGE_SIZE } from '../../platform/units.js';
import type { BalloonConfig, MemoryConfig } from '../vm-config.js';
import { checkMultiple } from './numbers.js';
import type { Complain } from './rule.js';

/** x86-64 guest-physical addresses have at most 52 bits. Whether the host can map that much is found out when it does. */
const MAX_MEMORY = 2 ** 52;

/** What x86-64 has, besides ordinary pages. */
const HUGEPAGE_SIZES: readonly number[] = [2 * MIB, GIB];

export function checkMemory(memory: MemoryConfig, complain: Complain): void {
  const { size, hugepages = false, hugepage_size } = memory;
  if (!Number.isFinite(size) || size > MAX_MEMORY) {
    complain('memory.size', size, {
      code: 'OUT_OF_RANGE',
      problem: `${size} bytes are more than any guest can address`,
      mend: `Use less than the host has, for instance ${512 * MIB} (512M).`,
    });
  }
  if (size <= 0) {
    complain('memory.size', size, {
      code: 'OUT_OF_RANGE',
      problem: size === 0 ? 'a guest without memory cannot run' : `${size} is negative`,
      mend: `Use for instance ${512 * MIB} (512M).`,
    });
  }
  if (hugepage_size !== undefined) checkHugepageSize(hugepage_size, hugepages, complain);
  if (hugepages) {
    // Whichever size the host's default is, it is a multiple of the smaller.
    checkMultiple(complain, 'memory.size', size, hugepage_size ?? 2 * MIB, 'the huge page size');
  } else checkMultiple(complain, 'memory.size', size, PAGE_SIZE, 'the page size');
  checkMergeable(memory, complain);
}

function checkHugepageSize(size: number, hugepages: boolean, complain: Complain): void {
  if (!hugepages) {
    complain('memory.hugepage_size', size, {
      code: 'CONFLICT',
      problem: 'huge pages have a size, but are not switched on',
      mend: 'Switch hugepages on, or leave hugepage_size out.',
    });
  }
  if (!HUGEPAGE_SIZES.includes(size)) {
    complain('memory.hugepage_size', size, {
      code: 'OUT_OF_RANGE',
      problem: `there are no pages of ${size} bytes`,
      mend: `Use ${HUGEPAGE_SIZES.map((each) => `${each} (${formatBytes(each)})`).join(' or ')}.`,
    });
  }
}

/** KSM looks at private, ordinary pages only: madvise(2), MADV_MERGEABLE. */
function checkMergeable({ mergeable, shared, hugepages }: MemoryConfig, complain: Complain): void {
  const obstacle = shared === true ? 'shared' : hugepages === true ? 'hugepages' : undefined;
  if (mergeable !== true || obstacle === undefined) return;
  complain('memory.mergeable', mergeable, {
    code: 'CONFLICT',
    problem: `the host merges private pages of ordinary size only, and ${obstacle} is on`,
    mend: `Switch off mergeable or ${obstacle}.`,
  });
}

export function checkBalloon({ size }: BalloonConfig, memory: number, complain: Complain): void {
  const field = 'balloon.size';
  if (size < 0) {
    complain(field, size, { code: 'OUT_OF_RANGE', problem: `${size} is negative`, mend: `Use 0 to ${memory}.` });
  }
  if (!Number.isFinite(size) || size > memory) {
    complain(field, size, {
      code: 'OUT_OF_RANGE',
      problem: `${size} bytes are more than the guest's memory, ${memory}`,
      mend: 'Take less, and leave the guest enough to run with.',
    });
  }
  checkMultiple(complain, field, size, PAGE_SIZE, 'the page size');
}
