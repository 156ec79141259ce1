// The entropy device in a Linux guest. For a VM with `rng`.

import { expect } from '@jest/globals';
import type { LinuxGuest } from '../../../support/linux-guest.js';
import type { Vm } from '../../../../src/vmm/vm.js';
import { counter } from './counters.js';

const BYTES = 64;

/** The guest's hardware random number generator is the device, and gives different bytes each time. */
export async function checkRng(guest: LinuxGuest, vm: Vm): Promise<void> {
  expect(await guest.run('cat /sys/class/misc/hw_random/rng_current')).toMatch(/^virtio_rng/);
  const read = `dd if=/dev/hwrng bs=${BYTES} count=1 iflag=fullblock 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'`;
  const before = counter(vm, '_rng', 'bytes');
  const first = await guest.run(read);
  const second = await guest.run(read);
  for (const bytes of [first, second]) expect(bytes).toMatch(new RegExp(`^[0-9a-f]{${2 * BYTES}}$`));
  expect(first).not.toBe(second);
  expect(counter(vm, '_rng', 'bytes')).toBeGreaterThan(before);
}
