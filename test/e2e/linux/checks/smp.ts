// Several processors in a Linux guest: each runs what is pinned to it, has a timer of its own, and is interrupted by others.

import { expect } from '@jest/globals';
import type { LinuxGuest } from '../../../support/linux-guest.js';

/** Enough work that several timer ticks pass, in user mode, which is fast everywhere. */
const TURNS = 300_000;
/** The field of /proc/PID/stat that says on which processor a process ran last. */
const STAT_PROCESSOR = 39;

/** For a VM with `cpus` vCPUs. */
export async function checkProcessors(guest: LinuxGuest, cpus: number): Promise<void> {
  expect(await guest.run('read online < /sys/devices/system/cpu/online; echo $online')).toBe(`0-${cpus - 1}`);
  const before = await interrupts(guest, cpus);

  const spin = `i=0; while [ $i -lt ${TURNS} ]; do i=$((i + 1)); done`;
  const where = `set -- $(cat /proc/$$/stat); shift ${STAT_PROCESSOR - 1}`;
  const jobs = Array.from({ length: cpus }, (_, cpu) => {
    const mask = (1 << cpu).toString(16);
    return `taskset ${mask} sh -c '${spin}; ${where}; echo "pinned to ${cpu}, ran on $1"' &`;
  });
  const report = await guest.run(`${jobs.join(' ')} wait`);
  const after = await interrupts(guest, cpus);
  for (let cpu = 0; cpu < cpus; cpu++) {
    expect(report).toContain(`pinned to ${cpu}, ran on ${cpu}`);
    // LOC: the processor's own timer. CAL: what others asked of it; all were, when they were brought up at the latest.
    expect(after.get('LOC')?.[cpu]).toBeGreaterThan(before.get('LOC')?.[cpu] ?? Infinity);
    expect(after.get('CAL')?.[cpu]).toBeGreaterThan(0);
  }
}

/** The rows of /proc/interrupts: a count for each processor. */
export async function interrupts(guest: LinuxGuest, cpus: number): Promise<Map<string, number[]>> {
  const table = await guest.run('cat /proc/interrupts');
  return new Map(
    [...table.matchAll(/^ *(\w+):((?: +\d+)+)/gm)].map(([, name, counts]) => [
      name,
      counts.trim().split(/ +/).map(Number).slice(0, cpus),
    ]),
  );
}
