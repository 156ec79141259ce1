// The balloon in a Linux guest: memory that the guest gives up is gone from this process. For a VM with `balloon` of size
// 0 and private memory without transparent huge pages.

import { setTimeout } from 'node:timers/promises';
import { expect } from '@jest/globals';
import { GuestMemory, type ChunkView } from '../../../../src/platform/guest-memory.js';
import { populatePages } from '../../../../src/platform/memory-backing.js';
import { MIB, PAGE_SIZE } from '../../../../src/platform/units.js';
import type { Hardware } from '../../../../src/vmm/hardware.js';
import type { Vm } from '../../../../src/vmm/vm.js';
import type { LinuxGuest } from '../../../support/linux-guest.js';
import { residentBytes } from '../../../support/mappings.js';
import { counter } from './counters.js';

const BALLOON = 8 * MIB;

/** A guest whose kernel mode is emulated takes some milliseconds a page. */
const BALLOON_LIMIT_MS = 120_000;
const POLL_MS = 50;

/** Inflates the balloon, sees memory come back to the host, and lets the guest have it again. */
export async function checkBalloon(guest: LinuxGuest, vm: Vm): Promise<void> {
  const total = async (): Promise<number> => {
    const meminfo = await guest.run('cat /proc/meminfo');
    return Number(/^MemTotal: +(\d+) kB/m.exec(meminfo)?.[1]) * 1024;
  };
  const { memory, balloon } = vm.config;
  const totalBefore = await total();
  // Memory that the guest has not touched yet would not be missed.
  for (const { hostAddress, bytes } of ramOf(vm)) populatePages(hostAddress, bytes, PAGE_SIZE);
  expect(residentRam(vm)).toBe(memory.size);

  const returnedBytes = counter(vm, '_balloon', 'returnedBytes');
  vm.balloon.resize(BALLOON);
  await actualBytes(vm, BALLOON);
  expect(counter(vm, '_balloon', 'returnedBytes') - returnedBytes).toBeGreaterThanOrEqual(BALLOON);
  // The guest touches pages that it gave up or reported as free only by taking them back.
  expect(residentRam(vm)).toBeLessThanOrEqual(memory.size - BALLOON);
  // Memory that it may take back by itself still counts as the guest's.
  expect(totalBefore - (await total())).toBe(balloon?.deflate_on_oom === true ? 0 : BALLOON);

  const statisticsUpdates = counter(vm, '_balloon', 'statisticsUpdates');
  vm.balloon.refreshStatistics();
  await until(() => counter(vm, '_balloon', 'statisticsUpdates') > statisticsUpdates);
  expect(counter(vm, '_balloon', 'freeBytes')).toBeGreaterThan(0);
  expect(counter(vm, '_balloon', 'freeBytes')).toBeLessThan(memory.size - BALLOON);

  vm.balloon.resize(0);
  await actualBytes(vm, 0);
  expect(await total()).toBe(totalBefore);
  for (const name of ['faults', 'ignoredPages', 'failedReturns']) {
    expect([name, counter(vm, '_balloon', name)]).toEqual([name, 0]);
  }
}

function ramOf(vm: Vm): readonly ChunkView[] {
  return new GuestMemory((vm as unknown as { readonly life: { readonly built: Hardware } }).life.built.memory.map)
    .chunks;
}

/** Bytes of guest RAM that this process has in memory. */
function residentRam(vm: Vm): number {
  return ramOf(vm).reduce((sum, { hostAddress, size }) => sum + residentBytes(hostAddress, size), 0);
}

async function actualBytes(vm: Vm, bytes: number): Promise<void> {
  await until(() => counter(vm, '_balloon', 'actualBytes') === bytes);
}

/** Waits until `done`, in the host alone: the guest has enough to do. */
async function until(done: () => boolean): Promise<void> {
  const deadline = performance.now() + BALLOON_LIMIT_MS;
  while (!done()) {
    if (performance.now() > deadline) throw new Error('the balloon has not got there in time');
    await setTimeout(POLL_MS);
  }
}
