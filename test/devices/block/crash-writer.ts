// A process of test/devices/block/crash.test.ts: a guest writes to a disk, flushes, and says so, again and again, until it
// is killed. Arguments: path, `direct` or `cached`, seed.

import { writeSync } from 'node:fs';
import { attachBlock } from '../../../src/vmm/attach/block.js';
import { ReleaseStack } from '../../../src/vmm/release-stack.js';
import { MIB } from '../../../src/platform/units.js';
import { BlockGuest, FLUSH, OK, OUT } from './block-guest.js';
import { sectorBytes, SECTORS_OF_CRASH_DISK, writesOf } from './crash-plan.js';

const [, , path, mode, seed] = process.argv;
const context = { resources: new ReleaseStack(), log: () => undefined };
const { settings } = attachBlock({ path, direct: mode === 'direct' }, 0, context);

for (let generation = 1; ;) {
  // Test memory is handed out once, so every now and then the driver starts anew.
  using guest = new BlockGuest({ settings, memorySize: 8 * MIB });
  for (let rounds = 0; rounds < 32; rounds++, generation++) {
    for (const { sector, count } of writesOf(Number(seed), generation)) {
      const data = new Uint8Array(512 * count);
      for (let index = 0; index < count; index++) data.set(sectorBytes(sector + index, generation), 512 * index);
      guest.add({ type: OUT, sector, data });
    }
    if (guest.do({ type: FLUSH }).status !== OK) throw new Error('a flush failed');
    writeSync(1, `${generation}\n`);
  }
  if (generation > 100_000) throw new Error(`nobody kills the writer of ${SECTORS_OF_CRASH_DISK} sectors`);
}
