// A device's counters, by name.

import type { Vm } from '../../../../src/vmm/vm.js';

/** What device `id` has counted under `name`. Throws when there is no such thing. */
export function counter(vm: Vm, id: string, name: string): number {
  const counters: Partial<Record<string, Partial<Record<string, number>>>> = vm.counters();
  const value = counters[id]?.[name];
  if (value === undefined) throw new Error(`${id} has no counter ${name}`);
  return value;
}
