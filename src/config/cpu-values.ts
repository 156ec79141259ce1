// Kinds of value about processors: topologies, and the host CPUs that a vCPU may run on.

import { showValue } from './config-error.js';
import { GrammarError, parseList, quoted, unquote } from './option-grammar.js';
import { ValueError, type ValueKind } from './values.js';
import type { CpuAffinityConfig, CpuTopologyConfig } from './vm-config.js';

/** `2:4:1:1`: threads a core, cores a die, dies a package, packages. */
export const cpuTopology: ValueKind<CpuTopologyConfig> = {
  metavar: 'T:C:D:P',
  parse: (given) => {
    const value = unquote(given);
    const match = /^([0-9]+):([0-9]+):([0-9]+):([0-9]+)$/.exec(value);
    if (match === null) {
      throw new ValueError({
        code: 'WRONG_TYPE',
        problem: `${showValue(value)} is not four numbers with colons between them`,
        mend: 'Write threads a core, cores a die, dies a package and packages, like 2:4:1:1.',
      });
    }
    const [threads_per_core = 0, cores_per_die = 0, dies_per_package = 0, packages = 0] = match.slice(1).map(Number);
    return { threads_per_core, cores_per_die, dies_per_package, packages };
  },
};

/** Above what any kernel is built for (NR_CPUS): keeps a slip in a range from becoming a very long list. */
export const MAX_HOST_CPU = 8191;

/** Numbers and ranges of numbers: `[0-3,7]`, brackets only around several. */
export const cpuList: ValueKind<number[]> = {
  metavar: '[N,N-N,...]',
  parse: (given) => {
    const elements = parseList(unquote(given));
    if (elements.length === 0) throw noCpuList(given, 'names no host CPU');
    return elements.flatMap((element) => {
      const match = /^([0-9]+)(?:-([0-9]+))?$/.exec(element);
      if (match === null) throw noCpuList(element, 'is neither a number nor a range of numbers');
      const first = Number(match[1]);
      const last = Number(match.at(2) ?? first);
      if (last < first) throw noCpuList(element, 'ends before it begins');
      if (last > MAX_HOST_CPU)
        throw noCpuList(element, `goes beyond ${MAX_HOST_CPU}, the last CPU that Linux can have`);
      return Array.from({ length: last - first + 1 }, (_, index) => first + index);
    });
  },
};

function noCpuList(given: string, problem: string): ValueError {
  const mend = 'Write the host CPUs like [0-3,7].';
  return new ValueError({ code: 'WRONG_TYPE', problem: `${showValue(given)} ${problem}`, mend });
}

/** The host CPUs of one vCPU: `0@[0-3,7]`. */
export const cpuAffinity: ValueKind<CpuAffinityConfig> = {
  metavar: 'VCPU@[N,N-N,...]',
  parse: (given) => {
    const value = unquote(given);
    const match = /^([0-9]+)@(.*)$/s.exec(value);
    if (match === null) {
      throw new ValueError({
        code: 'WRONG_TYPE',
        problem: `${showValue(value)} is not a vCPU and its host CPUs with an @ between them`,
        mend: 'Write it like 0@[0-3,7].',
      });
    }
    try {
      return { vcpu: Number(match[1]), host_cpus: cpuList.parse(quoted(match[2])) };
    } catch (error) {
      // Brackets inside quotes are only looked at here.
      if (error instanceof GrammarError) throw noCpuList(match[2], `cannot be read: ${error.problem}`);
      throw error;
    }
  },
};
