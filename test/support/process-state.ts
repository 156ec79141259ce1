// What this process holds: for tests that count leaks.

import { readdirSync, readFileSync } from 'node:fs';

export function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

export function threads(): number {
  return readdirSync('/proc/self/task').length;
}

/** Mappings of guest memory or KVM in this process. */
export function guestMappings(): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('tsvmm-guest-ram') || line.includes('kvm-vcpu')).length;
}

/** Waits until `condition` holds; fails after `limitMs`, saying `what` did not come true. */
export async function eventually(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs = 10_000,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`${what}: not within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
