// Rules about numbers: what nearly every field that has one asks of it.

import { formatBytes } from '../../platform/units.js';
import type { Complain } from './rule.js';

export interface Range {
  readonly min: number;
  readonly max: number;
  /** What is counted, in the plural: `queues`. */
  readonly unit: string;
}

/** `value` is a whole number of something within a range. */
export function checkCount(complain: Complain, field: string, value: number, { min, max, unit }: Range): void {
  const mend = `Use ${min} to ${max}.`;
  if (!Number.isInteger(value)) {
    complain(field, value, { code: 'WRONG_TYPE', problem: `${value} is not a whole number of ${unit}`, mend });
  }
  if (value < min || value > max) {
    const problem = `${value} ${unit} are too ${value < min ? 'few' : 'many'}`;
    complain(field, value, { code: 'OUT_OF_RANGE', problem, mend });
  }
}

export function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value));
}

/** The descriptors of a virtqueue (virtio 1.2, 2.7: a power of two), `value` being a count in range already. */
export function checkPowerOfTwo(complain: Complain, field: string, value: number): void {
  if (isPowerOfTwo(value)) return;
  const below = 2 ** Math.floor(Math.log2(value));
  complain(field, value, {
    code: 'OUT_OF_RANGE',
    problem: `${value} is not a power of two`,
    mend: `Use ${below} or ${2 * below}.`,
  });
}

/** `value` bytes are a multiple of `unit` bytes, which are `called` something. */
export function checkMultiple(complain: Complain, field: string, value: number, unit: number, called: string): void {
  if (value % unit === 0) return;
  const below = Math.floor(value / unit) * unit;
  complain(field, value, {
    code: 'OUT_OF_RANGE',
    problem: `${value} bytes (${formatBytes(value)}) are not a multiple of ${called}, ${unit}`,
    mend: `Use ${below === 0 ? '' : `${below} or `}${below + unit}.`,
  });
}
