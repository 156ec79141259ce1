// A machine with an entropy device, a balloon and persistent memory: their memory slots, threads and registers beside a
// guest that does not use them. What Linux does with them is tested in test/e2e/linux.

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { GIB, MIB } from '../../../src/platform/units.js';
import { Vm } from '../../../src/vmm/vm.js';
import { endIdleThreads } from '../../../src/vmm/worker-pool.js';
import { describeKvm } from '../../support/kvm.js';
import { openDescriptors } from '../../support/process-state.js';
import { ConsoleRecorder, testConfig } from '../../support/vms.js';

describeKvm('the small devices', () => {
  test('do not disturb a guest that has no drivers for them, and leave nothing behind', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'tsvmm-small-'));
    const file = join(directory, 'pmem');
    writeFileSync(file, '');
    truncateSync(file, 3 * GIB);
    await endIdleThreads();
    const descriptors = openDescriptors();
    try {
      const vm = await Vm.create(
        testConfig({
          rng: { src: '/dev/urandom' },
          balloon: { size: 0, deflate_on_oom: true, free_page_reporting: true },
          pmem: [
            { file, id: 'disk' },
            { file: directory, size: 2 * MIB },
          ],
        }),
      );
      const console = new ConsoleRecorder(vm);
      await vm.start();
      await console.waitFor(/\S/);
      vm.balloon.resize(MIB);
      vm.balloon.refreshStatistics();
      expect(() => {
        vm.balloon.resize(MIB + 1);
      }).toThrow(/use a multiple of 4096/);
      expect(Object.keys(vm.counters()).sort()).toEqual(['_balloon', '_pmem1', '_rng', 'disk']);
      await vm.stop();
    } finally {
      rmSync(directory, { recursive: true });
    }
    await endIdleThreads();
    expect(openDescriptors()).toBe(descriptors);
  });

  test('a VM without a balloon says so', async () => {
    const vm = await Vm.create(testConfig({}));
    expect(() => vm.balloon).toThrow('the configuration has no balloon');
    await vm.stop();
  });
});
