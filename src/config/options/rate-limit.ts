// The keys of a rate limit, which disks and network cards have: a token bucket for bytes and one for operations.

import { type KeySpec, optional } from '../keyed-option.js';
import { byteSize, integer } from '../values.js';
import type { RateLimiterConfig, TokenBucketConfig } from '../vm-config.js';

type RateLimitKey =
  'bw_size' | 'bw_one_time_burst' | 'bw_refill_time' | 'ops_size' | 'ops_one_time_burst' | 'ops_refill_time';

/** The keys for a device whose operations are `operations`, in the section `device`: `disks[]`. */
export function rateLimitKeys(device: string, operations: string): Readonly<Record<RateLimitKey, KeySpec<number>>> {
  const bandwidth = `${device}.rate_limiter_config.bandwidth`;
  const ops = `${device}.rate_limiter_config.ops`;
  return {
    bw_size: optional(byteSize, `${bandwidth}.size`, 'Bytes that may pass in every bw_refill_time'),
    bw_one_time_burst: optional(byteSize, `${bandwidth}.one_time_burst`, 'Bytes on top of that, once'),
    bw_refill_time: optional(integer, `${bandwidth}.refill_time`, 'Milliseconds'),
    ops_size: optional(integer, `${ops}.size`, `${operations} that may pass in every ops_refill_time`),
    ops_one_time_burst: optional(integer, `${ops}.one_time_burst`, `${operations} on top of that, once`),
    ops_refill_time: optional(integer, `${ops}.refill_time`, 'Milliseconds'),
  };
}

/** A bucket is its size and its time; a burst comes on top of one. */
export const RATE_LIMIT_NEEDS = {
  bw_size: ['bw_refill_time'],
  bw_one_time_burst: ['bw_size', 'bw_refill_time'],
  bw_refill_time: ['bw_size'],
  ops_size: ['ops_refill_time'],
  ops_one_time_burst: ['ops_size', 'ops_refill_time'],
  ops_refill_time: ['ops_size'],
} as const satisfies Record<RateLimitKey, readonly RateLimitKey[]>;

export type RateLimitValues = Readonly<Record<RateLimitKey, number | undefined>>;

/** The section that the keys make; nothing when none was given. */
export function rateLimiter(values: RateLimitValues): { rate_limiter_config?: RateLimiterConfig } {
  const bandwidth = bucket(values.bw_size, values.bw_one_time_burst, values.bw_refill_time);
  const ops = bucket(values.ops_size, values.ops_one_time_burst, values.ops_refill_time);
  if (bandwidth === undefined && ops === undefined) return {};
  return { rate_limiter_config: { ...(bandwidth && { bandwidth }), ...(ops && { ops }) } };
}

function bucket(
  size: number | undefined,
  one_time_burst: number | undefined,
  refill_time: number | undefined,
): TokenBucketConfig | undefined {
  if (size === undefined || refill_time === undefined) return undefined;
  return { size, ...(one_time_burst !== undefined && { one_time_burst }), refill_time };
}
